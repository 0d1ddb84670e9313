"""A stand-in for a Bitrix24 portal, as strict as the portal is in what Kvit uses of its CRM.

It keeps deals and the items of one smart process in memory. People change stages by calling it in Python; each change
is an event, which `deliver` posts to an outgoing webhook once, as the portal does: what gets lost stays lost.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.sandbox.standin import StandIn

Json = dict[str, Any]

DEAL = 2
SMART_PROCESS = 128

_MOSCOW = timezone(timedelta(hours=3))
_PAGE_SIZE = 50
_COMMANDS_MAX = 50
_DEAL_STAGES = ("NEW", "PREPARATION", "PREPAYMENT_INVOICE", "EXECUTING", "FINAL_INVOICE", "WON", "LOSE", "APOLOGY")
_STATUSES = {
    "NO_AUTH_FOUND": 401,
    "INVALID_CREDENTIALS": 401,
    "insufficient_scope": 401,
    "expired_token": 401,
    "invalid_token": 401,
    "invalid_client": 401,
    "ACCESS_DENIED": 403,
    "ERROR_METHOD_NOT_FOUND": 404,
    "OPERATION_TIME_LIMIT": 429,
    "INTERNAL_SERVER_ERROR": 500,
    "QUERY_LIMIT_EXCEEDED": 503,
    "OVERLOAD_LIMIT": 503,
}

# What each field of an item holds; the rest of the portal's many fields aren't played.
_COMMON = {"title": "string", "stageId": "crm_status", "categoryId": "crm_category", "assignedById": "user"}
_MONEY = {"opportunity": "double", "currencyId": "crm_currency", "isManualOpportunity": "boolean"}
_READ_ONLY = {"id": "integer", "createdTime": "datetime", "updatedTime": "datetime", "movedTime": "datetime"}
_OF_DEALS = {**_COMMON, **_MONEY, "originatorId": "string", "originId": "string"}
_OF_ITEMS = {**_COMMON, "xmlId": "string"}
_LENGTHS = {"title": 255, "originatorId": 255, "originId": 255, "stageId": 50, "currencyId": 50}


class _Refused(Exception):
    """A call that is answered with an error."""

    def __init__(self, code: str, description: str, more: Json | None = None) -> None:
        super().__init__(description)
        self.code = code
        self.more = more or {}

    @property
    def body(self) -> Json:
        return {"error": self.code, "error_description": str(self), **self.more}


@dataclass
class Kind:
    """A kind of item: its fields and what each holds, and the stages of its funnels."""

    fields: dict[str, str]
    stages: dict[int, tuple[str, ...]]
    items: dict[int, Json] = field(default_factory=dict[int, Json])
    with_money: bool = True


class Bitrix24StandIn(StandIn):
    """`async with Bitrix24StandIn() as portal:`, then point the connector's base_url at `portal.url`.

    custom are custom fields and what they hold: string, double or money. `kinds` holds the items, `comments` the
    timelines, `rows` the product rows by type and item; `events` is what happened to items, the oldest first; `done`
    names each call that changed something, and the id that it changed. burst is how many requests are taken at once,
    before only leak a second are. time is what the portal's clock shows; it stands still when set. `then` holds what
    somebody else does right after the next call of a method, by the method's name, or `oauth`.

    Who calls it has a webhook's secret, or is the app, with an access token of an hour in the body. `refresh_token` is
    the one that gets the next two at /oauth/token/, once; `granted` counts how often that was done.
    """

    def __init__(
        self,
        *,
        user: int = 7,
        token: str = "sandboxhooksecret",  # noqa: S107 - a stand-in's secrets are none
        application_token: str | None = None,
        custom: Mapping[str, str] | None = None,
        spa_money: bool = True,
        burst: int = 50,
        leak: float = 2.0,
        port: int = 0,
    ) -> None:
        """Make a portal without items, and with an application token of its own where none is given."""
        self.user, self.token = user, token
        self.application_token = application_token or secrets.token_hex(16)
        own = dict(custom or {})
        spa_stages = {5: ("DT128_5:NEW", "DT128_5:PREPARATION", "DT128_5:CLIENT", "DT128_5:SUCCESS", "DT128_5:FAIL")}
        self.kinds = {
            DEAL: Kind({**_OF_DEALS, **own}, {0: _DEAL_STAGES, 9: ("C9:NEW", "C9:UC_A1B2C3", "C9:WON", "C9:LOSE")}),
            SMART_PROCESS: Kind(
                {**_OF_ITEMS, **(_MONEY if spa_money else {}), **own}, spa_stages, with_money=spa_money
            ),
        }
        self.comments: list[Json] = []
        self.rows: dict[tuple[str, int], list[Json]] = {}
        self.events: list[Json] = []
        self.done: list[tuple[str, int]] = []
        self.time: datetime | None = None
        self.client_id, self.client_secret = "local.sandbox", secrets.token_urlsafe(24)
        self.refresh_token = secrets.token_hex(35)
        self.granted = 0
        self._access: dict[str, datetime] = {}
        self.forbidden: set[str] = set()
        self.blocked: dict[str, float] = {}
        self.then: dict[str, Callable[[], object]] = {}
        self._burst, self._leak = burst, leak
        self._filled, self._filled_at = 0.0, 0.0
        self._made = 0
        self._methods: dict[str, Callable[[Json], tuple[Any, Json]]] = {
            "crm.item.fields": self._fields,
            "crm.item.get": self._get,
            "crm.item.list": self._list,
            "crm.item.add": self._add,
            "crm.item.update": self._update,
            "crm.item.productrow.set": self._set_rows,
            "crm.item.productrow.list": self._list_rows,
            "crm.timeline.comment.add": self._comment,
            "crm.timeline.comment.list": self._list_comments,
        }
        routes = [
            Route("/rest/{user}/{token}/{method}", self._endpoint, methods=["GET", "POST"]),
            Route("/rest/{method}", self._as_app, methods=["GET", "POST"]),
            Route("/oauth/token/", self._grant, methods=["POST"]),
        ]
        super().__init__(Starlette(routes=routes), port=port)

    def error(self, status: int) -> Response:
        """Return an answer with an error status, shaped as the portal's are."""
        code = "OPERATION_TIME_LIMIT" if status == 429 else "INTERNAL_SERVER_ERROR" if status >= 500 else "ERROR_CORE"
        said = {"error": code, "error_description": "The stand-in was told to misbehave."}
        return JSONResponse(said, status_code=status)

    def failure(self) -> Response:
        """Return an answer with status 200 that tells of a failure, shaped as the portal's are."""
        return JSONResponse({"error": "ERROR_CORE", "error_description": "The stand-in was told to misbehave."})

    # What people and the portal do

    def make(self, number: str, *, kind: int = DEAL, **fields: Any) -> Json:
        """Let a person make a card for an order's number, as Kvit's own are; fields are further ones. Return it."""
        own = {"originatorId": "kvit", "originId": number} if kind == DEAL else {"xmlId": f"kvit:{number}"}
        return self._new(kind, {"title": number, **own, **fields})

    def move(self, item: int, stage: str, *, kind: int = DEAL) -> Json:
        """Let a person move a card to another stage; return the event."""
        self._write(kind, self.kinds[kind].items[item], {"stageId": stage})
        return self.events[-1]

    def write(self, item: int, *, kind: int = DEAL, **fields: Any) -> Json:
        """Let a person change fields of a card; return the event."""
        self._write(kind, self.kinds[kind].items[item], fields)
        return self.events[-1]

    def delete(self, item: int, *, kind: int = DEAL) -> None:
        """Let a person delete a card."""
        del self.kinds[kind].items[item]

    def block(self, method: str, seconds: float) -> None:
        """Let a method have used up its time, for as many seconds from now."""
        self.blocked[method] = time.time() + seconds

    def body(self, event: Json, *, token: str | None = None) -> bytes:
        """Return the form that an outgoing webhook posts of an event."""
        form = {
            "event": event["event"],
            "event_handler_id": "201",
            **{f"data[FIELDS][{key}]": value for key, value in event["fields"].items()},
            "ts": str(event["ts"]),
            "auth[domain]": "sandbox.bitrix24.eu",
            "auth[client_endpoint]": f"{self.url}/rest/",
            "auth[server_endpoint]": "https://oauth.bitrix.info/rest/",
            "auth[member_id]": "a223c6b3710f85df22e9377d6c4f7553",
            "auth[application_token]": self.application_token if token is None else token,
        }
        return urlencode(form).encode()

    async def deliver(self, event: Json, url: str) -> int | None:
        """Post an event to an outgoing webhook, once; return the status answered, or None where nobody answered."""
        headers = {"content-type": "application/x-www-form-urlencoded"}
        async with httpx.AsyncClient(timeout=30) as client:
            try:
                return (await client.post(url, content=self.body(event), headers=headers)).status_code
            except httpx.TransportError:
                return None

    def texts(self, item: int, *, kind: int = DEAL) -> list[str]:
        """Return the texts of the comments on a card."""
        type_ = _timeline(kind)
        return [one["COMMENT"] for one in self.comments if (one["ENTITY_TYPE"], one["ENTITY_ID"]) == (type_, str(item))]

    def expire(self) -> None:
        """Let all access tokens hold no longer."""
        self._access = dict.fromkeys(self._access, datetime.min.replace(tzinfo=UTC))

    # How it answers

    async def _endpoint(self, request: Request) -> Response:
        return await self._answered(request, lambda _: self._enter(request.path_params))

    async def _as_app(self, request: Request) -> Response:
        return await self._answered(request, self._enter_as_app)

    async def _answered(self, request: Request, enter: Callable[[Json], None]) -> Response:
        began = time.time()
        try:
            self._drip()
            method = request.path_params["method"].removesuffix(".json")
            params = await _params(request)
            enter(params)
            result, more = self._batch(params) if method == "batch" else self._call(method, params)
        except _Refused as refused:
            return JSONResponse(refused.body, status_code=_STATUSES.get(refused.code, 400))
        return JSONResponse({"result": result, **more, "time": _spent(began)})

    async def _grant(self, request: Request) -> Response:
        """Give the next two tokens for the newest refresh token, of which no earlier one is taken any more."""
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        try:
            self._may_be_granted(form, request.url.query)
        except _Refused as refused:
            return JSONResponse(refused.body, status_code=_STATUSES.get(refused.code, 400))
        access, self.refresh_token = secrets.token_hex(35), secrets.token_hex(35)
        self.granted += 1
        expires = self._time() + timedelta(hours=1)
        self._access[access] = expires
        told = {"access_token": access, "refresh_token": self.refresh_token, "expires_in": 3600, "scope": "crm"}
        told |= {
            "expires": int(expires.timestamp()),
            "domain": "oauth.bitrix.info",
            "status": "L",
            "user_id": self.user,
        }
        told |= {"client_endpoint": f"{self.url}/rest/", "member_id": "a223c6b3710f85df22e9377d6c4f7553"}
        self.then.pop("oauth", str)()
        return JSONResponse(told)

    def _may_be_granted(self, form: Json, query: str) -> None:
        if query:
            raise _Refused("invalid_request", "Parameters in the address are logged on the way")
        if form.get("grant_type") != "refresh_token":
            raise _Refused("unsupported_grant_type", "The grant type is not supported")
        if (form.get("client_id"), form.get("client_secret")) != (self.client_id, self.client_secret):
            raise _Refused("invalid_client", "The client credentials are invalid")
        if form.get("refresh_token") != self.refresh_token:
            raise _Refused("invalid_grant", "The refresh token is invalid or has been used")

    def _time(self) -> datetime:
        return self.time or datetime.now(UTC)

    def _enter_as_app(self, params: Json) -> None:
        access = params.pop("auth", None)
        if access is None:
            raise _Refused("NO_AUTH_FOUND", "Wrong authorization data")
        if access not in self._access:
            raise _Refused("invalid_token", "Unable to get application by token")
        if self._access[access] <= self._time():
            raise _Refused("expired_token", "The access token provided has expired.")

    def _enter(self, path: Mapping[str, Any]) -> None:
        if (path["user"], path["token"]) != (str(self.user), self.token):
            raise _Refused("INVALID_CREDENTIALS", "Invalid request credentials")

    def _drip(self) -> None:
        """Take a request into a bucket that leaks."""
        now = time.monotonic()
        self._filled = max(0.0, self._filled - self._leak * (now - self._filled_at))
        self._filled_at = now
        if self._filled + 1 > self._burst:
            raise _Refused("QUERY_LIMIT_EXCEEDED", "Too many requests")
        self._filled += 1

    def _call(self, method: str, params: Json) -> tuple[Any, Json]:
        until = self.blocked.get(method, 0.0)
        if until > time.time():
            reset = {"time": {**_spent(time.time()), "operating_reset_at": int(until)}}
            raise _Refused("OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit", reset)
        if method in self.forbidden:
            raise _Refused("insufficient_scope", "The request requires higher privileges than provided")
        if method not in self._methods:
            raise _Refused("ERROR_METHOD_NOT_FOUND", "Method not found!")
        told = self._methods[method](params)
        if method in self.then:
            self.then.pop(method)()
        return told

    def _batch(self, params: Json) -> tuple[Any, Json]:
        commands = cast("Any", params.get("cmd"))
        if not isinstance(commands, dict):
            raise _Refused("ERROR_BATCH", "cmd is missing")
        told = cast("dict[str, str]", commands)
        if len(told) > _COMMANDS_MAX:
            raise _Refused("ERROR_BATCH_LENGTH_EXCEEDED", "Max batch length exceeded")
        results: Json = {}
        errors: Json = {}
        totals: Json = {}
        for name, command in told.items():
            method, _, query = command.partition("?")
            try:
                result, more = self._call(method, _php(query, results))
                results[name] = result
                if "total" in more:
                    totals[name] = more["total"]
            except _Refused as refused:
                errors[name] = refused.body
                if params.get("halt") in (1, "1", True):
                    break
        # PHP writes an object without entries as an empty list.
        parts = {"result": results, "result_error": errors, "result_total": totals, "result_next": {}}
        answered: Json = {key: value or [] for key, value in parts.items()}
        return {**answered, "result_time": []}, {}

    # Items

    def _kind(self, params: Json) -> tuple[int, Kind]:
        if "entityTypeId" not in params:
            raise _Refused("100", "Could not find value for parameter {entityTypeId}")
        type_ = _whole(params["entityTypeId"])
        if type_ not in self.kinds:
            raise _Refused("NOT_FOUND", "Smart process not found")
        return type_, self.kinds[type_]

    def _one(self, params: Json) -> tuple[int, Json]:
        type_, kind = self._kind(params)
        if "id" not in params:
            raise _Refused("100", "Could not find value for parameter {id}")
        item = kind.items.get(_whole(params["id"]) or 0)
        if item is None:
            raise _Refused("NOT_FOUND", "Element not found")
        return type_, item

    def _fields(self, params: Json) -> tuple[Any, Json]:
        _, kind = self._kind(params)
        told = {**_READ_ONLY, **kind.fields}
        described = {
            name: {"type": type_, "isReadOnly": name in _READ_ONLY, "isMultiple": False, "isDynamic": _is_own(name)}
            for name, type_ in told.items()
        }
        return {"fields": {_name(name, params): about for name, about in described.items()}}, {}

    def _get(self, params: Json) -> tuple[Any, Json]:
        type_, item = self._one(params)
        return {"item": _shown(item, params) | {"entityTypeId": type_}}, {}

    def _list(self, params: Json) -> tuple[Any, Json]:
        _, kind = self._kind(params)
        known = {_name(name, params): name for name in (*_READ_ONLY, *kind.fields)}
        tests = [self._test(known, {**_READ_ONLY, **kind.fields}, *one) for one in _dict(params.get("filter")).items()]
        found = [item for item in kind.items.values() if all(test(item) for test in tests)]
        for name, direction in reversed(_dict(params.get("order")).items()):
            if name not in known:
                raise _Refused("INVALID_ARG_VALUE", f"Invalid order: field '{name}' is not allowed in order")
            if direction not in ("ASC", "DESC"):
                raise _Refused("INVALID_ARG_VALUE", "Invalid order: allowed sort directions are ASC, DESC")
            column = known[name]
            found.sort(key=lambda item: item[column], reverse=direction == "DESC")
        selected = [known[name] for name in _list_of(params.get("select")) if name in known]

        def shown(item: Json) -> Json:
            if not selected:
                return _shown(item, params)
            return _shown({name: item[name] for name in ("id", *selected)}, params)

        page, more = _page(found, params)
        return {"items": [shown(item) for item in page]}, more

    def _test(
        self, known: Mapping[str, str], holds: Mapping[str, str], key: str, wanted: Any
    ) -> Callable[[Json], bool]:
        told = re.fullmatch("(>=|<=|=%|%=|!=|!|>|<|=|%|@)?(.+)", key)
        sign, name = (told[1] or "=", told[2]) if told else ("=", key)
        if name not in known:
            raise _Refused("INVALID_ARG_VALUE", f"Invalid filter: field '{name}' is not allowed in filter")
        column = known[name]
        kind = holds[column]

        def value(one: Any) -> Any:
            if kind == "datetime":
                try:
                    return datetime.fromisoformat(str(one))
                except ValueError:
                    raise _Refused("INVALID_ARG_VALUE", f"Invalid filter: field '{name}' has invalid value") from None
            if kind in ("integer", "user", "crm_category", "double"):
                return _decimal(one) or Decimal(0)
            # As the database compares: without regard to case, and to spaces at the end.
            return str(one if one is not None else "").rstrip().casefold()

        asked = [value(one) for one in _list_of(wanted)] if sign == "@" else value(wanted)
        if sign in ("%", "=%", "%="):
            parts = (f"%{wanted}%" if sign == "%" else str(wanted)).casefold().split("%")
            pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
            return lambda item: bool(pattern.fullmatch(value(item[column])))
        tests: dict[str, Callable[[Any], bool]] = {
            "=": lambda one: one == asked,
            "!=": lambda one: one != asked,
            "!": lambda one: one != asked,
            "@": lambda one: one in asked,
            ">=": lambda one: one >= asked,
            "<=": lambda one: one <= asked,
            ">": lambda one: one > asked,
            "<": lambda one: one < asked,
        }
        return lambda item: tests[sign](value(item[column]))

    def _add(self, params: Json) -> tuple[Any, Json]:
        type_, _ = self._kind(params)
        if not isinstance(params.get("fields"), dict):
            raise _Refused("100", "Could not find value for parameter {fields}")
        made = self._new(type_, _inner(params))
        self.done.append(("crm.item.add", made["id"]))
        return {"item": _shown(made, params) | {"entityTypeId": type_}}, {}

    def _update(self, params: Json) -> tuple[Any, Json]:
        type_, item = self._one(params)
        if not isinstance(params.get("fields"), dict):
            raise _Refused("100", "Could not find value for parameter {fields}")
        if "id" in params["fields"]:
            raise _Refused("ERROR_CORE", "Setting value for Primary ID is not allowed, it is read-only field")
        self._write(type_, item, _inner(params))
        self.done.append(("crm.item.update", item["id"]))
        return {"item": _shown(item, params) | {"entityTypeId": type_}}, {}

    def _new(self, type_: int, fields: Mapping[str, Any]) -> Json:
        kind = self.kinds[type_]
        self._made += 1
        item: Json = {"id": self._made, **dict.fromkeys(kind.fields)}
        funnel = _whole(fields.get("categoryId")) or min(kind.stages)
        if funnel not in kind.stages:
            raise _Refused("CRM_FIELD_ERROR_VALUE_NOT_VALID", "Invalid value for field categoryId")
        now = self._now()
        item |= {"categoryId": funnel, "stageId": kind.stages[funnel][0], "assignedById": self.user}
        item |= {"createdTime": now, "updatedTime": now, "movedTime": now}
        if kind.with_money:
            item |= {"opportunity": Decimal(0), "currencyId": "EUR", "isManualOpportunity": "N"}
        item |= self._checked(type_, item, {k: v for k, v in fields.items() if k != "categoryId"})
        kind.items[item["id"]] = item
        self._happened(type_, item, "ADD")
        return item

    def _write(self, type_: int, item: Json, fields: Mapping[str, Any]) -> None:
        checked = self._checked(type_, item, fields)
        if checked.get("stageId", item["stageId"]) != item["stageId"]:
            item["movedTime"] = self._now()
        item |= checked | {"updatedTime": self._now()}
        # Also where nothing is other than before.
        self._happened(type_, item, "UPDATE")

    def _checked(self, type_: int, item: Json, fields: Mapping[str, Any]) -> Json:
        """Return the fields as they are kept; one that isn't there, or can't be written, is passed over in silence."""
        kind = self.kinds[type_]
        kept: Json = {}
        for name, value in fields.items():
            if name not in kind.fields:
                continue
            kept[name] = _kept(kind.fields[name], name, value)
            if name == "stageId" and value not in kind.stages[item["categoryId"]]:
                raise _Refused("CRM_FIELD_ERROR_VALUE_NOT_VALID", "Invalid value for field stageId")
        return kept

    def _happened(self, type_: int, item: Json, what: str) -> None:
        deal = type_ == DEAL
        fields = {"ID": str(item["id"])} | ({} if deal else {"ENTITY_TYPE_ID": str(type_)})
        ts = int(self._time().timestamp())
        event = f"ONCRM{'DEAL' if deal else 'DYNAMICITEM'}{what}"
        self.events.append({"event": event, "fields": fields, "ts": ts})

    def _now(self) -> str:
        return self._time().astimezone(_MOSCOW).isoformat(timespec="seconds")

    # Product rows

    def _owner(self, type_: Any, owner: Any) -> tuple[tuple[str, int], Json]:
        kinds = {"D": DEAL, f"T{SMART_PROCESS:x}": SMART_PROCESS}
        if type_ not in kinds:
            raise _Refused("INVALID_ARG_VALUE", "Invalid ownerType")
        item = self.kinds[kinds[type_]].items.get(_whole(owner) or 0)
        if item is None:
            raise _Refused("OWNER_NOT_FOUND", "Owner not found")
        return (type_, item["id"]), item

    def _set_rows(self, params: Json) -> tuple[Any, Json]:
        owner, item = self._owner(params.get("ownerType"), params.get("ownerId"))
        rows: list[Json] = []
        for told in map(_dict, _list_of(params.get("productRows"))):
            price, quantity = _decimal(told.get("price", 0)), _decimal(told.get("quantity", 1))
            name = told.get("productName")
            if price is None or quantity is None or not name or len(name) > 256:
                raise _Refused("INVALID_ARG_VALUE", "Invalid product row")
            self._made += 1
            row = {"id": self._made, "ownerId": item["id"], "ownerType": owner[0], "productName": name}
            row |= {"price": price, "quantity": quantity, "taxRate": _decimal(told.get("taxRate"))}
            rows.append(row | {"taxIncluded": told.get("taxIncluded", "N"), "sort": _whole(told.get("sort"))})
        self.rows[owner] = rows
        if item.get("isManualOpportunity") == "N":
            item["opportunity"] = sum((row["price"] * row["quantity"] for row in rows), Decimal(0))
        self.done.append(("crm.item.productrow.set", item["id"]))
        return {"productRows": [_shown(row, params) for row in rows]}, {}

    def _list_rows(self, params: Json) -> tuple[Any, Json]:
        told = _dict(params.get("filter"))
        if not {"=ownerType", "=ownerId"} <= told.keys():
            raise _Refused("REQUIRED_ARG_MISSING", "Required fields: =ownerType, =ownerId")
        owner, _ = self._owner(told["=ownerType"], told["=ownerId"])
        page, more = _page(self.rows.get(owner, []), params)
        return {"productRows": [_shown(row, params) for row in page]}, more

    # The timeline

    def _entity(self, told: Json) -> tuple[str, int]:
        if not {"ENTITY_ID", "ENTITY_TYPE"} <= told.keys():
            raise _Refused("100", "Required fields not provided")
        kinds = {_timeline(kind): kind for kind in self.kinds}
        kind = kinds.get(told["ENTITY_TYPE"])
        item = self.kinds[kind].items.get(_whole(told["ENTITY_ID"]) or 0) if kind else None
        if item is None:
            raise _Refused("OWNER_NOT_FOUND", "Owner of the element not found")
        return told["ENTITY_TYPE"], item["id"]

    def _comment(self, params: Json) -> tuple[Any, Json]:
        told = _dict(params.get("fields"))
        type_, item = self._entity(told)
        if not str(told.get("COMMENT", "")).strip():
            raise _Refused("INVALID_ARG_VALUE", "Empty comment")
        self._made += 1
        made = {"ID": str(self._made), "ENTITY_ID": str(item), "ENTITY_TYPE": type_, "CREATED": self._now()}
        self.comments.append(made | {"COMMENT": str(told["COMMENT"]), "AUTHOR_ID": str(self.user), "FILES": {}})
        self.done.append(("crm.timeline.comment.add", item))
        return self._made, {}

    def _list_comments(self, params: Json) -> tuple[Any, Json]:
        type_, item = self._entity(_dict(params.get("filter")))
        found = [one for one in self.comments if (one["ENTITY_TYPE"], one["ENTITY_ID"]) == (type_, str(item))]
        if _dict(params.get("order")).get("ID", "DESC") == "DESC":
            found.reverse()
        wanted = _list_of(params.get("select"))
        page, more = _page(found, params)
        return [{key: value for key, value in one.items() if not wanted or key in wanted} for one in page], more


def _timeline(kind: int) -> str:
    return "deal" if kind == DEAL else f"DYNAMIC_{kind}"


def _is_own(name: str) -> bool:
    return name.startswith("UF_")


def _name(name: str, params: Json) -> str:
    """Return what a field is called in a call: a custom one by its code only where that is asked for."""
    if not _is_own(name) or params.get("useOriginalUfNames") == "Y":
        return name
    return "ufCrm" + "_".join(word.capitalize() for word in name.removeprefix("UF_CRM_").split("_"))


def _inner(params: Json) -> Json:
    """Return the fields of a call under the names that they are kept by."""
    told = _dict(params["fields"])
    if params.get("useOriginalUfNames") == "Y":
        return told
    return {name: value for name, value in told.items() if not _is_own(name)}


def _shown(values: Mapping[str, Any], params: Json) -> Json:
    """Return an object's fields as JSON has them: an amount is a number."""

    def plain(value: Any) -> Any:
        if isinstance(value, Decimal):
            return int(value) if value == value.to_integral_value() else float(value)
        return value

    return {_name(name, params): plain(value) for name, value in values.items()}


def _kept(kind: str, name: str, value: Any) -> Any:
    """Return a value as a field of some kind keeps it."""
    if kind == "double":
        number = _decimal(value)
        if number is None:
            raise _Refused("CRM_FIELD_ERROR_VALUE_NOT_VALID", f"Invalid value for field {name}")
        return number.quantize(Decimal("0.01"))
    if kind == "money":
        known = re.fullmatch(r"(-?[0-9]+(?:\.[0-9]+)?)\|([A-Z]{3})", str(value))
        if known is None:
            raise _Refused("CRM_FIELD_ERROR_VALUE_NOT_VALID", f"Invalid value for field {name}")
        return f"{Decimal(known[1]).normalize():f}|{known[2]}"
    if kind in ("user", "crm_category"):
        return _whole(value)
    if kind == "boolean":
        return "Y" if value in ("Y", "y", "true", True) else "N"
    if name == "currencyId" and not re.fullmatch("[A-Z]{3}", str(value)):
        raise _Refused("CRM_FIELD_ERROR_VALUE_NOT_VALID", "Invalid value for field currencyId")
    text = str(value)
    if len(text) > _LENGTHS.get(name, 1_000):
        raise _Refused("CRM_FIELD_ERROR_VALUE_NOT_VALID", f"The value of field {name} is too long")
    return text


def _decimal(value: Any) -> Decimal | None:
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return None


def _whole(value: Any) -> int | None:
    return int(value) if re.fullmatch("-?[0-9]{1,15}", str(value)) else None


def _dict(value: Any) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _list_of(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("Json", value).values())
    return list(cast("Sequence[Any]", value)) if isinstance(value, list) else []


def _page(found: Sequence[Json], params: Json) -> tuple[list[Json], Json]:
    start = _whole(params.get("start", 0)) or 0
    if start < 0:
        return list(found[:_PAGE_SIZE]), {}
    more = {"next": start + _PAGE_SIZE} if len(found) > start + _PAGE_SIZE else {}
    return list(found[start : start + _PAGE_SIZE]), {**more, "total": len(found)}


def _spent(began: float) -> Json:
    stamp = datetime.fromtimestamp(began, _MOSCOW).isoformat(timespec="seconds")
    return {"start": began, "finish": began, "duration": 0.0, "processing": 0.0, "operating": 0} | {
        "date_start": stamp,
        "date_finish": stamp,
    }


async def _params(request: Request) -> Json:
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            told = json.loads(body)
        except ValueError:
            raise _Refused("INVALID_REQUEST_BODY", "The request's body is no JSON") from None
        return _dict(told)
    return _php(body.decode() or str(request.url.query), {})


def _php(query: str, results: Json) -> Json:
    """Read a query as PHP does, with names such as `filter[=id]`; `$result[…]` is what another command returned."""
    told: Json = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        first, *rest = name.replace("]", "").split("[")
        place, key = told, first
        for part in rest:
            place = place.setdefault(key, {})
            key = part
        place[key] = _replaced(text, results)
    return told


def _replaced(text: str, results: Json) -> str:
    def value(found: re.Match[str]) -> str:
        place: Any = results
        for part in found[1].strip("[]").split("]["):
            if isinstance(place, list):
                listed = cast("list[Any]", place)
                place = listed[int(part)] if part.isdecimal() and int(part) < len(listed) else None
            else:
                place = _dict(place).get(part)
        return "" if place is None else str(place)

    return re.sub(r"\$result((?:\[[^\]]*\])+)", value, text)
