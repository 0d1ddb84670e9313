"""A stand-in for YooKassa, as strict as its API v3 is in what Kvit uses: `python -m deployments.sandbox.yookassa`.

It keeps its payments in memory. Customers and the shop move them by calling it in Python; each call returns the
notification that YooKassa would send, which `deliver` posts. What is allowed is that of the API's OpenAPI document.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import copy
import json
import re
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from deployments.sandbox.standin import StandIn

Json = dict[str, Any]

SHOP = "100500"
KEY = "test_sandbox"

HOLD = timedelta(days=7)
"""How long money is held on a card."""

_KEY_LASTS = timedelta(hours=24)
_REFUNDABLE = timedelta(days=3 * 365)
_CURRENCIES = frozenset("RUB EUR USD KZT BYN UAH UZS TRY INR MDL AZN AMD".split())
_STATUSES = {
    "payment": ("pending", "waiting_for_capture", "succeeded", "canceled"),
    "refund": ("pending", "succeeded", "canceled"),
    "receipt": ("pending", "succeeded", "canceled"),
}
_CODES = {
    400: "invalid_request",
    401: "invalid_credentials",
    403: "forbidden",
    404: "not_found",
    429: "too_many_requests",
    500: "internal_server_error",
}
_COMPARISONS = {
    "gte": datetime.__ge__,
    "gt": datetime.__gt__,
    "lte": datetime.__le__,
    "lt": datetime.__lt__,
}
_CREATE = frozenset(
    """
    amount description receipt recipient payment_token payment_method_id payment_method_data confirmation
    save_payment_method capture client_ip metadata airline transfers deal merchant_customer_id payment_order receiver
    statements
    """.split()
)
_CAPTURE = frozenset({"amount", "receipt", "airline", "transfers", "deal"})
_REFUND = frozenset("payment_id amount description receipt sources deal refund_method_data metadata".split())
_RECEIPT = frozenset(
    """
    customer items internet tax_system_code timezone receipt_industry_details receipt_operational_details
    """.split()
)
_ITEM = frozenset(
    """
    description amount vat_code quantity measure mark_quantity payment_subject payment_mode country_of_origin_code
    customs_declaration_number excise product_code planned_status mark_code_info mark_mode
    payment_subject_industry_details
    """.split()
)
_POST_RECEIPT = frozenset(
    """
    type payment_id refund_id customer items internet send tax_system_code timezone additional_user_props
    receipt_industry_details receipt_operational_details settlements on_behalf_of
    """.split()
)
# What a line may say besides where its receipt is sent separately.
_POST_ITEM = _ITEM | {"additional_payment_subject_props", "supplier", "agent_type"}
_SETTLEMENTS = frozenset("cashless prepayment postpayment consideration".split())
_MEASURES = frozenset(
    """
    piece gram kilogram ton centimeter decimeter meter square_centimeter square_decimeter square_meter milliliter liter
    cubic_meter kilowatt_hour gigacalorie day hour minute second kilobyte megabyte gigabyte terabyte another
    """.split()
)
_SUBJECTS = frozenset(
    """
    commodity excise job service gambling_bet gambling_prize lottery lottery_prize intellectual_activity payment
    agent_commission property_right non_operating_gain insurance_premium sales_tax resort_fee composite another fine tax
    lien cost pension_insurance_without_payouts pension_insurance_with_payouts health_insurance_without_payouts
    health_insurance_with_payouts health_insurance casino agent_withdrawals non_marked_excise marked_excise marked
    non_marked
    """.split()
)
_MODES = frozenset(
    "full_prepayment partial_prepayment advance full_payment partial_payment credit credit_payment".split()
)


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, description: str, parameter: str | None = None) -> None:
        super().__init__(description)
        self.status = status
        self.parameter = parameter


def _error(status: int, description: str, parameter: str | None = None) -> Response:
    error = {"type": "error", "id": str(uuid.uuid4()), "code": _CODES.get(status), "description": description}
    error["parameter"] = parameter
    return JSONResponse({name: value for name, value in error.items() if value}, status_code=status)


def _refused(_: Request, error: _Refused) -> Response:
    return _error(error.status, str(error), error.parameter)


def _no_such_url(_: Request, __: Exception) -> Response:
    return _error(404, "There is nothing under this address")


def _no_such_method(_: Request, __: Exception) -> Response:
    return Response(status_code=405)


@dataclass(frozen=True)
class _Done:
    """What came of a request with a key."""

    at: datetime
    request: str
    status: int
    answer: bytes


@dataclass(frozen=True)
class _Place:
    """Where a list goes on, and of which list."""

    wanted: Json
    after: int


class YooKassaStandIn(StandIn):
    """`async with YooKassaStandIn() as shop:`, then point the connector's base_url at `shop.base_url`.

    `payments` and `refunds` are what there is now, by id; `notifications` all that were due, the oldest first;
    `effects` all that requests brought about, as (what, id, amount). `time` is now, if it isn't the real time. Refunds
    that are asked for come to `refunds_end`: pending, succeeded or canceled. `receipts` are all that were sent to the
    cash register, also with a payment; they come to `receipts_end`.
    """

    def __init__(self, *, shop_id: str = SHOP, secret_key: str = KEY, port: int = 0) -> None:
        """Make a shop with nothing in it."""
        self.shop_id = shop_id
        self.secret_key = secret_key
        self.time: datetime | None = None
        self.refunds_end = "succeeded"
        self.receipts_end = "succeeded"
        self.enabled = True
        self.me_allowed = True
        self.payments: dict[str, Json] = {}
        self.refunds: dict[str, Json] = {}
        self.receipts: dict[str, Json] = {}
        self.notifications: list[Json] = []
        self.effects: list[tuple[str, str, str]] = []
        self._done: dict[str, _Done] = {}
        self._places: dict[str, _Place] = {}
        handlers = {_Refused: cast("ExceptionHandler", _refused), 404: _no_such_url, 405: _no_such_method}
        app = Starlette(
            routes=[
                Route("/v3/payments", self._get(self._list("payment")), methods=["GET"]),
                Route("/v3/payments", self._post(self._create), methods=["POST"]),
                Route("/v3/payments/{id}", self._get(self._one("payment")), methods=["GET"]),
                Route("/v3/payments/{id}/capture", self._post(self._capture), methods=["POST"]),
                Route("/v3/payments/{id}/cancel", self._post(self._cancel, bodyless=True), methods=["POST"]),
                Route("/v3/refunds", self._get(self._list("refund")), methods=["GET"]),
                Route("/v3/refunds", self._post(self._refund), methods=["POST"]),
                Route("/v3/refunds/{id}", self._get(self._one("refund")), methods=["GET"]),
                Route("/v3/receipts", self._get(self._list("receipt")), methods=["GET"]),
                Route("/v3/receipts", self._post(self._second), methods=["POST"]),
                Route("/v3/receipts/{id}", self._get(self._one("receipt")), methods=["GET"]),
                Route("/v3/me", self._get(self._me), methods=["GET"]),
            ],
            exception_handlers=handlers,
        )
        super().__init__(app, port=port)

    @property
    def base_url(self) -> str:
        """What the connector's base_url must be."""
        return f"{self.url}/v3"

    def error(self, status: int) -> Response:
        """Return an error as YooKassa shapes it; 202 is its answer that it is still at work."""
        if status == 202:
            still = {"type": "processing", "description": "The request is in process", "retry_after": 1800}
            return JSONResponse(still, status_code=202)
        said = json.loads(bytes(_error(status, "As told to").body))
        return JSONResponse(said | ({"retry_after": 1800} if status in (429, 500) else {}), status_code=status)

    def failure(self) -> Response:
        """Return an error in spite of a status that says success."""
        return JSONResponse(json.loads(bytes(_error(400, "As told to").body)))

    def now(self) -> datetime:
        """Return the time that the shop goes by."""
        return self.time or datetime.now(UTC)

    # What customers and the shop do

    def create(
        self,
        order: str | None,
        minor: int,
        currency: str = "RUB",
        *,
        capture: bool = True,
        key: str = "order_number",
        description: str | None = None,
        receipt: Json | None = None,
        now: datetime | None = None,
    ) -> Json:
        """Make a payment that waits for the payer, of kopecks and the like; return it."""
        wanted: Json = {"amount": _sum(Decimal(minor).scaleb(-2), currency), "capture": capture}
        wanted |= {"metadata": {key: order} if order is not None else {}} | ({"receipt": receipt} if receipt else {})
        return self._new(wanted | ({"description": description} if description else {}), now or self.now())

    def confirm(self, id_: str, *, now: datetime | None = None) -> Json:
        """Let the payer confirm a payment, and the bank authorize it: it is held or, in one stage, taken."""
        payment = self._known(id_, "pending")
        at = now or self.now()
        payment |= {"paid": True, "payment_method": _card(), "authorization_details": _authorized()}
        if payment.pop("_capture"):
            return self._succeed(payment, at)
        payment |= {"status": "waiting_for_capture", "expires_at": _written(at + HOLD)}
        return self._told("payment", payment)

    def pay(
        self, order: str | None, minor: int, currency: str = "RUB", *, now: datetime | None = None, **more: Any
    ) -> Json:
        """Let a customer pay in one stage."""
        return self.confirm(self.create(order, minor, currency, now=now, **more)["id"], now=now)

    def hold(
        self, order: str | None, minor: int, currency: str = "RUB", *, now: datetime | None = None, **more: Any
    ) -> Json:
        """Let a customer pay, and the money be held."""
        return self.confirm(self.create(order, minor, currency, capture=False, now=now, **more)["id"], now=now)

    def fail(
        self,
        order: str | None,
        minor: int,
        currency: str = "RUB",
        *,
        reason: str = "insufficient_funds",
        now: datetime | None = None,
    ) -> Json:
        """Let a bank refuse a payment."""
        payment = self._known(self.create(order, minor, currency, now=now)["id"], "pending")
        # Present at a refusal as well, but without the code of an authorization.
        payment |= {"payment_method": _card(), "authorization_details": {"three_d_secure": {"applied": True}}}
        return self._end(payment, "payment_network", reason)

    def capture(self, id_: str, minor: int | None = None, *, now: datetime | None = None) -> Json:
        """Take held money, all or a part of it, as the shop does at YooKassa itself."""
        payment = self._known(id_, "waiting_for_capture")
        if minor is not None:
            payment["amount"] = _sum(Decimal(minor).scaleb(-2), payment["amount"]["currency"])
        return self._succeed(payment, now or self.now())

    def cancel(self, id_: str, *, party: str = "merchant", reason: str = "canceled_by_merchant") -> Json:
        """Give held money back, as the shop does at YooKassa itself."""
        return self._end(self._known(id_, "waiting_for_capture"), party, reason)

    def expire(self, now: datetime) -> list[Json]:
        """Give back all held money whose time is over, and return the notifications."""
        late = [one for one in self.payments.values() if _is_late(one, now)]
        return [self._end(one, "yoo_money", "expired_on_capture") for one in late]

    def refund(
        self,
        id_: str,
        minor: int,
        *,
        now: datetime | None = None,
        status: str = "succeeded",
        receipt: Json | None = None,
    ) -> Json:
        """Give money back, as the shop does at YooKassa itself."""
        payment = self._known(id_, "succeeded")
        wanted: Json = {"amount": _sum(Decimal(minor).scaleb(-2), payment["amount"]["currency"])}
        wanted |= {"receipt": receipt} if receipt else {}
        return self._give_back(payment, wanted, status, now or self.now())

    def finish_refund(self, id_: str, status: str = "succeeded") -> Json:
        """Let a pending refund come to its end."""
        refund = self.refunds[id_]
        if refund["status"] != "pending":
            raise ValueError(f"the refund is {refund['status']}")
        return self._settle(refund, status)

    def finish_receipt(self, id_: str, status: str = "succeeded") -> None:
        """Let the cash register decide on a receipt that waits for it."""
        if (receipt := self.receipts[id_])["status"] != "pending":
            raise ValueError(f"the receipt is {receipt['status']}")
        receipt |= {"status": status} | (_fiscal(self.now()) if status == "succeeded" else {})

    # What YooKassa does

    async def deliver(self, notification: Json, url: str, *, times: int = 1, tries: int = 3) -> list[int]:
        """Post a notification so often, each time again until it is answered 200; return the statuses answered."""
        answered: list[int] = []
        body = json.dumps(notification, ensure_ascii=False, indent=2).encode()
        async with httpx.AsyncClient(timeout=30) as client:
            for _ in range(times):
                for _ in range(tries):
                    response = await client.post(url, content=body, headers={"Content-Type": "application/json"})
                    answered.append(response.status_code)
                    if response.status_code == 200:
                        break
        return answered

    def _known(self, id_: str, status: str) -> Json:
        payment = self.payments[id_]
        if payment["status"] != status:
            raise ValueError(f"the payment is {payment['status']}, and not {status}")
        return payment

    def _new(self, wanted: Json, at: datetime) -> Json:
        payment: Json = {"id": str(uuid.uuid4()), "status": "pending", "amount": wanted["amount"], "paid": False}
        payment |= {"recipient": {"account_id": self.shop_id, "gateway_id": "100700"}, "created_at": _written(at)}
        payment |= {"refundable": False, "test": True, "metadata": wanted.get("metadata", {})}
        payment |= {name: wanted[name] for name in ("description",) if name in wanted}
        if "confirmation" in wanted:
            address = f"https://yoomoney.ru/checkout/payments/v2/contract?orderId={payment['id']}"
            payment["confirmation"] = {"type": wanted["confirmation"]["type"], "confirmation_url": address}
        if "receipt" in wanted:
            payment |= {"receipt_registration": "pending", "_receipt": wanted["receipt"]}
        payment["_capture"] = wanted.get("capture", False)
        self.payments[payment["id"]] = payment
        return payment

    def _succeed(self, payment: Json, at: datetime) -> Json:
        payment.pop("expires_at", None)
        payment |= {"status": "succeeded", "captured_at": _written(at), "refundable": True}
        amount = payment["amount"]
        kept = (Decimal(amount["value"]) * Decimal("0.965")).quantize(Decimal("0.01"))
        payment["income_amount"] = _sum(kept, amount["currency"])
        if (receipt := payment.pop("_receipt", None)) is not None:
            self._register(receipt, {"type": "payment", "payment_id": payment["id"]}, payment)
        return self._told("payment", payment)

    def _end(self, payment: Json, party: str, reason: str) -> Json:
        payment.pop("expires_at", None)
        payment.pop("_capture", None)
        payment |= {"status": "canceled", "paid": False, "cancellation_details": {"party": party, "reason": reason}}
        return self._told("payment", payment)

    def _give_back(self, payment: Json, wanted: Json, status: str, at: datetime) -> Json:
        refund: Json = {"id": str(uuid.uuid4()), "payment_id": payment["id"], "status": "pending"}
        refund |= {"created_at": _written(at), "amount": wanted["amount"]}
        refund |= {name: wanted[name] for name in ("description", "metadata") if name in wanted}
        if "receipt" in wanted:
            refund["receipt_registration"] = "pending"
            self._register(wanted["receipt"], {"type": "refund", "refund_id": refund["id"]}, refund)
        self.refunds[refund["id"]] = refund
        return self._settle(refund, status)

    def _settle(self, refund: Json, status: str) -> Json:
        refund["status"] = status
        if status == "canceled":
            refund["cancellation_details"] = {"party": "yoo_money", "reason": "insufficient_funds"}
        payment = self.payments[refund["payment_id"]]
        given = self._given(payment["id"], "succeeded")
        if given:
            payment["refunded_amount"] = _sum(given, payment["amount"]["currency"])
            payment["refundable"] = given < Decimal(payment["amount"]["value"])
        return self._told("refund", refund)

    def _register(self, asked: Json, about: Json, of: Json | None = None) -> Json:
        """Send a receipt to the cash register; of is the payment or refund that it went with."""
        items: list[Json] = [dict(item) for item in asked["items"]]
        receipt: Json = {"id": f"rt-{uuid.uuid4()}", **about, "status": self.receipts_end, "items": items}
        receipt |= {"_at": self.now()} | {
            name: asked[name] for name in ("tax_system_code", "settlements", "internet") if name in asked
        }
        if of is not None:
            receipt["settlements"] = [{"type": "cashless", "amount": dict(of["amount"])}]
        receipt |= _fiscal(self.now()) if self.receipts_end == "succeeded" else {}
        if of is not None:
            of["receipt_registration"] = self.receipts_end
        self.receipts[receipt["id"]] = receipt
        return receipt

    def _given(self, payment_id: str, *statuses: str) -> Decimal:
        mine = (one for one in self.refunds.values() if one["payment_id"] == payment_id and one["status"] in statuses)
        return sum((Decimal(one["amount"]["value"]) for one in mine), Decimal(0))

    def _told(self, kind: str, about: Json) -> Json:
        notification = {"type": "notification", "event": f"{kind}.{about['status']}", "object": _shown(about)}
        if about["status"] != "pending" and (kind, about["status"]) != ("refund", "canceled"):
            self.notifications.append(notification)
        return notification

    # How it answers

    def _get(self, endpoint: Callable[[Request], Json]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            self._authenticate(request)
            return JSONResponse(endpoint(request))

        return answer

    def _post(
        self, endpoint: Callable[[Request, Json], Json], *, bodyless: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            self._authenticate(request)
            sent = await request.body()
            # The specification has no body there; an empty object is taken, too.
            without = bodyless and not sent
            if not without and request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
                raise _Refused(415, "The content type must be application/json")
            key = request.headers.get("Idempotence-Key", "")
            # As the specification has it: `+-_` is written as a range there, and these three are meant.
            if not re.fullmatch(r"[0-9a-zA-Z+\-_.]{1,64}", key):
                raise _Refused(400, "Idempotence-Key is missing or malformed", "Idempotence-Key")
            body = {} if without else _sent(sent)
            asked = json.dumps([request.url.path, body], sort_keys=True)
            before = self._done.get(key)
            if before is not None and self.now() - before.at < _KEY_LASTS:
                if before.request != asked:
                    raise _Refused(400, "Idempotence-Key was used for another request", "Idempotence-Key")
                return Response(before.answer, status_code=before.status, media_type="application/json")
            try:
                made: Response = JSONResponse(endpoint(request, body))
            except _Refused as error:
                made = _refused(request, error)
            self._done[key] = _Done(self.now(), asked, made.status_code, bytes(made.body))
            return made

        return answer

    def _authenticate(self, request: Request) -> None:
        expected = base64.b64encode(f"{self.shop_id}:{self.secret_key}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            raise _Refused(401, "Error in shopId or secret key. Check their validity.")
        self.expire(self.now())

    def _me(self, request: Request) -> Json:
        if not self.me_allowed:
            raise _Refused(403, "You don't have enough rights")
        _only(request.query_params, {"on_behalf_of"})
        status = "enabled" if self.enabled else "disabled"
        return {"account_id": self.shop_id, "status": status, "test": True, "payment_methods": ["bank_card"]}

    def _one(self, kind: str) -> Callable[[Request], Json]:
        def endpoint(request: Request) -> Json:
            return _shown(self._found(kind, request))

        return endpoint

    def _found(self, kind: str, request: Request) -> Json:
        id_ = request.path_params["id"]
        if len(id_) != (length := 39 if kind == "receipt" else 36):
            raise _Refused(400, f"{kind}_id must have {length} characters", f"{kind}_id")
        kept = self._kept(kind)
        if id_ not in kept:
            raise _Refused(404, f"{kind} doesn't exist or access denied", f"{kind}_id")
        return kept[id_]

    def _kept(self, kind: str) -> dict[str, Json]:
        return {"payment": self.payments, "refund": self.refunds, "receipt": self.receipts}[kind]

    def _list(self, kind: str) -> Callable[[Request], Json]:
        times = ("created_at", "captured_at") if kind == "payment" else ("created_at",)
        fields = {
            "payment": ("payment_method", "status"),
            "refund": ("payment_id", "status"),
            "receipt": ("payment_id", "refund_id", "status"),
        }[kind]
        known = {f"{field}.{how}" for field in times for how in _COMPARISONS} | {*fields, "limit", "cursor"}

        def endpoint(request: Request) -> Json:
            _only(request.query_params, known)
            query = dict(request.query_params)
            limit, cursor = query.pop("limit", "10"), query.pop("cursor", None)
            if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= 100:
                raise _Refused(400, "limit must be from 1 to 100", "limit")
            if query.get("status") not in (None, *_STATUSES[kind]):
                raise _Refused(400, "There is no such status", "status")
            limits = _limits(query)
            kept = list(self._kept(kind).values())
            if kind == "receipt":  # which show nothing of when they were made
                kept = [one | {"created_at": _written(one["_at"])} for one in kept]
            rows = [(at, one) for at, one in enumerate(kept) if _is_wanted(one, query, limits)]
            rows.sort(key=lambda row: (row[1]["created_at"], row[0]), reverse=True)
            if cursor is not None:
                place = self._places.get(cursor)
                if place is None or place.wanted != query:
                    raise _Refused(400, "There is no such cursor", "cursor")
                last = (kept[place.after]["created_at"], place.after)
                rows = [row for row in rows if (row[1]["created_at"], row[0]) < last]
            page, rest = rows[: int(limit)], rows[int(limit) :]
            hidden = {"created_at"} if kind == "receipt" else set[str]()
            items = [{name: at for name, at in _shown(one).items() if name not in hidden} for _, one in page]
            listed: Json = {"type": "list", "items": items}
            if rest:
                listed["next_cursor"] = str(uuid.uuid4())
                self._places[listed["next_cursor"]] = _Place(query, page[-1][0])
            return listed

        return endpoint

    def _create(self, _: Request, body: Json) -> Json:
        _only(body, _CREATE)
        amount = _amount(body)
        _bounded(body, "description", 128)
        _metadata(body)
        if not isinstance(body.get("capture", False), bool):
            raise _Refused(400, "capture must be true or false", "capture")
        confirmation: Any = body.get("confirmation", {"type": "redirect", "return_url": "-"})
        if not isinstance(confirmation, dict) or not {"type", "return_url"} <= cast("Json", confirmation).keys():
            raise _Refused(400, "confirmation needs type and return_url", "confirmation")
        _receipt(body, amount, body["amount"]["currency"])
        payment = self._new(body, self.now())
        self.effects.append(("create", payment["id"], body["amount"]["value"]))
        return _shown(payment)

    def _capture(self, request: Request, body: Json) -> Json:
        payment = self._found("payment", request)
        _only(body, _CAPTURE)
        held = payment["amount"]
        amount = _amount(body) if "amount" in body else Decimal(held["value"])
        if payment["status"] != "waiting_for_capture":
            raise _Refused(400, f"A payment that is {payment['status']} can't be captured", "status")
        if "amount" in body and body["amount"]["currency"] != held["currency"]:
            raise _Refused(400, "The currency is not the payment's", "amount.currency")
        if amount > Decimal(held["value"]):
            raise _Refused(400, "The amount is more than the payment's", "amount.value")
        _receipt(body, amount, held["currency"])
        payment["amount"] = _sum(amount, held["currency"])
        if "receipt" in body:
            payment["_receipt"] = body["receipt"]
        self._succeed(payment, self.now())
        self.effects.append(("capture", payment["id"], payment["amount"]["value"]))
        return _shown(payment)

    def _cancel(self, request: Request, body: Json) -> Json:
        payment = self._found("payment", request)
        _only(body, ())
        if payment["status"] != "waiting_for_capture":
            raise _Refused(400, f"A payment that is {payment['status']} can't be canceled", "status")
        self._end(payment, "merchant", "canceled_by_merchant")
        self.effects.append(("cancel", payment["id"], payment["amount"]["value"]))
        return _shown(payment)

    def _refund(self, _: Request, body: Json) -> Json:
        _only(body, _REFUND)
        id_ = body.get("payment_id")
        if not isinstance(id_, str) or len(id_) != 36:
            raise _Refused(400, "payment_id must have 36 characters", "payment_id")
        amount = _amount(body)
        _bounded(body, "description", 250)
        _metadata(body)
        payment = self.payments.get(id_)
        if payment is None:
            raise _Refused(400, "payment doesn't exist or access denied", "payment_id")
        if payment["status"] != "succeeded":
            raise _Refused(400, f"A payment that is {payment['status']} can't be refunded", "payment_id")
        if body["amount"]["currency"] != payment["amount"]["currency"]:
            raise _Refused(400, "The currency is not the payment's", "amount.currency")
        if amount > Decimal(payment["amount"]["value"]) - self._given(id_, "pending", "succeeded"):
            raise _Refused(400, "The amount is more than is left of the payment", "amount.value")
        if self.now() - _read(payment["created_at"]) > _REFUNDABLE:
            raise _Refused(400, "The payment is older than three years", "payment_id")
        _receipt(body, amount, body["amount"]["currency"])
        refund = self._give_back(payment, body, self.refunds_end, self.now())["object"]
        self.effects.append(("refund", refund["id"], refund["amount"]["value"]))
        return refund

    def _second(self, _: Request, body: Json) -> Json:
        """Take a receipt that is sent separately; a second one for the same goods is taken, too."""
        _only(body, _POST_RECEIPT)
        for name in ("type", "customer", "items", "send", "settlements"):
            if name not in body:
                raise _Refused(400, "It is missing", name)
        kind: Any = body["type"]
        if kind not in ("payment", "refund"):
            raise _Refused(400, "It must be payment or refund", "type")
        if body["send"] is not True:
            raise _Refused(400, "It can only be true", "send")
        id_: Any = body.get(f"{kind}_id")
        if not isinstance(id_, str) or len(id_) != 36:
            raise _Refused(400, f"{kind}_id must have 36 characters", f"{kind}_id")
        about = self._kept(str(kind)).get(id_)
        if about is None:
            raise _Refused(400, f"{kind} doesn't exist or access denied", f"{kind}_id")
        if about["status"] != "succeeded":
            raise _Refused(400, f"There is no receipt of a {kind} that is {about['status']}", f"{kind}_id")
        total = _lines(body, about["amount"]["currency"], "", _POST_ITEM)
        settled: Any = body["settlements"]
        if not isinstance(settled, list) or not settled:
            raise _Refused(400, "There must be a settlement", "settlements")
        sums = [_settlement(one, about["amount"]["currency"]) for one in cast("list[Any]", settled)]
        if sum(sums, Decimal(0)) != total:
            raise _Refused(400, "The sum of the settlements is not that of the items", "settlements")
        receipt = self._register(body, {"type": kind, f"{kind}_id": id_})
        self.effects.append(("receipt", id_, f"{total:.2f}"))
        return _shown(receipt)


def _fiscal(at: datetime) -> Json:
    told = {"fiscal_document_number": "3986", "fiscal_storage_number": "9288000100115785"}
    return told | {"fiscal_attribute": "2617603921", "fiscal_provider_id": "fd9e9404", "registered_at": _written(at)}


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _sum(amount: Decimal, currency: str) -> Json:
    return {"value": f"{amount:.2f}", "currency": currency}


def _card() -> Json:
    card = {"first6": "555555", "last4": "4444", "expiry_year": "2030", "expiry_month": "12", "card_type": "MasterCard"}
    method = {"type": "bank_card", "id": str(uuid.uuid4()), "saved": False, "status": "inactive"}
    return {**method, "title": "Bank card *4444", "card": card}


def _authorized() -> Json:
    return {"rrn": "603668680243", "auth_code": "062467", "three_d_secure": {"applied": True}}


def _is_late(payment: Json, now: datetime) -> bool:
    return payment["status"] == "waiting_for_capture" and _read(payment["expires_at"]) <= now


def _shown(kept: Json) -> Json:
    return {name: copy.deepcopy(value) for name, value in kept.items() if not name.startswith("_")}


def _limits(query: Json) -> list[tuple[str, str, datetime]]:
    """Return what a list's parameters say of times: which, how, and the time to compare with."""
    found: list[tuple[str, str, datetime]] = []
    for parameter, wanted in query.items():
        field, _, how = parameter.partition(".")
        if not how:
            continue
        try:
            limit = _read(wanted)
        except ValueError:
            limit = None
        if limit is None or limit.tzinfo is None:
            raise _Refused(400, "It must be a time in ISO 8601", parameter)
        found.append((field, how, limit))
    return found


def _is_wanted(one: Json, query: Json, limits: Sequence[tuple[str, str, datetime]]) -> bool:
    shown = {**one, "payment_method": one.get("payment_method", {}).get("type")}
    fields = ("payment_method", "payment_id", "refund_id", "status")
    if any(shown.get(field) != query[field] for field in fields if field in query):
        return False
    return all(field in one and _COMPARISONS[how](_read(one[field]), limit) for field, how, limit in limits)


def _only(given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in {*known}:
            raise _Refused(400, f"There is no parameter {name:.80}", name[:80])


def _sent(body: bytes) -> Json:
    try:
        sent: Any = json.loads(body)
        json.dumps(sent, ensure_ascii=False).encode()  # JSON can carry halves of characters
    except (ValueError, RecursionError):
        raise _Refused(400, "The body is no JSON") from None
    if not isinstance(sent, dict):
        raise _Refused(400, "The body is no JSON object")
    return cast("Json", sent)


def _amount(body: Json, where: str = "amount", *, least: Decimal = Decimal("0.01")) -> Decimal:
    sent: Any = body.get("amount")
    if not isinstance(sent, dict):
        raise _Refused(400, "There must be an amount", where)
    amount = cast("Json", sent)
    _only(amount, ("value", "currency"))
    if not isinstance(amount.get("value"), str) or not re.fullmatch(r"[0-9]{1,12}\.[0-9]{2}", amount["value"]):
        raise _Refused(400, "It must be a text with two decimals", f"{where}.value")
    if amount.get("currency") not in _CURRENCIES:
        raise _Refused(400, "It must be a currency that is taken", f"{where}.currency")
    if Decimal(amount["value"]) < least:
        raise _Refused(400, "It is too little", f"{where}.value")
    return Decimal(amount["value"])


def _bounded(body: Json, name: str, most: int) -> None:
    text: Any = body.get(name, "")
    if not isinstance(text, str) or len(text) > most:
        raise _Refused(400, f"It must be a text of at most {most} characters", name)


def _metadata(body: Json) -> None:
    sent: Any = body.get("metadata", {})
    if not isinstance(sent, dict) or len(cast("Json", sent)) > 16:
        raise _Refused(400, "It must be an object with at most 16 keys", "metadata")
    for name, value in cast("Json", sent).items():
        if len(name) > 32 or not isinstance(value, str | None) or len(value or "") > 512:
            raise _Refused(400, "A key has at most 32 characters, a value is a text of at most 512", "metadata")


def _receipt(body: Json, amount: Decimal, currency: str) -> None:
    """Refuse a receipt that breaks the specification, or whose lines don't come to the amount (54-FZ)."""
    if "receipt" not in body:
        return
    if not isinstance(body["receipt"], dict):
        raise _Refused(400, "It must be an object", "receipt")
    receipt = cast("Json", body["receipt"])
    _only(receipt, _RECEIPT)
    if _lines(receipt, currency, "receipt.", _ITEM) != amount:
        raise _Refused(400, "The sum of the items is not the amount", "receipt.items")


def _lines(receipt: Json, currency: str, where: str, known: frozenset[str]) -> Decimal:
    """Return what the lines of a receipt come to; refuse them, its customer and its tax system if they can't be."""
    _customer(receipt, where)
    code: Any = receipt.get("tax_system_code", 1)
    if type(code) is not int or not 1 <= code <= 6:
        raise _Refused(400, "It must be a number from 1 to 6", f"{where}tax_system_code")
    items: Any = receipt.get("items")
    if not isinstance(items, list) or not 1 <= len(cast("list[Any]", items)) <= 100:
        raise _Refused(400, "There must be 1 to 100 items", f"{where}items")
    return sum((_item(item, currency, where, known) for item in cast("list[Any]", items)), Decimal(0))


def _settlement(sent: Any, currency: str) -> Decimal:
    if not isinstance(sent, dict):
        raise _Refused(400, "It must be an object", "settlements")
    one = cast("Json", sent)
    _only(one, ("type", "amount"))
    if one.get("type") not in _SETTLEMENTS:
        raise _Refused(400, "There is no such value", "settlements.type")
    amount = _amount(one, "settlements.amount")
    if one["amount"]["currency"] != currency:
        raise _Refused(400, "The currency is not the payment's", "settlements.amount.currency")
    return amount


def _customer(receipt: Json, where: str) -> None:
    sent: Any = receipt.get("customer")
    customer = cast("Json", sent) if isinstance(sent, dict) else {}
    _only(customer, ("full_name", "inn", "email", "phone"))
    email, phone = customer.get("email"), customer.get("phone")
    if email is None and phone is None:
        raise _Refused(400, "The customer needs an e-mail address or a phone number", f"{where}customer")
    if email is not None and (not isinstance(email, str) or not re.fullmatch(r"[^@\s]+@[^@\s]+", email)):
        raise _Refused(400, "It is no e-mail address", f"{where}customer.email")
    if phone is not None and (not isinstance(phone, str) or not re.fullmatch("[0-9]{4,15}", phone)):
        raise _Refused(400, "It must be digits only", f"{where}customer.phone")


def _item(sent: Any, currency: str, where: str, known: frozenset[str]) -> Decimal:
    """Return what an item of a receipt comes to."""
    if not isinstance(sent, dict):
        raise _Refused(400, "It must be an object", f"{where}items")
    item = cast("Json", sent)
    _only(item, known)
    price = _amount(item, f"{where}items.amount", least=Decimal(0))
    if item["amount"]["currency"] != currency:
        raise _Refused(400, "The currency is not the payment's", f"{where}items.amount.currency")
    title: Any = item.get("description")
    if not isinstance(title, str) or not 1 <= len(title) <= 128:
        raise _Refused(400, "It must be a text of 1 to 128 characters", f"{where}items.description")
    quantity: Any = item.get("quantity")
    if type(quantity) not in (int, float) or not 0 < quantity <= 99_999.999:
        raise _Refused(400, "It must be a number", f"{where}items.quantity")
    vat_code: Any = item.get("vat_code")
    if type(vat_code) is not int or not 1 <= vat_code <= 12:
        raise _Refused(400, "It must be a number from 1 to 12", f"{where}items.vat_code")
    for name, values in (("measure", _MEASURES), ("payment_subject", _SUBJECTS), ("payment_mode", _MODES)):
        if name in item and item[name] not in values:
            raise _Refused(400, "There is no such value", f"{where}items.{name}")
    return price * Decimal(str(quantity))


async def _serve(shop: YooKassaStandIn, payments: list[list[str]], webhook: str | None, *, hold: bool) -> None:
    async with shop:
        _say(f"base_url: {shop.base_url}\nshop_id: {shop.shop_id}\nsecret_key: {shop.secret_key}")
        for order, minor, currency in payments:
            told = (shop.hold if hold else shop.pay)(order, int(minor), currency)
            answered = await shop.deliver(told, webhook) if webhook else "not delivered"
            _say(f"{told['event']} {told['object']['id']} order {order}: {answered}")
        await asyncio.Event().wait()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until interrupted; payments given on the command line are made, and delivered if there is a webhook."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.sandbox.yookassa", description="A stand-in for YooKassa"
    )
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free one")
    parser.add_argument("--webhook", metavar="URL", help="where notifications are posted to")
    parser.add_argument("--pay", nargs=3, action="append", default=[], metavar=("ORDER", "MINOR", "CURRENCY"))
    parser.add_argument("--hold", action="store_true", help="let the money be held only")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(YooKassaStandIn(port=given.port), given.pay, given.webhook, hold=given.hold))


if __name__ == "__main__":
    main()
