"""A stand-in for Stripe, as strict as Stripe is in what Kvit uses: `python -m deployments.sandbox.stripe --help`.

It keeps its objects in memory. Money moves by calling it in Python, as customers and the shop would move it; each call
returns the event that Stripe would send, which `deliver` posts to a webhook.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import hashlib
import hmac
import json
import re
import secrets
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from deployments.sandbox.standin import StandIn

Json = dict[str, Any]

_COMPARISONS = {"gte": int.__ge__, "gt": int.__gt__, "lte": int.__le__, "lt": int.__lt__}
_LIST_PARAMETERS = frozenset({"limit", "starting_after", "ending_before", "created"})
# The smallest step of an amount, where it isn't one (docs.stripe.com/currencies).
_STEPS = {**dict.fromkeys("bhd jod kwd omr tnd".split(), 10), **dict.fromkeys("isk ugx".split(), 100)}


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


def _error(status: int, message: str, code: str | None = None, param: str | None = None) -> Response:
    kind = "api_error" if status >= 500 else "invalid_request_error"
    error = {"type": kind, "message": message, "code": code, "param": param}
    return JSONResponse({"error": {key: value for key, value in error.items() if value}}, status_code=status)


def _refused(_: Request, error: _Refused) -> Response:
    return _error(error.status, str(error), error.code, error.param)


def _unknown_url(request: Request, _: Exception) -> Response:
    return _error(404, f"Unrecognized request URL ({request.method}: {request.url.path}).")


class StripeStandIn(StandIn):
    """`async with StripeStandIn() as stripe:`, then point the connector's base_url at `stripe.base_url`.

    `events` are all that happened, the oldest first; `objects` what there is now, by kind and id.
    """

    def __init__(self, *, api_key: str = "sk_test_sandbox", webhook_secret: str | None = None, port: int = 0) -> None:
        """Make an account with nothing in it, and with a signing secret of its own where none is given."""
        self.api_key = api_key
        self.webhook_secret = webhook_secret or f"whsec_{secrets.token_hex(16)}"
        self.events: list[Json] = []
        self.objects: dict[str, dict[str, Json]] = {
            kind: {} for kind in ("payment_intent", "charge", "refund", "dispute", "balance_transaction", "payout")
        }
        self._paid_out: dict[str, str] = {}  # the payout of each balance transaction that is in one
        self._run = secrets.token_hex(4)
        self._made = 0
        handlers = {_Refused: cast("ExceptionHandler", _refused), 404: _unknown_url, 405: _unknown_url}
        app = Starlette(
            routes=[
                Route("/v1/payment_intents/{id}", self._checked(self._one("payment_intent"))),
                Route("/v1/charges/{id}", self._checked(self._one("charge"))),
                Route("/v1/disputes/{id}", self._checked(self._one("dispute"))),
                Route("/v1/payment_intents", self._checked(self._list("payment_intent"))),
                Route("/v1/disputes", self._checked(self._list("dispute"))),
                Route("/v1/refunds", self._checked(self._list_refunds)),
                Route("/v1/events", self._checked(self._list_events)),
                Route("/v1/payouts", self._checked(self._list_payouts)),
                Route("/v1/balance_transactions", self._checked(self._list_balance_transactions)),
            ],
            exception_handlers=handlers,
        )
        super().__init__(app, port=port)

    @property
    def base_url(self) -> str:
        """The API's address, as the connector is configured with it."""
        return f"{self.url}/v1"

    def error(self, status: int) -> Response:
        """Return an answer with an error status, shaped as Stripe's are."""
        return _error(status, "The stand-in was told to misbehave.", "rate_limit" if status == 429 else None)

    # What customers and the shop do

    def pay(
        self,
        order: str | None,
        amount_minor: int,
        currency: str = "eur",
        *,
        intent: str | None = None,
        description: str | None = None,
        key: str = "order",
        fee: int = 0,
        now: datetime | None = None,
    ) -> Json:
        """Let a customer pay, anew or another attempt at an intent; return payment_intent.succeeded.

        amount_minor is as Stripe counts it; key is the metadata's key that the order's number is written under; fee is
        what Stripe keeps.
        """
        if intent is None:
            paid = self._intent(order, amount_minor, currency, description=description, key=key, now=now)
        else:
            paid = self.objects["payment_intent"][intent]
        charge = self._new("charge", "ch", now, amount=amount_minor, currency=paid["currency"], refunded=False)
        charge |= {"amount_refunded": 0, "payment_intent": paid["id"], "metadata": dict(paid["metadata"])}
        charge |= {"paid": True, "status": "succeeded"}
        booked = self._book("charge", "charge", amount_minor, paid["currency"], source=charge, fee=fee, now=now)
        charge["balance_transaction"] = booked["id"]
        paid |= {"status": "succeeded", "amount_received": amount_minor, "latest_charge": charge["id"]}
        return self._event("payment_intent.succeeded", paid, now)

    def fail(
        self,
        order: str | None,
        amount_minor: int,
        currency: str = "eur",
        *,
        now: datetime | None = None,
    ) -> Json:
        """Let a customer's attempt to pay fail; return payment_intent.payment_failed."""
        intent = self._intent(order, amount_minor, currency, now=now)
        intent["last_payment_error"] = {"type": "card_error", "code": "card_declined"}
        return self._event("payment_intent.payment_failed", intent, now)

    def hold(self, order: str | None, amount_minor: int, currency: str = "eur", *, now: datetime | None = None) -> Json:
        """Let a customer's money be authorized only; return payment_intent.amount_capturable_updated."""
        intent = self._intent(order, amount_minor, currency, now=now)
        intent |= {"status": "requires_capture", "amount_capturable": amount_minor}
        return self._event("payment_intent.amount_capturable_updated", intent, now)

    def refund(
        self,
        intent: str,
        amount_minor: int | None = None,
        *,
        status: str = "succeeded",
        fee: int = 0,
        now: datetime | None = None,
    ) -> Json:
        """Give money back, all that is left or a part; return charge.refunded. A negative fee is given back too."""
        charge = self._charge_of(intent)
        left = charge["amount"] - charge["amount_refunded"]
        amount = left if amount_minor is None else amount_minor
        if not 0 < amount <= left:
            raise ValueError(f"{amount} can't be refunded, {left} is left")
        made = self._new(
            "refund",
            "re",
            now,
            amount=amount,
            currency=charge["currency"],
            charge=charge["id"],
            payment_intent=intent,
            status=status,
        )
        booked = self._book("refund", "refund", -amount, charge["currency"], source=made, fee=fee, now=now)
        made["balance_transaction"] = booked["id"]
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        return self._event("charge.refunded", charge, now)

    def settle_refund(self, refund: str, status: str = "succeeded", *, now: datetime | None = None) -> Json:
        """Let a pending refund come to its end; return refund.updated."""
        settled = self.objects["refund"][refund]
        settled["status"] = status
        return self._event("refund.updated", settled, now)

    def dispute(
        self, intent: str, *, payout_currency: str | None = None, fee: int = 0, now: datetime | None = None
    ) -> Json:
        """Let a customer's bank take a payment back; return charge.dispute.funds_withdrawn.

        With a payout_currency, the account is paid out in another currency, at two to one. fee is what Stripe asks for.
        """
        charge = self._charge_of(intent)
        dispute = self._new("dispute", "du", now, amount=charge["amount"], currency=charge["currency"])
        dispute |= {"charge": charge["id"], "payment_intent": intent, "status": "needs_response"}
        dispute["balance_transactions"] = []
        self._move(dispute, -1, payout_currency, fee, now)
        return self._event("charge.dispute.funds_withdrawn", dispute, now)

    def win_dispute(self, dispute: str, *, payout_currency: str | None = None, now: datetime | None = None) -> Json:
        """Let the shop win a dispute and have its money back; return charge.dispute.funds_reinstated."""
        won = self.objects["dispute"][dispute]
        won["status"] = "won"
        self._move(won, 1, payout_currency, 0, now)
        return self._event("charge.dispute.funds_reinstated", won, now)

    def charge_fee(self, amount_minor: int, currency: str = "eur", *, now: datetime | None = None) -> Json:
        """Let Stripe ask for a fee of its own, such as a monthly one; return its balance transaction."""
        return self._book("stripe_fee", "fee", -amount_minor, currency, source=None, now=now)

    def pay_out(
        self,
        currency: str = "eur",
        *,
        status: str = "paid",
        automatic: bool = True,
        amount_minor: int | None = None,
        reconciled: bool = True,
        trace: str | None = None,
        arrives: datetime | None = None,
        now: datetime | None = None,
    ) -> Json:
        """Pay out what is on the balance in a currency, or an amount by hand; return the payout.

        Where refunds come to more than sales, the amount is negative and the account is debited.
        """
        waiting = [
            one
            for one in self.objects["balance_transaction"].values()
            if one["currency"] == currency and one["id"] not in self._paid_out and one["type"] != "payout"
        ]
        amount = sum(one["net"] for one in waiting) if amount_minor is None else amount_minor
        payout = self._new("payout", "po", now, amount=amount, currency=currency, automatic=automatic, status=status)
        payout |= {"arrival_date": int((arrives or now or datetime.now(UTC)).timestamp()), "method": "standard"}
        payout |= {"statement_descriptor": None, "description": "STRIPE PAYOUT", "type": "bank_account"}
        payout["reconciliation_status"] = (
            ("completed" if reconciled else "in_progress") if automatic else "not_applicable"
        )
        payout["trace_id"] = {"status": "supported" if trace else "pending", "value": trace}
        booked = self._book("payout", "payout", -amount, currency, source=payout, now=now)
        payout["balance_transaction"] = booked["id"]
        for one in [*waiting, booked] if automatic else ():
            self._paid_out[one["id"]] = payout["id"]
        return payout

    def forget(self, event: Json) -> None:
        """Drop an event and all before it, as Stripe drops those of more than 30 days ago."""
        self.events = self.events[self.events.index(event) + 1 :]

    # What Stripe does

    def sign(self, body: bytes, now: datetime | None = None) -> dict[str, str]:
        """Return the headers of a webhook with this body; their names are in lower case."""
        time = int((now or datetime.now(UTC)).timestamp())
        signature = hmac.new(self.webhook_secret.encode(), b"%d." % time + body, hashlib.sha256).hexdigest()
        return {"content-type": "application/json; charset=utf-8", "stripe-signature": f"t={time},v1={signature}"}

    def signed(self, event: Json, now: datetime | None = None) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body of an event's webhook."""
        body = json.dumps(event, indent=2).encode()
        return self.sign(body, now), body

    async def deliver(self, event: Json, url: str, now: datetime | None = None, times: int = 1) -> list[int]:
        """Post an event's webhook, more than once if told so, and return the statuses answered."""
        async with httpx.AsyncClient(timeout=30) as client:
            headers, body = self.signed(event, now)
            return [(await client.post(url, headers=headers, content=body)).status_code for _ in range(times)]

    # How it keeps its objects

    def _id(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}_{self._run}{self._made:08}"

    def _new(self, kind: str, prefix: str, now: datetime | None, **fields: Any) -> Json:
        created = int((now or datetime.now(UTC)).timestamp())
        made: Json = {"id": self._id(prefix), "object": kind, "created": created, "livemode": False, **fields}
        self.objects[kind][made["id"]] = made
        return made

    def _intent(
        self,
        order: str | None,
        amount: int,
        currency: str,
        *,
        description: str | None = None,
        key: str = "order",
        now: datetime | None,
    ) -> Json:
        step = _STEPS.get(currency.lower(), 1)
        if amount <= 0 or amount % step:
            raise ValueError(f"{amount} {currency} is no amount that Stripe takes; it must be a multiple of {step}")
        metadata = {} if order is None else {key: order}
        intent = self._new("payment_intent", "pi", now, amount=amount, currency=currency.lower(), metadata=metadata)
        intent |= {"amount_capturable": 0, "amount_received": 0, "description": description, "latest_charge": None}
        intent["status"] = "requires_payment_method"
        return intent

    def _charge_of(self, intent: str) -> Json:
        return self.objects["charge"][self.objects["payment_intent"][intent]["latest_charge"]]

    def _move(self, dispute: Json, sign: int, payout_currency: str | None, fee: int, now: datetime | None) -> None:
        amount = sign * dispute["amount"] * (2 if payout_currency else 1)
        currency = payout_currency or dispute["currency"]
        category = "dispute" if sign < 0 else "dispute_reversal"
        moved = self._book("adjustment", category, amount, currency, source=dispute, fee=fee, now=now)
        dispute["balance_transactions"].append(moved)

    def _book(
        self,
        kind: str,
        category: str,
        amount: int,
        currency: str,
        *,
        source: Json | None,
        fee: int = 0,
        now: datetime | None,
    ) -> Json:
        """Book what moves the account's balance; amount is what customers paid, and fee what Stripe keeps of it."""
        booked = self._new("balance_transaction", "txn", now, amount=amount, fee=fee, net=amount - fee)
        booked |= {"currency": currency, "type": kind, "reporting_category": category, "exchange_rate": None}
        booked |= {"source": source["id"] if source else None, "status": "available", "description": None}
        return booked

    def _event(self, kind: str, about: Json, now: datetime | None) -> Json:
        created = int((now or datetime.now(UTC)).timestamp())
        event: Json = {"id": self._id("evt"), "object": "event", "api_version": "2026-10-28.endive", "created": created}
        event |= {"data": {"object": copy.deepcopy(about)}, "livemode": False, "pending_webhooks": 1, "type": kind}
        self.events.append(event)
        return event

    # How it answers

    def _checked(self, endpoint: Callable[[Request], Json]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            if request.headers.get("Authorization") != f"Bearer {self.api_key}":
                raise _Refused(401, "Invalid API Key provided.")
            version = request.headers.get("Stripe-Version", "2026-10-28.endive")
            if not re.fullmatch(r"\d{4}-\d\d-\d\d(\.[a-z]+)?", version):
                raise _Refused(400, "Invalid Stripe API version.")
            return JSONResponse(endpoint(request))

        return answer

    def _one(self, kind: str) -> Callable[[Request], Json]:
        def endpoint(request: Request) -> Json:
            _allow(request, frozenset())
            found = self.objects[kind].get(request.path_params["id"])
            if found is None:
                raise _Refused(404, f"No such {kind}: '{request.path_params['id']}'", "resource_missing", "id")
            return found

        return endpoint

    def _list(self, kind: str) -> Callable[[Request], Json]:
        def endpoint(request: Request) -> Json:
            _allow(request, frozenset(), listed=True)
            return _listed(request, list(self.objects[kind].values()), lambda _: True)

        return endpoint

    def _list_refunds(self, request: Request) -> Json:
        _allow(request, frozenset({"payment_intent", "charge"}), listed=True)
        wanted = {key: request.query_params[key] for key in ("payment_intent", "charge") if key in request.query_params}
        intent = wanted.get("payment_intent")
        if intent is not None and intent not in self.objects["payment_intent"]:
            raise _Refused(404, f"No such payment_intent: '{intent}'", "resource_missing", "payment_intent")
        refunds = list(self.objects["refund"].values())
        return _listed(request, refunds, lambda refund: all(refund[key] == value for key, value in wanted.items()))

    def _list_payouts(self, request: Request) -> Json:
        _allow(request, frozenset({"status"}), listed=True)
        status = request.query_params.get("status")
        if status not in (None, "pending", "paid", "failed", "canceled"):
            raise _Refused(400, f"Invalid status: {status}", None, "status")
        return _listed(request, list(self.objects["payout"].values()), lambda one: status in (None, one["status"]))

    def _list_balance_transactions(self, request: Request) -> Json:
        _allow(request, frozenset({"payout", "type", "source", "currency", "expand"}), listed=True)
        expanded = [value for key, value in request.query_params.multi_items() if _name(key) == "expand"]
        for path in expanded:
            if path != "data.source":
                raise _Refused(400, f"This property cannot be expanded ({path}).", None, "expand")
        payout = request.query_params.get("payout")
        if payout is not None and payout not in self.objects["payout"]:
            raise _Refused(404, f"No such payout: '{payout}'", "resource_missing", "payout")
        if payout is not None and not self.objects["payout"][payout]["automatic"]:
            raise _Refused(400, "Balance transaction history can only be filtered on automatic transfers, not manual.")
        wanted = {
            key: request.query_params[key] for key in ("type", "source", "currency") if key in request.query_params
        }

        def asked_for(one: Json) -> bool:
            there = payout is None or self._paid_out.get(one["id"]) == payout
            return there and all(one[key] == value for key, value in wanted.items())

        found = _listed(request, list(self.objects["balance_transaction"].values()), asked_for)
        if expanded:
            found["data"] = [one | {"source": self._object(one["source"])} for one in found["data"]]
        return found

    def _object(self, id_: str | None) -> Json | None:
        return next((kept[id_] for kept in self.objects.values() if id_ in kept), None)

    def _list_events(self, request: Request) -> Json:
        _allow(request, frozenset({"type", "types"}), listed=True)
        types = [value for key, value in request.query_params.multi_items() if _name(key) in ("type", "types")]
        if len(types) > 20:
            raise _Refused(400, "At most 20 types are taken.", "parameter_invalid", "types")
        return _listed(request, self.events, lambda event: not types or event["type"] in types)


def _name(parameter: str) -> str:
    return parameter.partition("[")[0]


def _allow(request: Request, names: frozenset[str], *, listed: bool = False) -> None:
    """Refuse what Stripe refuses: parameters that it doesn't know."""
    known = names | (_LIST_PARAMETERS if listed else frozenset[str]())
    for parameter in request.query_params:
        if _name(parameter) not in known:
            raise _Refused(400, f"Received unknown parameter: {parameter}", "parameter_unknown", parameter)


def _number(text: str, parameter: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", text):
        raise _Refused(400, f"Invalid integer: {text}", "parameter_invalid_integer", parameter)
    return int(text)


def _in_time(request: Request, created: int) -> bool:
    for parameter, text in request.query_params.items():
        if _name(parameter) == "created":
            comparison = re.fullmatch(r"created(?:\[(gte|gt|lte|lt)\])?", parameter)
            if comparison is None:
                raise _Refused(400, f"Received unknown parameter: {parameter}", "parameter_unknown", parameter)
            compare = _COMPARISONS.get(comparison[1], int.__eq__)
            if not compare(created, _number(text, parameter)):
                return False
    return True


def _listed(request: Request, rows: list[Json], wanted: Callable[[Json], bool]) -> Json:
    """Return a page of a list, newest first; with ending_before it is the page right above that object."""
    query = request.query_params
    limit = _number(query.get("limit", "10"), "limit")
    if not 1 <= limit <= 100:
        raise _Refused(400, "limit must be between 1 and 100.", "parameter_invalid_integer", "limit")
    if "starting_after" in query and "ending_before" in query:
        raise _Refused(400, "Received both starting_after and ending_before parameters. Please pass in only one.")
    newest_first = [row for _, row in sorted(enumerate(rows), key=lambda r: (r[1]["created"], r[0]), reverse=True)]
    places = {row["id"]: place for place, row in enumerate(newest_first)}
    for parameter in ("starting_after", "ending_before"):
        if parameter in query and query[parameter] not in places:
            raise _Refused(400, f"No such object: '{query[parameter]}'", "resource_missing", parameter)
    if "ending_before" in query:
        newest_first = newest_first[: places[query["ending_before"]]]
    elif "starting_after" in query:
        newest_first = newest_first[places[query["starting_after"]] + 1 :]
    found = [row for row in newest_first if wanted(row) and _in_time(request, row["created"])]
    page = found[-limit:] if "ending_before" in query else found[:limit]
    return {"object": "list", "url": request.url.path, "has_more": len(found) > limit, "data": page}


async def _serve(stripe: StripeStandIn, payments: list[list[str]], webhook: str | None) -> None:
    async with stripe:
        _say(f"base_url: {stripe.base_url}\napi_key: {stripe.api_key}\nwebhook_secret: {stripe.webhook_secret}")
        for order, amount, currency in payments:
            event = stripe.pay(order, int(amount), currency)
            answered = await stripe.deliver(event, webhook) if webhook else "not delivered"
            _say(f"{event['id']} order {order}: {answered}")
        await asyncio.Event().wait()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until interrupted; payments given on the command line are made, and delivered if there is a webhook."""
    parser = argparse.ArgumentParser(prog="python -m deployments.sandbox.stripe", description="A stand-in for Stripe")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free one")
    parser.add_argument("--webhook", metavar="URL", help="where events are posted to")
    parser.add_argument("--webhook-secret", metavar="WHSEC", help="what they are signed with; made anew by default")
    parser.add_argument("--pay", nargs=3, action="append", default=[], metavar=("ORDER", "MINOR", "CURRENCY"))
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        stripe = StripeStandIn(webhook_secret=given.webhook_secret, port=given.port)
        asyncio.run(_serve(stripe, given.pay, given.webhook))


if __name__ == "__main__":
    main()
