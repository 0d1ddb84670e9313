"""A stand-in for CDEK's API v2, as strict as CDEK is in what Kvit uses.

It keeps its orders in memory. What is asked of it is accepted at once and looked at later: each time that an object is
asked about, it comes one step further, so nothing here waits for a clock. Couriers and CDEK's accountants act by
calling it in Python.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from deployments.sandbox.standin import StandIn

Json = dict[str, Any]

TO_DOOR = frozenset({137, 139, 233, 480, 482})
TO_OFFICE = frozenset({136, 138, 234, 481, 483})
FROM_OFFICE = frozenset({136, 137, 233, 234, 482, 483})
"""The tariffs that the account's contract has, by where parcels go to and where they come from."""

OFFICES = frozenset({"MSK5", "MSK67", "SPB12", "NSK7"})
"""The offices that there are; what goes to another one is found wrong later."""

WAY = (
    "RECEIVED_AT_SHIPMENT_WAREHOUSE",
    "READY_FOR_SHIPMENT_IN_SENDER_CITY",
    "TAKEN_BY_TRANSPORTER_FROM_SENDER_CITY",
    "SENT_TO_TRANSIT_CITY",
    "ACCEPTED_IN_RECIPIENT_CITY",
    "TAKEN_BY_COURIER",
    "DELIVERED",
)
"""The statuses of a parcel that goes well."""

_FINAL = frozenset({"DELIVERED", "NOT_DELIVERED", "INVALID", "REMOVED"})
_EVENT_TYPES = frozenset({"ORDER_STATUS", "PRINT_FORM", "PREALERT_CLOSED", "DELIV_PROBLEM", "DOWNLOAD_PHOTO"})
_CODES = {401: "v2_token_expired", 403: "v2_access_forbidden", 429: "v2_too_many_requests"}
_LEGACY = {"CREATED": "1", "DELIVERED": "4", "NOT_DELIVERED": "5"}
_NOVOSIBIRSK = timezone(timedelta(hours=7))


class _Refused(Exception):
    """A request that is answered with errors, as (code, message)."""

    def __init__(self, status: int, *errors: tuple[str, str], kind: str = "GET") -> None:
        super().__init__(errors)
        self.status = status
        self.errors = errors
        self.kind = kind


def _refusal(status: int, kind: str, errors: Iterable[tuple[str, str]]) -> Response:
    told = [{"code": code, "message": message} for code, message in errors]
    request = {"type": kind, "date_time": _written(datetime.now(UTC)), "state": "INVALID", "errors": told}
    return JSONResponse({"requests": [request], "related_entities": []}, status_code=status)


def _refused(_: Request, error: _Refused) -> Response:
    return _refusal(error.status, error.kind, error.errors)


def _nowhere(request: Request, _: Exception) -> Response:
    return JSONResponse({"timestamp": _written(datetime.now(UTC)), "path": request.url.path, "status": 404}, 404)


def _written(at: datetime) -> str:
    return at.astimezone(_NOVOSIBIRSK).strftime("%Y-%m-%dT%H:%M:%S%z")


@dataclass(kw_only=True)
class Asked:
    """Something asked of CDEK about an object: CREATE, DELETE or REFUSAL, and how far it has come."""

    kind: str
    state: str = "ACCEPTED"
    errors: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def told(self) -> Json:
        """Return it as CDEK tells it."""
        told: Json = {"request_uuid": self.uuid, "type": self.kind, "state": self.state, "errors": [], "warnings": []}
        told["date_time"] = _written(datetime.now(UTC))
        return told | {"errors": [{"code": code, "message": message} for code, message in self.errors]}


@dataclass(kw_only=True)
class Parcel:
    """An order. body is what was asked for; number is CDEK's own, which it gets once it was found to be right."""

    body: Json
    wrong: list[tuple[str, str]]
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    number: str = ""
    asked: list[Asked] = field(default_factory=lambda: [Asked(kind="CREATE")])
    statuses: list[tuple[str, datetime]] = field(default_factory=list[tuple[str, datetime]])
    collected: Decimal | None = None
    withdrawn: set[int] = field(default_factory=set[int])
    returning: bool = False
    forgotten: bool = False

    @property
    def status(self) -> str:
        """The last status that was not withdrawn."""
        return next((code for at, (code, _) in reversed([*enumerate(self.statuses)]) if at not in self.withdrawn), "")

    @property
    def to_collect(self) -> Decimal:
        """What the recipient is asked for: for delivery, and for each piece of the goods."""
        items = [item for package in self.body["packages"] for item in package["items"]]
        of_goods = sum((Decimal(item["payment"]["value"]) * item["amount"] for item in items), Decimal(0))
        return of_goods + Decimal(self.body.get("delivery_recipient_cost", {}).get("value", 0))

    @property
    def live(self) -> bool:
        """Whether CDEK will deliver it, or has."""
        return bool(self.number) and not self.forgotten and self.status != "REMOVED"


@dataclass(kw_only=True)
class Print:
    """A label being printed."""

    parcel: Parcel
    format: str
    states: list[str] = field(default_factory=lambda: ["ACCEPTED"])


class CdekStandIn(StandIn):
    """`async with CdekStandIn() as cdek:`, then point the connector's base_url at `cdek.base_url`.

    `parcels` are all orders that were ever taken, the oldest first; `subscriptions` the webhooks' addresses by type.
    looks is how often an object is looked at until CDEK is done with it. Deleted orders are not known any more, as on
    CDEK's live system, unless remembers. refuses_doubles makes it refuse an order whose number is there already; CDEK
    by itself doesn't mind. blind_looks is how many of the next looks find no order, as if it were too new.
    deleting is set once a deletion was asked for.
    """

    def __init__(
        self,
        *,
        client_id: str = "account",
        client_secret: str | None = None,
        looks: int = 2,
        remembers: bool = False,
        refuses_doubles: bool = False,
        oldest_first: bool = False,
        sample_names: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        port: int = 0,
    ) -> None:
        """Make an account. oldest_first and sample_names show what CDEK's examples do otherwise than its words."""
        self.client_id, self.client_secret = client_id, client_secret or uuid.uuid4().hex
        self.parcels: list[Parcel] = []
        self.printed: list[Print] = []
        self.subscriptions: dict[str, str] = {}
        self.registries: list[Json] = []
        self.tokens: set[str] = set()
        self.tokens_given = 0
        self.label = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
        self.prints = True
        self.blind_looks = 0
        self.deleting = asyncio.Event()
        self._looks, self._remembers, self._refuses_doubles = looks, remembers, refuses_doubles
        self._clock = clock
        self._oldest_first, self._sample_names = oldest_first, sample_names
        self._seen: dict[str, int] = {}
        self._prints: dict[str, Print] = {}
        self._paid: set[str] = set()
        self._announced: dict[str, Json] = {}
        self._numbered = 0
        api: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("POST", "/orders", self._order),
            ("GET", "/orders", self._search),
            ("GET", "/orders/{uuid}", self._one),
            ("DELETE", "/orders/{uuid}", self._delete),
            ("POST", "/orders/{uuid}/refusal", self._refuse),
            ("POST", "/print/barcodes", self._print),
            ("GET", "/print/barcodes/{uuid}.pdf", self._pdf),
            ("GET", "/print/barcodes/{uuid}", self._barcode),
            ("POST", "/webhooks", self._subscribe),
            ("GET", "/webhooks", self._subscribed),
            ("DELETE", "/webhooks/{uuid}", self._unsubscribe),
            ("GET", "/registries", self._registries),
            ("GET", "/payment", self._payment),
        ]
        routes = [Route(f"/v2{path}", self._checked(answer), methods=[method]) for method, path, answer in api]
        app = Starlette(
            routes=[Route("/v2/oauth/token", self._authorize, methods=["POST"]), *routes],
            exception_handlers={_Refused: cast("ExceptionHandler", _refused), 404: _nowhere},
        )
        super().__init__(app, port=port)

    @property
    def base_url(self) -> str:
        """The API's address, as the connector is configured with it."""
        return f"{self.url}/v2"

    @property
    def live(self) -> list[str]:
        """The numbers of the orders that CDEK will deliver or has delivered."""
        return sorted(parcel.number for parcel in self.parcels if parcel.live)

    def error(self, status: int) -> Response:
        """Return an answer with an error status, shaped as CDEK's are."""
        code = "v2_internal_error" if status >= 500 else _CODES.get(status, "v2_bad_request")
        return _refusal(status, "CREATE", [(code, "The stand-in was told to misbehave")])

    def failure(self) -> Response:
        """Return an answer with status 200 that tells of a failure."""
        return _refusal(200, "GET", [("v2_bad_request", "The stand-in was told to misbehave")])

    # What couriers and accountants do

    def parcel(self, number: str) -> Parcel:
        """Return an order by CDEK's number of it."""
        return next(parcel for parcel in self.parcels if parcel.number == number)

    def move(self, number: str, status: str, *, now: datetime | None = None) -> Json:
        """Bring a parcel to its next status and return the webhook's event; a delivered one has its money collected."""
        parcel = self.parcel(number)
        if not parcel.live or parcel.status in _FINAL:
            raise ValueError(f"{number} is {parcel.status or 'not there'}, and stays so")
        parcel.statuses.append((status, now or self._clock()))
        if status == "DELIVERED" and parcel.collected is None:
            parcel.collected = parcel.to_collect
        return self.event(number)

    def withdraw(self, number: str) -> Json:
        """Say that a parcel's last status was a mistake, and return the webhook's event."""
        parcel = self.parcel(number)
        parcel.withdrawn.add(len(parcel.statuses) - 1)
        return self.event(number)

    def deliver_parcel(self, number: str, *, collect: str | None = None, now: datetime | None = None) -> list[Json]:
        """Take a parcel all its way, with another sum collected where one is given; return the webhooks' events."""
        began = now or self._clock()
        if collect is not None:
            self.parcel(number).collected = Decimal(collect)
        return [self.move(number, status, now=began + timedelta(hours=at)) for at, status in enumerate(WAY)]

    def event(self, number: str) -> Json:
        """Return the event of a parcel's last status, as a webhook tells it."""
        parcel = self.parcel(number)
        status, at = parcel.statuses[-1]
        attributes: Json = {
            "is_return": parcel.returning,
            "is_reverse": False,
            "is_client_return": False,
            "cdek_number": parcel.number,
            "number": parcel.body.get("number"),
            "code": f"{status} ",  # with the blank that stands in CDEK's own example
            "status_code": _LEGACY.get(status, "20"),
            "status_date_time": _written(at),
            "city_name": "Новосибирск",
            "city_code": "270",
            "deleted": len(parcel.statuses) - 1 in parcel.withdrawn,
        }
        return {"type": "ORDER_STATUS", "date_time": _written(at), "uuid": parcel.uuid, "attributes": attributes}

    def pay_out(self, day: date, *, number: int | None = None, numbers: Iterable[str] | None = None) -> Json:
        """Pay out what was collected and not paid out yet, or that of the parcels named; return the registry."""
        wanted = [self.parcel(one) for one in numbers] if numbers else [p for p in self.parcels if p.collected]
        due = [one for one in wanted if one.uuid not in self._paid]
        lines: list[Json] = []
        for one in due:
            self._paid.add(one.uuid)
            collected = one.collected or Decimal(0)
            commission = (collected * 3 / 100).quantize(Decimal("0.01"))
            line: Json = {"cdek_number": one.number, "transfer_sum": collected - commission - 350}
            line |= {"payment_sum": collected, "total_sum_without_agent": Decimal(350)}
            lines.append(line | {"agent_commission_sum": commission})
        registry: Json = {"registry_number": number or 4200 + len(self.registries), "payment_date": day.isoformat()}
        registry |= {"sum": sum((line["transfer_sum"] for line in lines), Decimal(0))}
        registry |= {"payment_order_number": str(9000 + len(self.registries)), "orders": lines}
        self.registries.append(registry)
        return registry

    def announce(self, registry: Json, day: date) -> None:
        """Take a registry's payment back: it is listed on a day, and says of no day that it was paid on."""
        registry["payment_date"] = None
        self._announced[day.isoformat()] = registry

    def expire_tokens(self) -> None:
        """Accept none of the tokens that were given, as an hour later."""
        self.tokens.clear()

    async def deliver(self, event: Json) -> int | None:
        """Post an event once to the address that is subscribed to its type.

        Returns the status answered, None where nobody is subscribed or nobody answers: CDEK doesn't repeat it.
        """
        url = self.subscriptions.get(event["type"])
        if url is None:
            return None
        try:
            async with httpx.AsyncClient(timeout=15) as client:
                return (await client.post(url, json=event)).status_code
        except httpx.TransportError:
            return None

    # How it answers

    async def _authorize(self, request: Request) -> Response:
        form = {name: values[-1] for name, values in parse_qs((await request.body()).decode("latin-1")).items()}
        asked = {**dict(request.query_params), **form}
        if asked.get("grant_type") != "client_credentials":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        if (asked.get("client_id"), asked.get("client_secret")) != (self.client_id, self.client_secret):
            return JSONResponse({"error": "invalid_client", "error_description": "Bad client credentials"}, 401)
        self.tokens_given += 1
        token = f"token-{self.tokens_given}-{uuid.uuid4().hex}"
        self.tokens.add(token)
        told = {"access_token": token, "token_type": "bearer", "expires_in": 3599, "scope": "order:all payment:all"}
        return JSONResponse(told | {"jti": str(uuid.uuid4())})

    def _checked(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or token not in self.tokens:
                raise _Refused(401, ("v2_token_expired", "Token is expired or is not valid"))
            return await answer(request)

        return checked

    async def _order(self, request: Request) -> Response:
        body = await _json(request, "CREATE")
        if problems := _first_look(body):
            raise _Refused(400, *problems, kind="CREATE")
        number = body.get("number")
        if self._refuses_doubles and any(p.body.get("number") == number and p.live for p in self.parcels):
            raise _Refused(400, ("v2_similar_order_exists", f"Order with number {number} exists"), kind="CREATE")
        parcel = Parcel(body=body, wrong=_second_look(body))
        self.parcels.append(parcel)
        return _accepted(parcel.uuid, parcel.asked[0])

    async def _search(self, request: Request) -> Response:
        asked = dict(request.query_params)
        if len(asked) != 1 or not asked.keys() <= {"cdek_number", "im_number"}:
            raise _Refused(400, ("v2_bad_request", "Exactly one of cdek_number and im_number must be passed"))
        ((name, value),) = asked.items()
        if name == "cdek_number" and not re.fullmatch("[0-9]+", value):
            raise _Refused(400, ("v2_invalid_format", "cdek_number"))
        for parcel in reversed([] if self._is_blind() else self.parcels):
            known = parcel.number if name == "cdek_number" else parcel.body.get("number")
            if known == value and not parcel.forgotten:
                return self._told(parcel)
        code = "v2_entity_not_found_im_number" if name == "im_number" else "v2_order_not_found"
        raise _Refused(400, (code, f"Entity is not found by {name} {value}"))

    async def _one(self, request: Request) -> Response:
        return self._told(self._by_uuid(request))

    def _is_blind(self) -> bool:
        self.blind_looks -= 1
        return self.blind_looks >= 0

    def _by_uuid(self, request: Request, kind: str = "GET") -> Parcel:
        wanted = request.path_params["uuid"]
        for parcel in [] if kind == "GET" and self._is_blind() else self.parcels:
            if parcel.uuid == wanted and not parcel.forgotten:
                return parcel
        raise _Refused(400, ("v2_entity_not_found", f"Entity is not found by uuid {wanted}"), kind=kind)

    def _told(self, parcel: Parcel) -> Response:
        self._look_at(parcel)
        if parcel.forgotten:
            raise _Refused(400, ("v2_entity_not_found", f"Entity is not found by uuid {parcel.uuid}"))
        statuses: list[Json] = [
            {"code": code, "name": code.capitalize(), "date_time": _written(at), "deleted": place in parcel.withdrawn}
            for place, (code, at) in enumerate(parcel.statuses)
        ]
        entity = dict(parcel.body)
        entity |= {"uuid": parcel.uuid, "is_return": parcel.returning, "is_reverse": False, "is_client_return": False}
        entity["statuses"] = statuses if self._oldest_first else statuses[::-1]
        if parcel.number:
            entity["cdek_number"] = parcel.number
        if parcel.collected is not None:
            entity["delivery_detail"] = {"payment_sum": parcel.collected, "total_sum": Decimal(350)}
        asked = [one.told() for one in reversed(parcel.asked)]
        return _answered({"entity": entity, "requests": asked, "related_entities": []})

    def _look_at(self, parcel: Parcel) -> None:
        """Bring what was asked for last one step further."""
        asked = parcel.asked[-1]
        if asked.state not in ("ACCEPTED", "WAITING"):
            return
        self._seen[asked.uuid] = self._seen.get(asked.uuid, 0) + 1
        if self._seen[asked.uuid] <= self._looks:
            asked.state = "WAITING"
            return
        now = self._clock()
        match asked.kind:
            case "CREATE" if parcel.wrong:
                asked.state, asked.errors = "INVALID", parcel.wrong
                parcel.statuses.append(("INVALID", now))
            case "CREATE":
                asked.state = "SUCCESSFUL"
                self._numbered += 1
                parcel.number = str(1_100_000_000 + 37 * self._numbered)
                parcel.statuses += [("ACCEPTED", now), ("CREATED", now)]
            case "DELETE" if parcel.status != "CREATED":
                asked.state, asked.errors = "INVALID", [("v2_entity_delete_forbidden", "Order can not be deleted")]
            case "DELETE":
                asked.state = "SUCCESSFUL"
                parcel.statuses.append(("REMOVED", now))
                parcel.forgotten = not self._remembers
            case _:
                asked.state = "SUCCESSFUL"

    async def _delete(self, request: Request) -> Response:
        parcel = self._by_uuid(request, "DELETE")
        if parcel.asked[-1].state in ("ACCEPTED", "WAITING"):
            raise _Refused(
                400, ("v2_similar_request_still_processed", "Previous request is being processed"), kind="DELETE"
            )
        parcel.asked.append(Asked(kind="DELETE"))
        self.deleting.set()
        return _accepted(parcel.uuid, parcel.asked[-1])

    async def _refuse(self, request: Request) -> Response:
        parcel = self._by_uuid(request, "REFUSAL")
        if parcel.status in {*_FINAL, "CREATED", ""}:
            raise _Refused(400, ("v2_refusal_forbidden", f"Order is {parcel.status}"), kind="REFUSAL")
        parcel.asked.append(Asked(kind="REFUSAL"))
        return _accepted(parcel.uuid, parcel.asked[-1])

    async def _print(self, request: Request) -> Response:
        body = await _json(request, "CREATE")
        orders = body.get("orders")
        if not isinstance(orders, list) or len(cast("list[Any]", orders)) != 1:
            raise _Refused(400, ("orders_number_is_empty", "orders"), kind="CREATE")
        wanted: Json = cast("list[Json]", orders)[0]
        parcels = [p for p in self.parcels if p.live and wanted.get("order_uuid", p.uuid) == p.uuid]
        parcels = [p for p in parcels if str(wanted.get("cdek_number", p.number)) == p.number]
        if not wanted or len(parcels) != 1:
            raise _Refused(400, ("v2_order_not_found", "orders"), kind="CREATE")
        if body.get("format", "A4") not in ("A4", "A5", "A6") or body.get("copy_count", 1) not in range(1, 21):
            raise _Refused(400, ("v2_invalid_value_type", "format"), kind="CREATE")
        printed = Print(parcel=parcels[0], format=body.get("format", "A4"))
        self.printed.append(printed)
        name = str(uuid.uuid4())
        self._prints[name] = printed
        return _accepted(name, Asked(kind="CREATE"))

    async def _barcode(self, request: Request) -> Response:
        name = request.path_params["uuid"]
        printed = self._printed(name)
        self._seen[name] = self._seen.get(name, 0) + 1
        if self._seen[name] == 1:
            printed.states.append("PROCESSING")
        elif self._seen[name] == self._looks + 1:
            printed.states.append("READY" if self.prints else "INVALID")
        now = _written(datetime.now(UTC))
        statuses = [{"code": state, "name": state.capitalize(), "date_time": now} for state in printed.states]
        entity: Json = {"uuid": name, "format": printed.format, "statuses": statuses}
        if "READY" in printed.states:
            entity["url"] = f"{self.base_url}/print/barcodes/{name}.pdf"
        return _answered({"entity": entity, "requests": [Asked(kind="CREATE", state="SUCCESSFUL").told()]})

    async def _pdf(self, request: Request) -> Response:
        if "READY" not in self._printed(request.path_params["uuid"]).states:
            raise _Refused(400, ("v2_entity_not_found", "The form is not ready"))
        return Response(self.label, media_type="application/pdf")

    def _printed(self, name: str) -> Print:
        if name not in self._prints:
            raise _Refused(400, ("v2_entity_not_found", f"Entity is not found by uuid {name}"))
        return self._prints[name]

    async def _subscribe(self, request: Request) -> Response:
        body = await _json(request, "CREATE")
        url, kind = body.get("url"), body.get("type")
        if kind not in _EVENT_TYPES or not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
            raise _Refused(400, ("v2_invalid_format", "url, type"), kind="CREATE")
        self.subscriptions[kind] = url
        return _answered({"entity": {"uuid": _named(kind)}, "requests": [Asked(kind="CREATE").told()]})

    async def _subscribed(self, _: Request) -> Response:
        told = [{"uuid": _named(kind), "type": kind, "url": url} for kind, url in self.subscriptions.items()]
        return JSONResponse(told)

    async def _unsubscribe(self, request: Request) -> Response:
        wanted = request.path_params["uuid"]
        kind = next((kind for kind in self.subscriptions if _named(kind) == wanted), None)
        if kind is None:
            raise _Refused(400, ("v2_entity_not_found", wanted), kind="DELETE")
        del self.subscriptions[kind]
        return _answered({"entity": {"uuid": wanted}, "requests": [Asked(kind="DELETE").told()]})

    async def _registries(self, request: Request) -> Response:
        day = _day(request)
        listed = [one for one in self.registries if one["payment_date"] == day or self._announced.get(day) is one]
        return _answered({"registries": listed})

    async def _payment(self, request: Request) -> Response:
        day = _day(request)
        numbers = [
            line["cdek_number"] for one in self.registries if one["payment_date"] == day for line in one["orders"]
        ]
        names = ("uuid", "numberOrder", "imNumber") if self._sample_names else ("order_uuid", "cdek_number", "number")
        told = [(one.uuid, one.number, one.body.get("number")) for one in map(self.parcel, numbers)]
        return _answered({"orders": [dict(zip(names, one, strict=True)) for one in told]})


def _named(kind: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, kind))


def _day(request: Request) -> str:
    day = request.query_params.get("date", "")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", day):
        raise _Refused(400, ("v2_invalid_format", "date"))
    return day


def _accepted(name: str, asked: Asked) -> Response:
    return _answered({"entity": {"uuid": name}, "requests": [asked.told()], "related_entities": []}, 202)


def as_it_stands(number: str) -> str:
    """Return what is answered as this number, without quotes, whatever it is."""
    return f"\x00{number}"


def _answered(told: Json, status: int = 200) -> Response:
    """Return an answer whose amounts are JSON numbers, written as they stand."""
    marked = json.dumps(told, default=lambda amount: as_it_stands(f"{amount:f}"))
    written = re.sub(r'"\\u0000([0-9A-Za-z.+-]+)"', r"\1", marked)
    return Response(written.encode(), status, media_type="application/json")


async def _json(request: Request, kind: str) -> Json:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise _Refused(415, ("v2_bad_request", "Content-Type"), kind=kind)
    try:
        body: Any = json.loads(await request.body(), parse_float=Decimal)
    except ValueError:
        raise _Refused(400, ("v2_bad_request", "The body is no JSON"), kind=kind) from None
    if not isinstance(body, dict):
        raise _Refused(400, ("v2_bad_request", "The body is no object"), kind=kind)
    return cast("Json", body)


def _is_money(value: Any) -> bool:
    return type(value) in (int, Decimal) and value >= 0 and value == Decimal(value).quantize(Decimal("0.01"))


def _is_payment(told: Any) -> bool:
    payment: Json = told or {}
    return _is_money(payment.get("value")) and _is_money(payment.get("vat_sum", 0))


def _first_look(body: Json) -> list[tuple[str, str]]:
    """Return what CDEK refuses at once: fields that are missing, of a wrong type, or exclude each other."""
    found: list[tuple[str, str]] = []

    def need(right: bool, code: str, name: str) -> None:
        if not right:
            found.append((code, f"[{name}]"))

    number, tariff = body.get("number"), body.get("tariff_code")
    need(body.get("type") in (1, 2), "v2_invalid_value_type", "type")
    need(number is None or (isinstance(number, str) and number.isascii()), "v2_invalid_format", "number")
    need(len(str(number or "")) <= 40, "v2_field_value_is_too_long", "number")
    need(type(tariff) is int, "v2_field_is_empty", "tariff_code")
    need(not ("shipment_point" in body and "from_location" in body), "v2_shipment_address_multivalued", "from_location")
    need(not ("delivery_point" in body and "to_location" in body), "v2_delivery_address_multivalued", "to_location")
    need("shipment_point" in body or "from_location" in body, "v2_field_is_empty", "from_location")
    need("delivery_point" in body or "to_location" in body, "v2_field_is_empty", "to_location")
    need(len(str(body.get("comment", ""))) <= 255, "v2_field_value_is_too_long", "comment")
    recipient: Json = body.get("recipient") or {}
    need(bool(recipient.get("name")), "v2_field_is_empty", "recipient.name")
    sender: Json | None = body.get("sender")
    for contact, name in ((recipient, "recipient"), *(((sender, "sender"),) if sender else ())):
        phones: list[Json] = contact.get("phones") or []
        right = all(isinstance(one.get("number"), str) for one in phones)
        need(right and bool(phones), "v2_field_is_empty", f"{name}.phones.number")
    if "delivery_recipient_cost" in body:
        need(_is_payment(body["delivery_recipient_cost"]), "v2_invalid_value_type", "delivery_recipient_cost.value")
    packages: list[Json] = body.get("packages") or []
    need(1 <= len(packages) <= 255, "v2_field_is_empty", "packages")
    items = 0
    for at, package in enumerate(packages):
        need(bool(package.get("number")), "v2_field_is_empty", f"packages[{at}].number")
        need(_is_count(package.get("weight")), "v2_field_is_empty", f"packages[{at}].weight")
        for size in ("length", "width", "height"):
            need(size not in package or _is_count(package[size]), "v2_invalid_value_type", f"packages[{at}].{size}")
        held: list[Json] = package.get("items") or []
        need(bool(held) or body.get("type") == 2, "v2_field_is_empty", f"packages[{at}].items")
        items += len(held)
        for item in held:
            for name in ("name", "ware_key"):
                need(isinstance(item.get(name), str) and bool(item[name]), "v2_field_is_empty", name)
            need(_is_payment(item.get("payment")), "v2_invalid_value_type", "payment.value")
            need(_is_money(item.get("cost")), "v2_invalid_value_type", "cost")
            need(_is_count(item.get("weight")), "v2_field_is_empty", "weight")
            need(_is_count(item.get("amount")), "v2_field_is_empty", "amount")
            need(len(str(item.get("name"))) <= 255, "v2_field_value_is_too_long", "name")
            need(len(str(item.get("ware_key"))) <= 50, "v2_field_value_is_too_long", "ware_key")
    need(items <= 126, "v2_number_items_is_more_126", "items")
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _second_look(body: Json) -> list[tuple[str, str]]:
    """Return what CDEK finds out later: tariffs, offices, towns and phone numbers that don't fit."""
    found: list[tuple[str, str]] = []
    tariff = body["tariff_code"]
    if tariff not in TO_DOOR | TO_OFFICE:
        found.append(("v2_tariff_not_found", f"Tariff {tariff} is not in the contract"))
    if (tariff in TO_OFFICE) != ("delivery_point" in body) or (tariff in FROM_OFFICE) != ("shipment_point" in body):
        found.append(("v2_tariff_not_available", "The tariff does not fit where the parcel comes from or goes to"))
    for name, code in (
        ("shipment_point", "shipment_location_is_not_recognized"),
        ("delivery_point", "delivery_location_is_not_recognized"),
    ):
        if name in body and body[name] not in OFFICES:
            found.append((code, str(body[name])))
    for name, code in (
        ("from_location", "v2_sender_location_not_recognized"),
        ("to_location", "v2_recipient_location_not_recognized"),
    ):
        place: Json = body.get(name) or {}
        if name in body and not (place.get("address") and (place.get("city") or place.get("code"))):
            found.append((code, json.dumps(place)))
    wrong = [one["number"] for one in body["recipient"]["phones"] if not re.fullmatch(r"\+[0-9]{10,15}", one["number"])]
    found += [("error_validate_receiver_phone_number_incorrect", f"Phone {phone} is not right") for phone in wrong]
    return found
