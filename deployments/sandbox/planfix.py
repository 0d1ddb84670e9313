"""A stand-in for a Planfix account, as strict as Planfix is in what Kvit uses of its REST API.

It keeps tasks of one process, their comments and the entries of one data tag in memory. People change statuses by
calling it in Python; `deliver` sends what a scenario's HTTP request would, once.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from zoneinfo import ZoneInfo

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from deployments.sandbox.standin import StandIn

Json = dict[str, Any]

TEMPLATE = 21
STATUSES = {1: "New", 2: "In work", 3: "Completed", 101: "Awaiting payment", 102: "In production", 103: "Cancelled"}
NUMBER, TO_PAY, PAID, DIFFERENCE = 50, 51, 52, 53
TASK_FIELDS = {NUMBER: "line", TO_PAY: "number", PAID: "number", DIFFERENCE: "number"}
INCOME = 6
REFERENCE, AMOUNT, DATE, PAYMENT = 60, 61, 62, 63
ENTRY_FIELDS = {REFERENCE: "line", AMOUNT: "number", DATE: "date", PAYMENT: "line"}

_PAGE_SIZE_MAX = 100
_OPERATORS = {8: {"equal", "notequal"}, 51: {"equal", "notequal"}, 101: {"equal", "notequal", "have", "nothave"}}
_DATE_OPERATORS = {"equal", "notequal", "gt", "lt"}


class _Refused(Exception):
    """A request that is answered with a failure."""

    def __init__(self, code: int, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.code = code
        self.status = status


def _fail(code: int, text: str, status: int) -> Response:
    return JSONResponse({"result": "fail", "code": code, "error": text}, status_code=status)


def _refused(_: Request, error: _Refused) -> Response:
    return _fail(error.code, str(error), error.status)


class PlanfixStandIn(StandIn):
    """`async with PlanfixStandIn() as account:`, then point the connector's base_url at `account.base_url`.

    `tasks`, `comments` and `entries` are what there is, by number; `done` names each request that changed something,
    and the number that it changed. interval is how many seconds must lie between two requests. zone is the time zone of
    the user whose token it is; now is what Planfix's clock shows, which stands still when set. A task in `busy` queues
    its changes until `free` is called, or as many tasks were looked at as free_after says. `then` holds what somebody
    else does right after the next request to an address with such an end.
    """

    def __init__(
        self,
        *,
        token: str = "sandboxtoken",  # noqa: S107 - a stand-in's secrets are none
        interval: float = 0.0,
        zone: str = "Europe/Kyiv",
        port: int = 0,
    ) -> None:
        """Make an account with one process, one template and one data tag, and no tasks."""
        self.token = token
        self.webhook_token = secrets.token_hex(16)
        self.tasks: dict[int, Json] = {}
        self.comments: dict[int, Json] = {}
        self.entries: dict[int, Json] = {}
        self.done: list[tuple[str, int]] = []
        self.now: datetime | None = None
        self.busy: set[int] = set()
        self.free_after: int | None = None
        self.then: dict[str, Callable[[], object]] = {}
        self.left_today: int | None = None
        self.forbidden: set[str] = set()
        self._queue: deque[tuple[int, Json]] = deque()
        self._interval = interval
        self._last = -1e9
        self._zone = ZoneInfo(zone)
        self._made = 0
        routes = [
            Route("/rest/task/list", self._checked("task", self._list_tasks), methods=["POST"]),
            Route("/rest/task/", self._checked("task", self._create), methods=["POST"]),
            Route("/rest/task/{id:int}", self._checked("task", self._get), methods=["GET"]),
            Route("/rest/task/{id:int}", self._checked("task", self._update), methods=["POST"]),
            Route("/rest/task/{id:int}/comments/", self._checked("comment", self._comment), methods=["POST"]),
            Route("/rest/task/{id:int}/comments/list", self._checked("comment", self._list_comments), methods=["POST"]),
            Route("/rest/task/{id:int}/datatags/", self._checked("datatag", self._enter), methods=["POST"]),
            Route(
                "/rest/task/{id:int}/datatags/{comment:int}", self._checked("datatag", self._enter), methods=["POST"]
            ),
            Route("/rest/datatag/{id:int}", self._checked("datatag", self._get_tag), methods=["GET"]),
            Route("/rest/datatag/{id:int}/entry/list", self._checked("datatag", self._list_entries), methods=["POST"]),
        ]
        handlers = {_Refused: cast("ExceptionHandler", _refused)}
        super().__init__(Starlette(routes=routes, exception_handlers=handlers), port=port)

    @property
    def base_url(self) -> str:
        """The API's address, as the connector is configured with it."""
        return f"{self.url}/rest"

    def error(self, status: int) -> Response:
        """Return an answer with an error status, shaped as Planfix's are."""
        return _fail(0, "The stand-in was told to misbehave.", status)

    def failure(self) -> Response:
        """Return an answer with status 200 that tells of a failure, shaped as Planfix's are."""
        return _fail(1002, "The stand-in was told to misbehave.", 200)

    # What people and Planfix do

    def make(self, number: str, *, name: str | None = None, status: int = 101, template: int = TEMPLATE) -> Json:
        """Let a person make a task for an order's number; return it."""
        values = {NUMBER: number}
        return self._new({"name": name or f"Order {number}", "status": status, "template": template}, values)

    def set_status(self, task: int, status: int) -> Json:
        """Let a person set a task's status; return what a scenario sends of it."""
        kept = self.tasks[task]
        kept["status"] = status
        kept["changed"] = self._time()
        return {"task": str(task), "status": STATUSES[status], "changed": f"{self._time():%d-%m-%Y %H:%M:%S}"}

    def free(self) -> None:
        """Let no task be busy any more, and make the changes that were queued."""
        self.busy.clear()
        while self._queue:
            task, changes = self._queue.popleft()
            self._apply(self.tasks[task], changes)

    async def deliver(self, sent: Json, url: str) -> int | None:
        """Send a scenario's HTTP request once; return the status answered, or None where nobody answered."""
        async with httpx.AsyncClient(timeout=30) as client:
            try:
                return (await client.post(url, json=sent)).status_code
            except httpx.TransportError:
                return None

    # How it answers

    def _checked(self, scope: str, endpoint: Callable[[Request, Json], Json | Response]) -> Callable[..., Any]:
        async def answer(request: Request) -> Response:
            if request.headers.get("Authorization") != f"Bearer {self.token}":
                raise _Refused(1, "Invalid token", 401)
            self._count()
            if scope in self.forbidden:
                raise _Refused(5, "Access to this method is forbidden for the scope", 403)
            told = endpoint(request, await _body(request))
            for end in [end for end in self.then if request.url.path.endswith(end)]:
                self.then.pop(end)()
            return told if isinstance(told, Response) else JSONResponse({"result": "success", **told})

        return cast("Callable[[Request], Awaitable[Response]]", answer)

    def _count(self) -> None:
        now = time.monotonic()
        if now - self._last < self._interval:
            raise _Refused(0, "Too many requests", 429)
        self._last = now
        if self.left_today is not None:
            if self.left_today <= 0:
                raise _Refused(22, "The day's limit of requests is reached")
            self.left_today -= 1

    def _time(self) -> datetime:
        return self.now or datetime.now(UTC)

    # Tasks

    def _one(self, request: Request) -> Json:
        task = self.tasks.get(request.path_params["id"])
        if task is None:
            raise _Refused(1000, "The task doesn't exist")
        return task

    def _get(self, request: Request, _: Json) -> Json:
        task = self._one(request)
        if self.free_after is not None:
            self.free_after -= 1
            if self.free_after <= 0:
                self.free()
        return {"task": self._shown(task, request.query_params.get("fields", "id"))}

    def _list_tasks(self, _: Request, body: Json) -> Json:
        tests = [self._test(_object(one)) for one in _listed(body.get("filters"))]
        found = [task for task in self.tasks.values() if not task["deleted"] and all(test(task) for test in tests)]
        fields = str(body.get("fields", "id"))
        return {"tasks": [self._shown(task, fields) for task in _page(found, body)]}

    def _create(self, _: Request, body: Json) -> Response:
        if not body.get("name"):
            raise _Refused(40, "name is missing")
        template = _object(body.get("template")).get("id", 0)
        if template not in (0, TEMPLATE):
            raise _Refused(41, "template")
        status = _object(body.get("status")).get("id", 1)
        if status not in STATUSES:
            raise _Refused(41, "status")
        told = {"name": body["name"], "status": status, "template": template}
        task = self._new(told, self._values(body, TASK_FIELDS))
        self.done.append(("task", task["id"]))
        return JSONResponse({"result": "success", "id": task["id"]}, status_code=201)

    def _update(self, request: Request, body: Json) -> Json | Response:
        task = self._one(request)
        if request.query_params.get("silent", "false") not in ("true", "false"):
            raise _Refused(41, "silent")
        status = _object(body.get("status")).get("id", task["status"])
        if type(status) is not int or status not in STATUSES:
            raise _Refused(41, "status")
        changes = {"status": status, "values": self._values(body, TASK_FIELDS)}
        self.done.append(("change", task["id"]))
        if task["id"] in self.busy:
            self._queue.append((task["id"], changes))
            return JSONResponse({"result": "success"}, status_code=202)
        self._apply(task, changes)
        return {}

    def _apply(self, task: Json, changes: Json) -> None:
        task["status"] = changes["status"]
        task["values"] |= changes["values"]
        task["changed"] = self._time()

    def _new(self, told: Json, values: Mapping[int, Any]) -> Json:
        self._made += 1
        task: Json = {"id": self._made, "deleted": False, "changed": self._time(), **told, "values": dict(values)}
        self.tasks[task["id"]] = task
        return task

    def _shown(self, task: Json, fields: str) -> Json:
        changed = cast("datetime", task["changed"])
        local = changed.astimezone(self._zone)
        point = {"date": f"{local:%d-%m-%Y}", "time": f"{local:%H:%M}", "datetime": f"{changed:%Y-%m-%dT%H:%MZ}"}
        system: Json = {
            "id": task["id"],
            "name": task["name"],
            "description": "",
            "status": {"id": task["status"], "name": STATUSES[task["status"]]},
            "template": {"id": task["template"]} if task["template"] else None,
            "isDeleted": task["deleted"],
            "dateOfLastUpdate": point,
        }
        wanted = fields.split(",")
        own = [_value(field, task["values"].get(field)) for field in TASK_FIELDS if str(field) in wanted]
        return {name: value for name, value in system.items() if name in wanted} | {"customFieldData": own}

    def _test(self, told: Json) -> Callable[[Json], bool]:
        kind, operator, value = told.get("type"), told.get("operator"), told.get("value")
        allowed = _DATE_OPERATORS if kind == 38 else _OPERATORS.get(cast("int", kind))
        if allowed is None or operator not in allowed:
            raise _Refused(41, "filters")
        if kind == 38:
            since = self._moment(_object(value))
            return lambda task: (task["changed"] > since) is (operator == "gt")
        if kind == 51:
            return lambda task: (task["template"] == value) is (operator == "equal")
        if not isinstance(value, str):
            raise _Refused(41, "value")
        text = value.casefold()
        if kind == 8:
            return lambda task: (text in task["name"].casefold()) is (operator == "equal")
        field = told.get("field")
        if TASK_FIELDS.get(cast("int", field)) != "line":
            raise _Refused(41, "field")
        if operator in ("have", "nothave"):
            return lambda task: (text in str(task["values"].get(field, "")).casefold()) is (operator == "have")
        return lambda task: (str(task["values"].get(field, "")).casefold() == text) is (operator == "equal")

    def _moment(self, value: Json) -> datetime:
        if value.get("dateType") != "otherDate_withTime":
            raise _Refused(41, "dateType")
        try:
            local = datetime.strptime(str(value.get("dateFrom")), "%d-%m-%Y %H:%M")  # noqa: DTZ007 - the zone follows
        except ValueError:
            raise _Refused(41, "dateFrom") from None
        return local.replace(tzinfo=self._zone)

    def _values(self, body: Json, known: Mapping[int, str]) -> dict[int, Any]:
        """Return the values of custom fields; one that isn't there is passed over in silence."""
        values: dict[int, Any] = {}
        for told in map(_object, _listed(body.get("customFieldData"))):
            field, value = _object(told.get("field")).get("id"), told.get("value")
            kind = known.get(cast("int", field))
            if kind is None:
                continue
            fits = {
                "line": isinstance(value, str) and len(value) <= 255,
                "number": isinstance(value, Decimal) or type(value) is int,
                "date": bool(re.fullmatch("[0-3][0-9]-[01][0-9]-[0-9]{4}", str(_object(value).get("date")))),
            }
            if not fits[kind]:
                raise _Refused(41, "value")
            values[cast("int", field)] = value
        return values

    # Comments and entries

    def _comment(self, request: Request, body: Json) -> Response:
        task = self._one(request)
        if not str(body.get("description") or "").strip():
            raise _Refused(40, "description is missing")
        made = self._add_comment(task, str(body["description"]))
        self.done.append(("comment", task["id"]))
        return JSONResponse({"result": "success", "id": made["id"]}, status_code=201)

    def _add_comment(self, task: Json, description: str) -> Json:
        self._made += 1
        made: Json = {"id": self._made, "task": task["id"], "description": description, "isDeleted": False}
        self.comments[made["id"]] = made
        return made

    def _list_comments(self, request: Request, body: Json) -> Json:
        task = self._one(request)
        found = [one for one in self.comments.values() if one["task"] == task["id"]]
        if body.get("resultOrder", "Desc") == "Desc":
            found.reverse()
        wanted = str(body.get("fields", "id")).split(",")
        return {"comments": [{name: one[name] for name in wanted if name in one} for one in _page(found, body)]}

    def _enter(self, request: Request, body: Json) -> Response:
        task = self._one(request)
        if _object(body.get("dataTag")).get("id") != INCOME:
            raise _Refused(6000, "The data tag doesn't exist")
        comment = request.path_params.get("comment")
        if comment is not None and self.comments.get(comment, {}).get("task") != task["id"]:
            raise _Refused(5000, "The comment doesn't exist")
        items = [self._values(_object(item), ENTRY_FIELDS) for item in _listed(body.get("items"))]
        if not items:
            raise _Refused(40, "items are missing")
        comment = comment or self._add_comment(task, "")["id"]
        keys: list[int] = []
        for values in items:
            self._made += 1
            keys.append(self._made)
            self.entries[self._made] = {"key": self._made, "task": task["id"], "commentId": comment, "values": values}
        self.done.append(("entry", task["id"]))
        return JSONResponse({"result": "success", "keys": keys, "commentId": comment}, status_code=201)

    def _tag(self, request: Request) -> None:
        if request.path_params["id"] != INCOME:
            raise _Refused(6000, "The data tag doesn't exist")

    def _get_tag(self, request: Request, _: Json) -> Json:
        self._tag(request)
        return {"dataTag": {"id": INCOME, "name": "Income"}}

    def _list_entries(self, request: Request, body: Json) -> Json:
        self._tag(request)
        found = list(self.entries.values())
        for told in map(_object, _listed(body.get("filters"))):
            field, value = cast("int", told.get("field")), told.get("value")
            if told.get("type") != 3108 or told.get("operator") != "equal" or ENTRY_FIELDS.get(field) != "line":
                raise _Refused(41, "filters")
            found = [one for one in found if str(one["values"].get(field, "")).casefold() == str(value).casefold()]
        wanted = str(body.get("fields", "key")).split(",")
        shown: list[Json] = []
        for one in _page(found, body):
            own = [_value(field, one["values"].get(field)) for field in ENTRY_FIELDS if str(field) in wanted]
            system = {"key": one["key"], "task": {"id": one["task"]}, "commentId": one["commentId"]}
            shown.append({name: value for name, value in system.items() if name in wanted} | {"customFieldData": own})
        return {"dataTagEntries": shown}


def _value(field: int, value: Any) -> Json:
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    return {"field": {"id": field, "name": f"Field {field}"}, "value": value}


def _object(value: Any) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _page(found: Sequence[Json], body: Json) -> Sequence[Json]:
    offset, size = body.get("offset", 0), body.get("pageSize", _PAGE_SIZE_MAX)
    if type(offset) is not int or type(size) is not int or offset < 0 or not 1 <= size <= _PAGE_SIZE_MAX:
        raise _Refused(41, "offset or pageSize")
    return found[offset : offset + size]


async def _body(request: Request) -> Json:
    content = await request.body()
    if request.method == "GET":
        return {}
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise _Refused(30, "The body is no JSON")
    try:
        return _object(json.loads(content, parse_float=Decimal))
    except ValueError:
        raise _Refused(30, "The body is no JSON") from None
