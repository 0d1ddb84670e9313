"""A stand-in for 1C, which is the one that calls: it fetches orders, confirms them, and sends back what became of them.

It is as strict as 1C: an answer that isn't `success`, a missing cookie, XML that is not CommerceML 2, an encoding that
is not the one that the answer names, a field that is missing or an amount that doesn't add up ends the exchange with
OneCError, and nothing of it is taken.
"""

from __future__ import annotations

import io
import re
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Literal, Self, cast
from xml.sax.saxutils import escape

import httpx

# lxml comes without types.
from lxml import etree as _etree  # pyright: ignore[reportMissingTypeStubs, reportAttributeAccessIssue, reportUnknownVariableType]

etree = cast("Any", _etree)

_ROOT = "КоммерческаяИнформация"
_CURRENCIES = frozenset({"руб", "грн", "RUB", "UAH", "CZK", "EUR", "USD", "RON"})
_FIELDS = ("Ид", "Номер", "Дата", "ХозОперация", "Роль", "Валюта", "Курс", "Сумма", "Время")
_ORDER_OF_FIELDS = (
    *("Ид", "Номер", "Дата", "ХозОперация", "Роль", "Валюта", "Курс", "Сумма", "Контрагенты", "Время"),
    *("Комментарий", "Налоги", "Скидки", "Товары", "ЗначенияРеквизитов"),
)


class OneCError(Exception):
    """The exchange ended with an error, as 1C shows it to who runs it."""


@dataclass(slots=True)
class TakenOrder:
    """An order as 1C has it; times counts how often it was given it."""

    id: str
    number: str
    total: Decimal
    currency: str
    buyer: str
    requisites: dict[str, str]
    lines: list[tuple[str, str, Decimal, Decimal]]
    """Each as id, title, quantity and sum."""
    times: int = 1


@dataclass(slots=True)
class Session:
    """A session that was begun: its cookie, and how files are to be sent."""

    cookie: tuple[str, str]
    zip: bool = False
    file_limit: int = 0


@dataclass(slots=True, kw_only=True)
class OneC:
    """A 1C whose exchange with a site is set to an address: `async with OneC(url=…, …) as onec: await onec.exchange()`.

    orders are those that it has taken, by their ids, and taken the ids in the order in which it was given them.
    sends_import is False for versions that end a file with no request of its own, encoding is what it writes in.
    """

    url: str
    username: str
    password: str
    encoding: Literal["windows-1251", "utf-8", "utf-8-sig"] = "windows-1251"
    sends_import: bool = True
    orders: dict[str, TakenOrder] = field(default_factory=dict[str, TakenOrder])
    taken: list[str] = field(default_factory=list[str])
    waiting: list[str] = field(default_factory=list[str])
    """Documents, as XML, that the next exchange sends."""
    now: datetime = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    _http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=30))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    # The dialogue

    async def exchange(self, *, until: Literal["query", "success", "file"] = "file") -> list[str]:
        """Do the whole exchange, or break it off after a step; return the ids of the orders that it was given."""
        session = await self.begin()
        given = await self.fetch(session)
        if until != "query":
            await self.confirm(session)
            if until == "file" and self.waiting:
                await self.send(session, self.file(*self.waiting))
                self.waiting.clear()
        return given

    async def begin(self) -> Session:
        """Begin a session: checkauth and init."""
        lines = await self._lines("checkauth", auth=httpx.BasicAuth(self.username, self.password))
        if len(lines) < 3 or lines[0] != "success" or not lines[1] or not lines[2]:
            raise OneCError(f"checkauth: {' '.join(lines)[:200]}")
        session = Session((lines[1], lines[2]))
        parts = [line.partition("=") for line in await self._lines("init", session)]
        told = {name: value for name, _, value in parts}
        if told.get("zip") not in ("yes", "no") or not told.get("file_limit", "").isdecimal():
            raise OneCError(f"init: {told}")
        session.zip, session.file_limit = told["zip"] == "yes", int(told["file_limit"])
        return session

    async def fetch(self, session: Session) -> list[str]:
        """Fetch orders and take them, each by its id: one that it has already is changed."""
        answer = await self._ask("query", session)
        found = [_order(document) for document in _documents(answer)]
        if len({order.id for order in found}) < len(found):
            raise OneCError("query: an order comes twice in one answer")
        for order in found:
            if (known := self.orders.get(order.id)) is not None:
                if known.number != order.number:
                    raise OneCError(f"order {order.id}: its number has changed")
                order.times = known.times + 1
            self.orders[order.id] = order
        ids = [order.id for order in found]
        self.taken += ids
        return ids

    async def confirm(self, session: Session) -> None:
        """Say that what was fetched was taken."""
        await self._success("success", session)

    async def send(self, session: Session, data: bytes, name: str = "orders-1") -> None:
        """Send a file in pieces as large as the site takes them, packed where it asked for that."""
        if session.zip:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{name}.xml", data)
            data = packed.getvalue()
        sent_as = f"{name}.zip" if session.zip else f"{name}.xml"
        for start in range(0, len(data), session.file_limit):
            piece = data[start : start + session.file_limit]
            await self._success("file", session, method="POST", content=piece, filename=sent_as)
        if self.sends_import:
            await self._success("import", session, filename=f"{name}.xml")

    async def _success(self, mode: str, session: Session, **options: Any) -> None:
        lines = await self._lines(mode, session, **options)
        if lines[0] != "success":
            raise OneCError(f"{mode}: {' '.join(lines)[:300]}")

    async def _lines(self, mode: str, session: Session | None = None, **options: Any) -> list[str]:
        answer = await self._ask(mode, session, **options)
        return [line.strip() for line in _text(answer).split("\n")]

    async def _ask(
        self,
        mode: str,
        session: Session | None = None,
        *,
        method: str = "GET",
        filename: str | None = None,
        content: bytes | None = None,
        auth: httpx.BasicAuth | None = None,
    ) -> httpx.Response:
        asked = {"type": "sale", "mode": mode} | ({"filename": filename} if filename else {})
        headers = {"Cookie": "=".join(session.cookie)} if session else {}
        answer = await self._http.request(
            method, self.url, params=asked, headers=headers, content=content, auth=auth, follow_redirects=False
        )
        if answer.status_code != 200:
            raise OneCError(f"{mode}: answered {answer.status_code}: {answer.text[:200]}")
        return answer

    # What it sends back

    def status(self, id_: str, **requisites: str) -> None:
        """Tell of an order that it has, at the next exchange; a _ in a requisite's name stands for a space."""
        order = self.orders[id_]
        self.waiting.append(
            self.document(order, requisites={name.replace("_", " "): value for name, value in requisites.items()})
        )

    def pay(
        self, id_: str, amount: str | None = None, *, document_id: str | None = None, carried_out: bool = True
    ) -> str:
        """Book a payment of an order, in a document of payment of its own; return that document's id."""
        order, document_id = self.orders[id_], document_id or str(uuid.uuid4())
        said = {"Проведен": "true" if carried_out else "false", "Оплачен": "true"}
        paid = TakenOrder(
            document_id, "000000017", Decimal(amount) if amount else order.total, order.currency, "", {}, []
        )
        self.waiting.append(self.document(paid, operation="Выплата безналичных денег", basis=order.id, requisites=said))
        return document_id

    def document(
        self,
        order: TakenOrder,
        *,
        operation: str = "Заказ товара",
        basis: str = "",
        requisites: Mapping[str, str],
    ) -> str:
        """Return a document as 1C writes it."""
        said = "".join(
            f"<ЗначениеРеквизита><Наименование>{escape(name)}</Наименование><Значение>{escape(value)}</Значение>"
            "</ЗначениеРеквизита>"
            for name, value in requisites.items()
        )
        return (
            f"<Документ><Ид>{escape(order.id)}</Ид><Номер>{escape(order.number)}</Номер>"
            f"<Дата>{self.now:%Y-%m-%d}</Дата><ХозОперация>{operation}</ХозОперация><Роль>Продавец</Роль>"
            f"<Валюта>{escape(order.currency)}</Валюта><Курс>1</Курс><Сумма>{order.total}</Сумма>"
            + (f"<Основание>{escape(basis)}</Основание>" if basis else "")
            + f"<Время>{self.now:%H:%M:%S}</Время><ЗначенияРеквизитов>{said}</ЗначенияРеквизитов></Документ>"
        )

    def file(self, *documents: str) -> bytes:
        """Return an exchange file with some documents, in 1C's encoding."""
        declared = "utf-8" if self.encoding == "utf-8-sig" else self.encoding
        return (
            f'<?xml version="1.0" encoding="{declared}"?>\r\n<{_ROOT} ВерсияСхемы="2.08" '
            f'ДатаФормирования="{self.now:%Y-%m-%dT%H:%M:%S}">{"".join(documents)}</{_ROOT}>\r\n'
        ).encode(self.encoding, errors="xmlcharrefreplace")


# What it takes


def _named_encoding(answer: httpx.Response) -> str:
    match = re.search(r"charset=([A-Za-z0-9-]+)", answer.headers.get("content-type", ""))
    if match is None:
        raise OneCError("the answer names no encoding")
    return match[1]


def _text(answer: httpx.Response) -> str:
    try:
        return answer.content.decode(_named_encoding(answer))
    except (LookupError, UnicodeDecodeError):
        raise OneCError("the answer is not in the encoding that it names") from None


def _documents(answer: httpx.Response) -> Sequence[Any]:
    text = _text(answer)
    declared = re.match(r"""<\?xml[^>]*encoding=["']([^"']+)["']""", text)
    if declared is None or declared[1].lower() != _named_encoding(answer).lower():
        raise OneCError("the XML declares another encoding than the answer")
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True)
    try:
        root = etree.fromstring(answer.content, parser)
    except SyntaxError as error:
        raise OneCError(f"it is no XML: {error.msg}") from None
    if root.tag != _ROOT or not re.fullmatch(r"2\.0[4-9]|2\.10", root.get("ВерсияСхемы", "")):
        raise OneCError("it is not CommerceML 2")
    if not re.fullmatch(r"[0-9-]{10}T[0-9:]{8}", root.get("ДатаФормирования", "")):
        raise OneCError("ДатаФормирования is missing")
    return [_in_order(document) for document in root.findall("Документ")]


def _in_order(document: Any) -> Any:
    """Return a document whose fields stand as the schema has them."""
    names = [child.tag for child in document]
    places = [_ORDER_OF_FIELDS.index(name) for name in names if name in _ORDER_OF_FIELDS]
    if len(places) < len(names) or places != sorted(set(places)):
        raise OneCError(f"the fields of a document are not those of the schema, in its order: {names}")
    return document


def _required(node: Any, path: str) -> str:
    text = (node.findtext(path) or "").strip()
    if not text:
        raise OneCError(f"{node.tag}: {path} is missing")
    return text


def _decimal(node: Any, path: str) -> Decimal:
    text = _required(node, path)
    if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,4})?", text):
        raise OneCError(f"{path}: “{text}” is no amount")
    return Decimal(text)


def _order(document: Any) -> TakenOrder:
    said = {name: _required(document, name) for name in _FIELDS}
    if (said["ХозОперация"], said["Роль"]) != ("Заказ товара", "Продавец"):
        raise OneCError("a document is no order")
    if said["Валюта"] not in _CURRENCIES:
        raise OneCError(f"the currency {said['Валюта']} is not in 1C")
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}", f"{said['Дата']} {said['Время']}"):
        raise OneCError("Дата or Время is no date or time")
    buyers = document.findall("Контрагенты/Контрагент")
    if [_required(buyer, "Роль") for buyer in buyers] != ["Покупатель"]:
        raise OneCError("the document has not one buyer")
    _required(buyers[0], "Ид")
    lines = [_line(line) for line in document.findall("Товары/Товар")]
    off = sum((_decimal(one, "Сумма") for one in document.findall("Скидки/Скидка")), Decimal(0))
    total = _decimal(document, "Сумма")
    if not lines or sum((line[3] for line in lines), Decimal(0)) - off != total:
        raise OneCError(f"order {said['Номер']}: its goods don't come to its sum")
    return TakenOrder(
        id=said["Ид"],
        number=said["Номер"],
        total=total,
        currency=said["Валюта"],
        buyer=_required(buyers[0], "Наименование"),
        requisites={
            _required(one, "Наименование"): (one.findtext("Значение") or "").strip()
            for one in document.findall("ЗначенияРеквизитов/ЗначениеРеквизита")
        },
        lines=lines,
    )


def _line(line: Any) -> tuple[str, str, Decimal, Decimal]:
    quantity, price, total = (_decimal(line, name) for name in ("Количество", "ЦенаЗаЕдиницу", "Сумма"))
    if quantity * price != total:
        raise OneCError("a line's price times its quantity is not its sum")
    if line.find("БазоваяЕдиница") is None or not line.find("БазоваяЕдиница").get("Код"):
        raise OneCError("a line has no unit")
    return _required(line, "Ид"), _required(line, "Наименование"), quantity, total
