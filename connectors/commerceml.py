"""1C by CommerceML 2: orders are given to 1C when it asks for them, and it tells what became of them.

1C is the one that calls: set its exchange with a site to the address /1c/NAME of this installation, with the user name
and the password set here, and let it exchange orders (type=sale). What it was given counts as taken once it says so;
until then, and when an order has changed since, it is given again. An order that 1C has is told on whatever its status
becomes, so that it hears of a cancellation, too.

1C knows an order by `<channel>:<number>`, which it sends back; orders of its own are left alone. What it says of an
order stands in requisites (ЗначенияРеквизитов), whose names differ between configurations of 1C, so they are set here.
A requisite is told as a status by its name where it says yes or names a day, and by its value where that is a text,
such as Согласован; the rules of the channel say under `follows` what each means. A shipment (Отпуск товара) is told by
that name. Numbers of orders should differ between the channels of one connector.

With `payments` money that 1C has booked is a bank transfer here: from documents of payment (Выплата безналичных денег,
as CommerceML 2.10 and 3 have them), or from the number and the day of payment in the order's requisites. Leave it off
where the same money comes here another way, from the bank's statements or a gateway: nothing tells that the two are
one. Money given back in 1C is left to a person.

Unverified: how long an id 1C takes; how it reads discounts, which are told as Скидки of the whole document; that an
order's number and day of payment are given only once it is paid in full, as is assumed where no amount is named; and
documents of payment as other configurations write them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, Literal, NoReturn, Protocol, cast
from zoneinfo import ZoneInfo

# lxml comes without types.
from lxml import etree as _etree  # pyright: ignore[reportMissingTypeStubs, reportAttributeAccessIssue, reportUnknownVariableType]
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from connectors import Config
from connectors.errors import Rejected
from connectors.roles import NoWebhooks, Told
from connectors.statements import Unreadable
from connectors.zones import ZoneName
from domain.changes import StatusChange
from domain.money import Money, MoneyError, exponent
from domain.orders import CLOSED, Order, OrderLine
from domain.payments import IncomingPayment, Method

etree = cast("Any", _etree)

MAX_XML = 32 * 1024 * 1024
"""Bytes of XML in one exchange file, unpacked, in all of its parts together."""
MAX_PARTS = 1_000_000
"""Elements and attributes; each takes some 250 bytes once it is parsed."""
MAX_FILES = 50
"""Files in a ZIP archive."""
PASSWORD_MIN = 12

_ROOT, _VERSION = "КоммерческаяИнформация", "2.08"
_ORDER, _PAYMENT, _SHIPMENT = "Заказ товара", "Выплата безналичных денег", "Отпуск товара"
_GIVEN_BACK = "Возврат безналичных денег"
_DELETED = "ПометкаУдаления"

_ZIP, _ZIP_ENTRY = b"PK\x03\x04", b"PK\x01\x02"
_BOM = b"\xef\xbb\xbf"
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_-]{1,40})["']""")
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_DAY = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ].*)?|([0-9]{2})\.([0-9]{2})\.([0-9]{4})(?: .*)?")
_AMOUNT = re.compile(r"-?[0-9]{1,15}(?:[.,][0-9]{1,10})?")
_YES, _NO = frozenset({"true", "да", "1"}), frozenset({"false", "нет", "0", "", "t", "т"})
# 1C writes an empty date as the letter T, and a day in year 1 where it fills one in.
_NO_DAY = "0001"

_METHODS = {
    Method.CARD: "Банковская карта",
    Method.BANK_TRANSFER: "Безналичный расчет",
    Method.CASH_ON_DELIVERY: "Наложенный платеж",
}
# Rouble and hryvnia as 1C has called them, beside what is set here.
_CURRENCY_NAMES = {"РУБ": "RUB", "РУБ.": "RUB", "RUR": "RUB", "643": "RUB", "ГРН": "UAH", "ГРН.": "UAH", "980": "UAH"}


class Requisites(BaseModel):
    """The names by which 1C is told more of an order; an empty one tells it nothing."""

    model_config = ConfigDict(extra="forbid")

    status: str = Field(default="Статус заказа", description="The order's status, in the channel's words")
    paid: str = Field(default="Заказ оплачен", description="Whether it is paid in full: true or false")
    cancelled: str = Field(default="Отменен", description="Whether it is cancelled or expired: true or false")
    paid_on: str = Field(default="Дата оплаты", description="Day of the last payment")
    payment_number: str = Field(default="Номер платежного документа", description="Reference of the last payment")
    method: str = Field(default="Метод оплаты", description="How it is paid, in Russian")
    delivery: str = Field(default="Способ доставки", description="How it is delivered")


class CommerceMLConfig(Config):
    """Settings of the exchange with one 1C."""

    username: str = Field(pattern=r"^[^\s:]{1,80}$", description="User name that 1C gives")
    password: SecretStr = Field(
        description=f"Password that 1C gives; at least {PASSWORD_MIN} characters. Changing it ends sessions under way"
    )
    channels: tuple[str, ...] = Field(min_length=1, description="Channels whose orders 1C is given")
    statuses: tuple[str, ...] = Field(
        default=("paid", "processing", "in_production", "ready", "dispatched", "delivered", "completed"),
        min_length=1,
        description="Statuses in which an order is given to 1C, standard ones or the channel's own",
    )
    days: int = Field(default=180, ge=1, le=3650, description="Days after which an order is not given any more")
    orders_at_once: int = Field(default=200, ge=1, le=2000, description="Orders in one answer; the rest come next time")
    encoding: Literal["windows-1251", "utf-8"] = Field(
        default="windows-1251", description="Encoding of what 1C is given; what it sends tells its own"
    )
    zip: bool = Field(default=False, description="Whether 1C is to pack what it sends")
    file_limit: int = Field(
        default=4_000_000, ge=65_536, le=16_777_216, description="Bytes that 1C may send at once; more comes in pieces"
    )
    time_zone: ZoneName = Field(
        default="UTC", description="Where 1C's clock stands, such as Europe/Kyiv; it tells no zone"
    )
    currencies: dict[str, str] = Field(
        default_factory=lambda: {"RUB": "руб", "UAH": "грн"},
        description="What 1C calls currencies, by their ISO 4217 code; others are called by their code",
    )
    requisites: Requisites = Field(default_factory=Requisites)
    find_by: Literal["id", "number"] = Field(
        default="id",
        description="number also takes a document whose id is not one that was given to 1C for an order, when its "
        "number is that of one; only where 1C forgets the ids, since its own orders have numbers, too",
    )
    status_requisites: tuple[str, ...] = Field(
        default=(
            *("Статус заказа", "СтатусЗаказа", "Проведен", "Оплачен", "Оплачено", "Дата оплаты по 1С"),
            *("Отгружен", "Отгружено", "Дата отгрузки по 1С", "Отменен", _DELETED),
        ),
        description="Requisites that tell an order's status in 1C; of those that say something the last one counts",
    )
    payments: Literal["off", "documents", "requisites"] = Field(
        default="off",
        description="Whether money that 1C has booked is a payment here, and where it tells of it: in documents of "
        "payment, or in requisites of the order",
    )
    payment_number: str = Field(default="Номер оплаты по 1С", description="Requisite with the number of 1C's payment")
    payment_date: str = Field(default="Дата оплаты по 1С", description="Requisite with its day")
    payment_amount: str | None = Field(
        default=None, description="Requisite with its amount; without one it is the sum of the order's document"
    )

    @field_validator("password")
    @classmethod
    def _long(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < PASSWORD_MIN or not value.get_secret_value().isprintable():
            raise ValueError(f"it has fewer than {PASSWORD_MIN} characters, or a line break in it")
        return value

    @field_validator("currencies")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        for currency in value:
            exponent(currency)
        return value


class _Node(Protocol):
    """What is used of an lxml element, which comes without types."""

    tag: str
    text: str | None

    def find(self, path: str) -> _Node | None: ...
    def findall(self, path: str) -> list[_Node]: ...
    def findtext(self, path: str) -> str | None: ...
    def get(self, key: str) -> str | None: ...
    def iter(self, *tags: str) -> Iterator[_Node]: ...
    def append(self, node: _Node) -> None: ...


# What 1C is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An order as 1C is given it, with the day and the reference of its last payment, if there was one."""

    order: Order
    paid_on: date | None = None
    payment_number: str | None = None


def document_id(order: Order) -> str:
    """Return the id by which 1C knows an order; it sends it back."""
    return f"{order.channel}:{order.number}"


def order_document(given: Given, config: CommerceMLConfig) -> Any:
    """Return an order as an element Документ, its fields in the order of the format's schema."""
    order = given.order
    placed = order.placed_at.astimezone(ZoneInfo(config.time_zone))
    document = etree.Element("Документ")
    _add(document, "Ид", document_id(order))
    _add(document, "Номер", order.number)
    _add(document, "Дата", placed.date().isoformat())
    _add(document, "ХозОперация", _ORDER)
    _add(document, "Роль", "Продавец")
    _add(document, "Валюта", config.currencies.get(order.total.currency, order.total.currency))
    _add(document, "Курс", "1")
    _add(document, "Сумма", order.total.amount)
    _buyer(etree.SubElement(document, "Контрагенты"), order)
    _add(document, "Время", f"{placed:%H:%M:%S}")
    _add(document, "Комментарий", "")
    # 1C has no goods at a negative price: what takes something off is a discount of the document.
    discounts = [line for line in order.lines if line.unit_price.minor < 0]
    if discounts:
        node = etree.SubElement(document, "Скидки")
        for line in discounts:
            one = etree.SubElement(node, "Скидка")
            _add(one, "Наименование", line.title)
            _add(one, "Сумма", (-line.total).amount)
            _add(one, "УчтеноВСумме", "true")
    goods = etree.SubElement(document, "Товары")
    for line in order.lines:
        if line.unit_price.minor >= 0:
            _good(goods, line)
    _requisites(document, _told(given, config.requisites))
    return document


def _told(given: Given, names: Requisites) -> dict[str, str]:
    order = given.order
    said = {
        names.status: order.status,
        names.paid: "true" if order.to_pay.minor <= 0 else "false",
        names.cancelled: "true" if order.standard_status in CLOSED else "false",
        names.paid_on: given.paid_on.isoformat() if given.paid_on else "",
        names.payment_number: given.payment_number or "",
        names.method: _METHODS[order.method],
        names.delivery: order.delivery_method or "",
    }
    return {name: value for name, value in said.items() if name and value}


def _buyer(parties: Any, order: Order) -> None:
    customer, address = order.customer, order.delivery_address
    party = etree.SubElement(parties, "Контрагент")
    _add(party, "Ид", f"{order.channel}:{customer.number}")
    _add(party, "Наименование", customer.name)
    _add(party, "Роль", "Покупатель")
    _add(party, "ОфициальноеНаименование" if customer.tax_id else "ПолноеНаименование", customer.name)
    if customer.tax_id:
        _add(party, "ИНН", customer.tax_id)
    parts = (address.postcode, address.country, address.city, address.street)
    if any(parts):
        registered = etree.SubElement(party, "АдресРегистрации")
        _add(registered, "Представление", ", ".join(part for part in parts if part))
        for kind, part in zip(("Почтовый индекс", "Страна", "Город", "Улица"), parts, strict=True):
            if part:
                one = etree.SubElement(registered, "АдресноеПоле")
                _add(one, "Тип", kind)
                _add(one, "Значение", part)
    reached = {"Почта": customer.email, "ТелефонРабочий": customer.phone}
    if any(reached.values()):
        contacts = etree.SubElement(party, "Контакты")
        for kind, value in reached.items():
            if value:
                one = etree.SubElement(contacts, "Контакт")
                _add(one, "Тип", kind)
                _add(one, "Значение", value)


def _good(goods: Any, line: OrderLine) -> None:
    good = etree.SubElement(goods, "Товар")
    # What has no number of its own, such as the delivery, is the same each time by its title.
    _add(good, "Ид", line.sku or f"service:{hashlib.sha256(line.title.encode()).hexdigest()[:16]}")
    if line.sku:
        _add(good, "Артикул", line.sku)
    _add(good, "Наименование", line.title)
    _add(good, "БазоваяЕдиница", "шт").set("Код", "796")
    if line.vat_rate:
        rate = etree.SubElement(etree.SubElement(good, "СтавкиНалогов"), "СтавкаНалога")
        _add(rate, "Наименование", "НДС")
        _add(rate, "Ставка", f"{line.vat_rate.normalize():f}")
    _add(good, "ЦенаЗаЕдиницу", line.unit_price.amount)
    _add(good, "Количество", str(line.quantity))
    _add(good, "Сумма", line.total.amount)
    kind = "Товар" if line.sku else "Услуга"
    _requisites(good, {"ВидНоменклатуры": kind, "ТипНоменклатуры": kind})


def _requisites(parent: Any, values: Mapping[str, str]) -> None:
    if values:
        node = etree.SubElement(parent, "ЗначенияРеквизитов")
        for name, value in values.items():
            one = etree.SubElement(node, "ЗначениеРеквизита")
            _add(one, "Наименование", name)
            _add(one, "Значение", value)


def _add(parent: Any, name: str, text: str) -> Any:
    node = etree.SubElement(parent, name)
    node.text = _NO_XML.sub("", text)
    return node


def fingerprint(document: Any) -> str:
    """Return a hash of all that a document says."""
    return hashlib.sha256(etree.tostring(document, encoding="utf-8")).hexdigest()


def exchange_xml(documents: Sequence[Any], config: CommerceMLConfig, *, now: datetime) -> bytes:
    """Return an exchange file with some documents; letters that its encoding has not are written as references."""
    made = now.astimezone(ZoneInfo(config.time_zone))
    root = etree.Element(_ROOT, {"ВерсияСхемы": _VERSION, "ДатаФормирования": f"{made:%Y-%m-%dT%H:%M:%S}"})
    for document in documents:
        root.append(document)
    return etree.tostring(root, encoding=config.encoding, xml_declaration=True)


# What 1C sends


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeDocument:
    """A document that 1C sent. id and number are what they say, basis names the document that it follows from.

    requisites are by name, the last value of each; node is the element itself.
    """

    id: str
    number: str
    operation: str
    currency: str
    amount: str
    day: str
    basis: str
    basis_id: str
    payer: str
    requisites: Mapping[str, str]
    node: Any = field(repr=False, compare=False)

    @property
    def stands(self) -> bool:
        """Whether it is not deleted, nor only a draft."""
        return not _says_yes(self.requisites.get(_DELETED, "")) and self.requisites.get("Проведен", "").lower() not in (
            "false",
            "нет",
        )


def read_exchange(data: bytes) -> list[ExchangeDocument]:
    """Return the documents of an exchange file, packed or not, whatever encoding it names.

    Raises Unreadable for what is too large, no such file, or not whole.
    """
    return [document for part in _parts(data) for document in _documents(_parse(part))]


def is_whole(data: bytes) -> bool:
    """Say whether what came so far can be a whole file: it ends as one ends."""
    if data.startswith(_ZIP):
        return zipfile.is_zipfile(io.BytesIO(data))
    last = data[-400:].rstrip().rpartition(b"<")[2]
    closes = last.endswith(b"/>") or (last.startswith(b"/") and last.endswith(b">"))
    return closes and any(_ROOT.encode(encoding) in last for encoding in ("utf-8", "cp1251"))


def _parts(data: bytes) -> Iterator[bytes]:
    """Yield the XML files in what came; names in an archive are looked at for their ending only."""
    if not data.startswith(_ZIP):
        if len(data) > MAX_XML:
            raise Unreadable(f"the file is over {MAX_XML >> 20} MiB; send less at once")
        yield data
        return
    # Counted before the archive's directory is read, which takes far more room than it has in the archive.
    if data.count(_ZIP_ENTRY) > MAX_FILES:
        raise Unreadable(f"the archive has more than {MAX_FILES} files in it")
    left = MAX_XML
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            chosen = [one for one in archive.infolist() if one.filename.lower().endswith(".xml") and not one.is_dir()]
            if not chosen:
                raise Unreadable("the archive has no XML file in it")
            for one in chosen:
                if one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise Unreadable("the archive is packed in another way than ZIP usually is")
                with archive.open(one) as packed:
                    # What the archive says of its sizes is not trusted.
                    content = packed.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise Unreadable(f"the archive has more than {MAX_XML >> 20} MiB in it; send less at once")
                yield content
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("the archive is damaged, cut off or encrypted") from None


def _decoded(data: bytes) -> str:
    """Turn bytes into text: as UTF-8 where they are that, else as they declare, else as windows-1251."""
    try:
        return data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and error.start > 0:
            return data.removeprefix(_BOM)[: error.start].decode("utf-8")  # cut off, which is told below
    declared = _DECLARED.match(data.lstrip()[:300])
    named = declared[1].decode().lower() if declared else ""
    try:
        return data.decode("cp866" if named in ("cp866", "ibm866") else "cp1251")
    except UnicodeDecodeError:
        raise Unreadable("the XML is written in no encoding that 1C uses: UTF-8 or windows-1251") from None


def _parse(data: bytes) -> _Node:
    """Parse without entities, network or DTD, and cut the namespaces off the names; raises Unreadable."""
    text = _decoded(data).strip()
    if text.count("<") + text.count("=") > MAX_PARTS:
        raise Unreadable(f"the XML has more than {MAX_PARTS} elements and attributes; send less at once")
    forbidden = "the XML has a document type definition (DOCTYPE), which an exchange file never has; it was not read"
    parser = etree.XMLParser(
        encoding="utf-8",  # whatever the declaration says, since it is decoded already
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        tree = etree.fromstring(text.encode("utf-8", errors="replace"), parser).getroottree()
    except SyntaxError as error:  # lxml's XMLSyntaxError is one
        if "<!DOCTYPE" in text[:65_536]:
            raise Unreadable(forbidden) from None
        raise Unreadable(f"the XML is damaged or cut off (line {error.lineno})") from None
    if tree.docinfo.doctype:
        raise Unreadable(forbidden)
    root = cast("_Node", tree.getroot())
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
    if root.tag != _ROOT:
        raise Unreadable(f"the XML is no {_ROOT}, as CommerceML 2 is")
    return root


def _documents(root: _Node) -> Iterator[ExchangeDocument]:
    """Yield the documents of a file, each followed by those that are written inside it."""
    for holder in (root, *root.findall("Контейнер")):
        found = [(node, _document(node, None)) for node in holder.findall("Документ")]
        orders = [one for _, one in found if one.operation == _ORDER]
        by_name = {name: one for one in orders for name in (one.id, one.number) if name}
        # A container holds one order with what followed from it.
        only = orders[0] if len(orders) == 1 and holder is not root else None
        for node, one in found:
            above = by_name.get(one.basis, only) if one.operation != _ORDER else None
            yield replace(one, basis=above.number, basis_id=above.id) if above else one
            for inner in node.findall("ПодчиненныеДокументы/ПодчиненныйДокумент"):
                yield _document(inner, one)


def _document(node: _Node, above: ExchangeDocument | None) -> ExchangeDocument:
    requisites = {
        name: _text(one, "Значение")
        for path in ("ЗначенияРеквизитов/ЗначениеРеквизита", "ЗначениеРеквизита")
        for one in node.findall(path)
        if (name := _text(one, "Наименование"))
    }
    if deleted := _text(node, _DELETED):
        requisites[_DELETED] = deleted
    basis = _text(node, "Основание")
    return ExchangeDocument(
        id=_text(node, "Ид"),
        number=_text(node, "Номер"),
        operation=_text(node, "ХозОперация") or _ORDER,
        currency=_text(node, "Валюта"),
        amount=_text(node, "Сумма"),
        day=_text(node, "Дата"),
        basis=above.number if above else basis,
        basis_id=above.id if above else basis,
        payer=_text(node, "Контрагенты/Контрагент/Наименование"),
        requisites=requisites,
        node=node,
    )


def _text(node: _Node, path: str) -> str:
    return (node.findtext(path) or "").strip()


def _says_yes(value: str) -> bool:
    return value.lower() in _YES or (bool(_DAY.fullmatch(value)) and not value.startswith(_NO_DAY))


def _day(value: str) -> date | None:
    """Return a day, None for an empty one; raises Unreadable for what is none."""
    if value.lower() in _NO or value.startswith(_NO_DAY):
        return None
    match = _DAY.fullmatch(value)
    try:
        year, month, day = (match[1] or match[6], match[2] or match[5], match[3] or match[4]) if match else _no_day()
        return date(int(year), int(month), int(day))
    except ValueError:
        raise Unreadable(f"“{value[:20]}” is no day, such as 2026-03-02") from None


def _no_day() -> NoReturn:
    raise ValueError


class CommerceML(NoWebhooks):
    """One 1C that exchanges orders with us."""

    no_webhooks = "1C sends no webhooks; let it exchange with /1c/NAME"

    def __init__(self, config: CommerceMLConfig) -> None:
        self.config = config
        self.name = config.name
        self.source = f"commerceml:{config.name}"
        self._by_name = _CURRENCY_NAMES | {name.upper(): code for code, name in config.currencies.items()}

    def admits(self, authorization: str | None) -> bool:
        """Say whether an Authorization header has the user name and the password, in any encoding 1C writes them in."""
        kind, _, encoded = (authorization or "")[:1_000].partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True) if kind.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        wanted = f"{self.config.username}:{self.config.password.get_secret_value()}"
        same = [
            hmac.compare_digest(given, wanted.encode(encoding, errors="replace")) for encoding in ("utf-8", "cp1251")
        ]
        return any(same)

    def sign(self, text: str) -> str:
        """Return what proves that a session was begun with this connector's password."""
        key = hashlib.sha256(f"1c session\n{self.name}\n{self.config.password.get_secret_value()}".encode()).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    async def truth(self, body: bytes) -> Sequence[Told]:
        """Return what an exchange file that 1C sent means. What of it can't be used is a letter of its own.

        Raises Rejected when there is nothing else in it.
        """
        told, refused = await asyncio.to_thread(self._read, body)
        if refused and not told:
            raise Rejected("; ".join(reason for _, reason in refused))
        return told

    def unusable(self, body: bytes) -> list[tuple[bytes, str]]:
        """Return the documents of a file that can't be used, each as a file of its own, and why.

        None where there is nothing else in it: then the file itself is what truth rejects. Raises Unreadable for a file
        that can't be read at all.
        """
        told, refused = self.meaning(read_exchange(body))
        found: list[tuple[bytes, str]] = []
        for document, reason in refused if told else []:
            root = etree.Element(_ROOT, {"ВерсияСхемы": _VERSION})
            root.append(deepcopy(document.node))
            found.append((etree.tostring(root, encoding="utf-8", xml_declaration=True), reason))
        return found

    def _read(self, body: bytes) -> tuple[list[Told], list[tuple[ExchangeDocument, str]]]:
        try:
            return self.meaning(read_exchange(body))
        except Unreadable as error:
            raise Rejected(f"{self.name}: {error}") from None

    def meaning(self, documents: Sequence[ExchangeDocument]) -> tuple[list[Told], list[tuple[ExchangeDocument, str]]]:
        """Return what documents mean here, and those that can't be used, each with the reason."""
        told: list[Told] = []
        refused: list[tuple[ExchangeDocument, str]] = []
        for document in documents:
            try:
                told += self._of_document(document)
            except (Unreadable, MoneyError) as error:
                said = document.number if re.fullmatch(r"[\w./ -]{1,40}", document.number) else "without a number"
                refused.append((document, f"{self.name}: document {said} ({document.operation[:40]}): {error}"))
        return told, refused

    def _of_document(self, document: ExchangeDocument) -> list[Told]:
        if document.operation == _ORDER:
            return self._of_order(document)
        if document.operation == _SHIPMENT and document.stands:
            number = self._ours(document.basis_id, document.basis)
            return [StatusChange(status=_SHIPMENT, number=number)] if number else []
        if self.config.payments == "documents" and document.stands:
            if document.operation == _PAYMENT:
                return self._of_payment(document)
            if document.operation == _GIVEN_BACK:
                raise Unreadable("money was given back in 1C; say by hand which payment's it is")
        return []

    def _ours(self, id_: str, number: str) -> str | None:
        """Return the number of our order that 1C names, or None when it is none of ours."""
        channel, separator, own = id_.partition(":")
        if separator and channel in self.config.channels and own:
            return own[:80]
        return number[:80] or None if self.config.find_by == "number" else None

    def _of_order(self, document: ExchangeDocument) -> list[Told]:
        number = self._ours(document.id, document.number)
        if number is None:
            return []
        status = ""
        for name in self.config.status_requisites:
            value = document.requisites.get(name, "").strip()
            if _says_yes(value):
                status = name
            elif value.lower() not in _NO and not value.startswith(_NO_DAY):
                status = value
        told: list[Told] = [StatusChange(status=status[:200], number=number)] if status else []
        return told + (self._paid_order(document, number) if self.config.payments == "requisites" else [])

    def _paid_order(self, document: ExchangeDocument, number: str) -> list[Told]:
        """Return the payment that an order's requisites tell of, if they tell of one."""
        own = document.requisites.get(self.config.payment_number, "").strip()
        day = _day(document.requisites.get(self.config.payment_date, "").strip())
        if (not own and day is None) or _says_yes(document.requisites.get(_DELETED, "")):
            return []
        named = self.config.payment_amount
        amount = document.requisites.get(named, "").strip() if named else document.amount
        return [
            self._payment(
                document,
                f"order:{document.id or number}:{own or day}",
                amount,
                booked_on=day or _day(document.day),
                number=number,
            )
        ]

    def _of_payment(self, document: ExchangeDocument) -> list[Told]:
        """Return the payment that a document of payment is; one that is not carried out is none yet."""
        if document.requisites.get("Оплачен", "true").lower() not in _YES:
            return []
        if not document.id:
            raise Unreadable("Ид: it has none, so it can't be known again")
        return [
            self._payment(
                document,
                f"document:{document.id}",
                document.amount,
                booked_on=_day(document.requisites.get(self.config.payment_date, "")) or _day(document.day),
                # Money that names no order is money all the same: a person finds out whose it is.
                number=self._ours(document.basis_id, document.basis),
            )
        ]

    def _payment(
        self, document: ExchangeDocument, external_id: str, amount: str, *, booked_on: date | None, number: str | None
    ) -> IncomingPayment:
        if not _AMOUNT.fullmatch(amount):
            raise Unreadable(f"Сумма: “{amount[:20]}” is not an amount; digits with a dot are expected")
        if booked_on is None:
            raise Unreadable("it names no day of payment")
        code = document.currency.upper()
        money = Money.parse(amount.replace(",", "."), self._by_name.get(code, code))
        if money.minor <= 0:
            raise Unreadable("Сумма: a payment is more than zero")
        return IncomingPayment(
            source=self.source,
            external_id=external_id if len(external_id) <= 200 else hashlib.sha256(external_id.encode()).hexdigest(),
            method=Method.BANK_TRANSFER,
            amount=money,
            booked_on=booked_on,
            order_reference=number,
            payer_name=document.payer or None,
        )


CONFIG = CommerceMLConfig
CONNECTOR = CommerceML
