"""A stand-in for a 1C base that is published with the standard OData interface, strict in what Kvit uses of it.

It keeps two catalogs and three kinds of documents in memory. People of the shop work in it by calling it in Python.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, cast
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from deployments.sandbox.standin import StandIn

Json = dict[str, Any]
Test = Callable[[Json], bool]

ORDER, SALE, PAYMENT = "Document_ЗаказПокупателя", "Document_РеализацияТоваровУслуг", "Document_ПоступлениеНаСчет"
CUSTOMERS, GOODS = "Catalog_Контрагенты", "Catalog_Номенклатура"
NUMBER, STATUS = "НомерВнешний", "СостояниеЗаказа"
NOBODY = "00000000-0000-0000-0000-000000000000"
ORGANIZATION = "5b0c7f3a-1111-4c0e-9b7d-000000000001"

_OF_OBJECT = {"Ref_Key": "guid", "DataVersion": "text", "DeletionMark": "bool"}
_OF_CATALOG = _OF_OBJECT | {"Code": "text", "Description": "text"}
_OF_DOCUMENT = _OF_OBJECT | {"Number": "text", "Date": "date", "Posted": "bool"}
_OF_TRADE = _OF_DOCUMENT | {
    NUMBER: "text",
    STATUS: "text",
    "Контрагент_Key": "guid",
    "Организация_Key": "guid",
    "СуммаДокумента": "number",
    "СуммаВключаетНДС": "bool",
    "Товары": "table",
    "Комментарий": "endless",
}
REQUISITES: dict[str, dict[str, str]] = {
    CUSTOMERS: _OF_CATALOG | {"ИНН": "text", "НомерНаСайте": "text"},
    GOODS: _OF_CATALOG | {"Артикул": "text"},
    ORDER: _OF_TRADE,
    SALE: _OF_TRADE,
    PAYMENT: _OF_DOCUMENT
    | {"СуммаДокумента": "number", "НазначениеПлатежа": "text", "РасшифровкаПлатежа": "table"}
    | {"ДокументОснование": "text", "ДокументОснование_Type": "text"},
}
COLUMNS = {
    "LineNumber": "number",
    "Номенклатура_Key": "guid",
    "Количество": "number",
    "Цена": "number",
    "Сумма": "number",
    "СтавкаНДС": "text",
    "СуммаНДС": "number",
}
RATES = {"БезНДС", "НДС10", "НДС20", "НДС22"}
_FILLED = ("Date", "Организация_Key", "Контрагент_Key", "Товары")

_PATH = re.compile(r"/base/odata/standard\.odata/(\w+)(?:\(guid'([0-9a-f-]{36})'\))?(?:/(\w+))?")
_TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|(datetime|guid)('[^']*')|(\w+))")
_MAX_TOP = 1000


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code = status, code


def _told_error(status: int, code: str, text: str) -> Response:
    error = {"code": code, "message": {"lang": "ru", "value": text}}
    return JSONResponse({"odata.error": error}, status_code=status)


def _refused(_: Request, error: _Refused) -> Response:
    return _told_error(error.status, error.code, str(error))


def _text(value: Any, pattern: str, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest and re.fullmatch(pattern, value, re.DOTALL) is not None


_KINDS: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "text": ("", lambda value: _text(value, ".*", 150)),
    "endless": ("", lambda value: _text(value, ".*", 1_000_000)),
    "bool": (False, lambda value: isinstance(value, bool)),
    "number": (0, lambda value: isinstance(value, Decimal) or type(value) is int),
    "guid": (NOBODY, lambda value: _text(value, "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", 36)),
    "date": ("0001-01-01T00:00:00", lambda value: _text(value, "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}", 19)),
    "table": ((), lambda value: isinstance(value, list)),
}
"""What stands in an empty requisite of a kind, and what may stand in one."""


class OneCODataStandIn(StandIn):
    """`async with OneCODataStandIn() as base:`, then point the connector's base_url at `base.base_url`.

    `objects` is what there is, by kind and Ref_Key. `done` names each request that changed something: what was done,
    and the number of the order's document. won_t_make and won_t_post hold why documents can't be written or posted, by
    their order's number. Of kinds in `hidden` OData shows nothing.
    """

    def __init__(
        self,
        *,
        username: str = "Обмен",
        password: str = "пароль сайта",  # noqa: S107 - a stand-in's secrets are none
        port: int = 0,
    ) -> None:
        """Make a base with two catalogs and three kinds of documents, and nothing in them."""
        self.username, self.password = username, password
        self.objects: dict[str, dict[str, Json]] = {kind: {} for kind in REQUISITES}
        self.done: list[tuple[str, str]] = []
        self.won_t_make: dict[str, str] = {}
        self.won_t_post: dict[str, str] = {}
        self.hidden: set[str] = set()
        self._versions = 0
        self._numbers: dict[tuple[str, str], int] = {}
        routes = [Route("/{path:path}", self._answer, methods=["GET", "POST", "PATCH", "PUT", "DELETE"])]
        handlers = {_Refused: cast("ExceptionHandler", _refused)}
        super().__init__(Starlette(routes=routes, exception_handlers=handlers), port=port)

    @property
    def base_url(self) -> str:
        """The published base's address, as the connector is configured with it."""
        return f"{self.url}/base"

    def error(self, status: int) -> Response:
        """Return an answer with an error status: from 1C itself, or above 500 from the web server before it."""
        if status > 500:
            return PlainTextResponse("<html>Service unavailable</html>", status_code=status)
        return _told_error(status, "-1", "Конфликт блокировок при выполнении транзакции" if status == 500 else "Отказ")

    def failure(self) -> Response:
        """Return an answer with status 200 that tells of an error."""
        return _told_error(200, "-1", "Отказ")

    # What people and 1C do

    def customer(self, name: str, *, tax_id: str = "", number: str = "") -> str:
        """Let a person enter a customer; return Ref_Key."""
        return self._add(CUSTOMERS, {"Description": name, "ИНН": tax_id, "НомерНаСайте": number})["Ref_Key"]

    def goods(self, title: str, *, sku: str = "") -> str:
        """Let a person enter goods or a service; return Ref_Key."""
        return self._add(GOODS, {"Description": title, "Артикул": sku})["Ref_Key"]

    def enter(self, entity: str, number: str, total: str, *, date: str = "2026-11-20T10:00:00", **more: Any) -> Json:
        """Let a person enter a document, with an order's number or an empty one; return it."""
        return self._add(entity, {"Date": date, NUMBER: number, "СуммаДокумента": Decimal(total), **more})

    def pay(self, amount: str, *, purpose: str = "", date: str = "2026-11-23T10:00:00", **more: Any) -> Json:
        """Let a bookkeeper book and post a payment; return its document."""
        values = {"Date": date, "СуммаДокумента": Decimal(amount), "НазначениеПлатежа": purpose, "Posted": True, **more}
        return self._add(PAYMENT, values)

    def change(self, document: Json, **values: Any) -> None:
        """Let a person change requisites of a document."""
        document |= values
        document["DataVersion"] = self._version()

    def of_order(self, number: str, entity: str = ORDER) -> list[Json]:
        """Return the documents that have an order's number."""
        return [one for one in self.objects[entity].values() if one[NUMBER] == number]

    def _add(self, entity: str, values: Json) -> Json:
        made: Json = {name: _KINDS[kind][0] for name, kind in REQUISITES[entity].items()} | values
        made |= {"Ref_Key": str(uuid.uuid4()), "DataVersion": self._version()}
        # Numbers of documents begin anew each year, and are as long as the configuration has them.
        series = entity, str(made.get("Date", ""))[:4]
        self._numbers[series] = self._numbers.get(series, 0) + 1
        counter = f"{self._numbers[series]:06d}"
        made |= {"Number": f"0000-{counter}"} if "Number" in made else {"Code": counter}
        self.objects[entity][made["Ref_Key"]] = made
        return made

    def _version(self) -> str:
        self._versions += 1
        return base64.b64encode(self._versions.to_bytes(8, "big")).decode()

    # How it answers

    async def _answer(self, request: Request) -> Response:
        expected = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            return PlainTextResponse("", status_code=401, headers={"WWW-Authenticate": 'Basic realm="1C"'})
        query = self._query(request.url.query)
        asked = _PATH.fullmatch(unquote(request.url.path))
        if query.pop("$format", "") != "json":
            return Response("<feed/>", media_type="application/atom+xml")
        if asked is None or asked[1] not in REQUISITES or asked[1] in self.hidden:
            raise _Refused(404, "8", f"Тип сущности «{asked[1] if asked else ''}» не найден")
        entity, ref, action = asked.groups()
        kept = self._kept(entity, ref) if ref else None
        match request.method, kept, action:
            case "GET", None, None:
                told = self._listed(entity, query)
            case "GET", dict(), None:
                told = self._selected(entity, kept, query) | {"odata.metadata": self._metadata(f"{entity}/@Element")}
            case "POST", None, None if entity in (ORDER, SALE):
                told = self._create(entity, await request.body()) | {
                    "odata.metadata": self._metadata(f"{entity}/@Element")
                }
            case "POST", dict(), "Post" if entity in (ORDER, SALE):
                self._post(kept, query)
                told = {"odata.metadata": self._metadata(entity)}
            case _:
                raise _Refused(405, "6", "Метод не поддерживается")
        status = 201 if request.method == "POST" and action is None else 200
        return Response(_written(told), status_code=status, media_type="application/json;odata=minimalmetadata")

    def _metadata(self, of: str) -> str:
        return f"{self.base_url}/odata/standard.odata/$metadata#{of}"

    def _kept(self, entity: str, ref: str) -> Json:
        if ref not in self.objects[entity]:
            raise _Refused(404, "9", f"Экземпляр сущности «{entity}» не найден")
        return self.objects[entity][ref]

    def _query(self, raw: str) -> dict[str, str]:
        # A plus is no space to every web server, so one must not be sent for it.
        pairs = [part.partition("=")[::2] for part in raw.split("&") if part]
        names = [name for name, _ in pairs]
        if "+" in raw or len(set(names)) < len(names):
            raise _Refused(400, "-1", "Ошибка разбора параметров запроса")
        return {unquote(name): unquote(value, errors="strict") for name, value in pairs}

    def _create(self, entity: str, body: bytes) -> Json:
        try:
            values = json.loads(body, parse_float=Decimal)
        except ValueError:
            raise _Refused(400, "-1", "Ошибка разбора JSON") from None
        known = REQUISITES[entity]
        for name, value in values.items():
            if name not in known or name in ("Ref_Key", "DataVersion", "Posted", "Number"):
                raise _Refused(400, "-1", f"Свойство «{name}» не найдено или недоступно для записи")
            if not _KINDS[known[name]][1](value):
                raise _Refused(400, "-1", f"Неверное значение свойства «{name}»")
        for name in _FILLED:
            if not values.get(name) or values[name] == NOBODY:
                # A module of the configuration looks at that, and what it throws is an error of the server.
                raise _Refused(500, "-1", f"Поле «{name}» не заполнено")
        self._check_lines(values)
        if (why := self.won_t_make.get(values.get(NUMBER, ""))) is not None:
            raise _Refused(500, "-1", why)
        made = self._add(entity, values)
        self.done.append(("make", made[NUMBER]))
        return made

    def _check_lines(self, values: Json) -> None:
        total = Decimal(0)
        for place, line in enumerate(values["Товары"], 1):
            for name, value in line.items():
                if name not in COLUMNS or not _KINDS[COLUMNS[name]][1](value):
                    raise _Refused(400, "-1", f"Неверное значение колонки «{name}»")
            if line.get("LineNumber") != place:
                raise _Refused(400, "-1", "Не указан номер строки LineNumber")
            if line.get("Количество", 0) <= 0 or line.get("Сумма") != line["Цена"] * line["Количество"]:
                raise _Refused(500, "-1", "Сумма строки не сходится")
            if "СтавкаНДС" in line and line["СтавкаНДС"] not in RATES:
                raise _Refused(400, "-1", "Неверное значение перечисления")
            total += line["Сумма"]
        if total != values.get("СуммаДокумента"):
            raise _Refused(500, "-1", "Сумма документа не сходится")

    def _post(self, kept: Json, query: Mapping[str, str]) -> None:
        if dict(query) not in ({"PostingModeOperational": "false"}, {"PostingModeOperational": "true"}):
            raise _Refused(400, "-1", "Параметры метода Post не указаны")
        if kept["DeletionMark"]:
            raise _Refused(500, "-1", "Помеченный на удаление документ не может быть проведен")
        if (why := self.won_t_post.get(kept[NUMBER])) is not None:
            raise _Refused(500, "-1", why)
        refs = [(CUSTOMERS, kept["Контрагент_Key"]), *((GOODS, line["Номенклатура_Key"]) for line in kept["Товары"])]
        if any(ref not in self.objects[catalog] for catalog, ref in refs):
            raise _Refused(500, "-1", "Объект не найден")
        self.change(kept, Posted=True)
        self.done.append(("post", kept[NUMBER]))

    def _listed(self, entity: str, query: Mapping[str, str]) -> Json:
        if unknown := set(query) - {"$filter", "$select", "$top", "$skip", "$orderby"}:
            raise _Refused(400, "-1", f"Опция {unknown.pop()} не поддерживается")
        rows = list(self.objects[entity].values())
        if "$filter" in query:
            fits = self._filter(entity, query["$filter"])
            rows = [row for row in rows if fits(row)]
        order = [self._known(entity, name) for name in query.get("$orderby", "Ref_Key").split(",")]
        rows.sort(key=lambda row: [str(row[name]) for name in order])
        try:
            top, skip = int(query.get("$top", _MAX_TOP)), int(query.get("$skip", 0))
        except ValueError:
            raise _Refused(400, "-1", "Ошибка разбора опции $top") from None
        rows = rows[skip : skip + min(top, _MAX_TOP)]
        select = {"$select": query["$select"]} if "$select" in query else {}
        for name in query.get("$select", "Ref_Key").split(","):
            self._known(entity, name)
        told = [self._selected(entity, row, select) for row in rows]
        return {"odata.metadata": self._metadata(entity), "value": told}

    def _selected(self, entity: str, row: Json, query: Mapping[str, str]) -> Json:
        if not query:
            return dict(row)
        if set(query) != {"$select"}:
            raise _Refused(400, "-1", "Опция не поддерживается")
        return {name: row[name] for name in [self._known(entity, one) for one in query["$select"].split(",")]}

    def _known(self, entity: str, name: str) -> str:
        if name not in REQUISITES[entity]:
            raise _Refused(400, "-1", f"Сегмент пути «{name}» не найден")
        return name

    def _filter(self, entity: str, text: str) -> Test:
        """Read a filter: comparisons joined by `or`, or by `and`."""
        tokens, place = list[str](), 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None:
                raise _Refused(400, "14", "Ошибка при разборе опции запроса $filter")
            tokens.append(found[0].strip())
            place = found.end()
        joins = set(tokens[3::4])
        if len(tokens) % 4 != 3 or len(joins) > 1 or not joins <= {"or", "and"}:
            raise _Refused(400, "14", "Ошибка при разборе опции запроса $filter")
        tests = [self._comparison(entity, tokens[at : at + 3]) for at in range(0, len(tokens), 4)]
        every = all if joins == {"and"} else any
        return lambda row: every(test(row) for test in tests)

    def _comparison(self, entity: str, tokens: Sequence[str]) -> Test:
        name, how, literal = tokens
        kind = REQUISITES[entity][self._known(entity, name)]
        typed = {"text": "'", "date": "datetime'", "guid": "guid'", "bool": ("true", "false")}.get(kind)
        if typed is None or not literal.startswith(typed) or how not in ("eq", "ne", "ge"):
            raise _Refused(400, "14", f"Недопустимое сравнение с «{name}»")
        wanted = literal.partition("'")[2].removesuffix("'").replace("''", "'") if "'" in literal else literal

        def told(row: Json) -> str:
            value = row[name]
            return str(value).lower() if isinstance(value, bool) else str(value)

        def same(row: Json) -> bool:
            # The database takes no heed of case, nor of spaces at the end.
            return told(row).rstrip().casefold() == wanted.rstrip().casefold()

        if how == "ge":
            _checked_day(wanted)
            return lambda row: told(row) >= wanted
        return same if how == "eq" else lambda row: not same(row)


def _checked_day(text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise _Refused(400, "14", "Ошибка при разборе даты") from None


def _written(value: Any) -> str:
    """Write JSON in which a Decimal is a number with its own digits."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, dict):
        pairs = cast("Json", value).items()
        return "{" + ",".join(f"{json.dumps(name)}:{_written(part)}" for name, part in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, cast("Sequence[Any]", value))) + "]"
    return json.dumps(value, ensure_ascii=False)
