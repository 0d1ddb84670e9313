"""A stand-in for WayForPay, as strict as WayForPay is in what Kvit uses: `python -m deployments.sandbox.wayforpay`.

It keeps its payments in memory. Customers pay by calling it in Python, or by the signed form at `/pay` and then by
calling `approve` or `decline`; each change returns the callback that WayForPay would send, which `deliver` posts until
it is answered by a correctly signed accept.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, cast
from urllib.parse import parse_qs, quote_plus

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from deployments.sandbox.standin import Plan, Seen, StandIn

Json = dict[str, Any]

ACCOUNT = "test_merch_n1"
KEY = "flk3409refn54t54t*FNJRET"
"""The account and the key that WayForPay publishes for trials."""

_LONG = ("amount", "currency", "authCode", "cardPan", "transactionStatus", "reasonCode")
_SHORT = ("transactionStatus", "reasonCode")
_SIGNED = {
    "CHECK_STATUS": ("orderReference",),
    "SETTLE": ("orderReference", "amount", "currency"),
    "REFUND": ("orderReference", "amount", "currency"),
    "TRANSACTION_LIST": ("dateBegin", "dateEnd"),
}
_NEEDED = {**_SIGNED, "REFUND": ("orderReference", "amount", "currency", "comment")}
_PURCHASE = ("merchantDomainName", "orderReference", "orderDate", "amount", "currency")
_PRODUCTS = ("productName[]", "productCount[]", "productPrice[]")
_CURRENCIES = ("UAH", "USD", "EUR", "CZK", "RON")
_REASONS = {
    1100: "Ok",
    1101: "Declined To Card Issuer",
    1109: "Format Error",
    1110: "Invalid Currency",
    1112: "Duplicate Order ID",
    1113: "Invalid signature",
    1115: "Parameter Is Missing",
    1121: "Merchant Not Found",
    1123: "Refund not allowed",
    1126: "Order is in illegal state",
    1127: "Order Not Found",
    1128: "Refund Limit Exceeded",
    1130: "Invalid Amount",
    1131: "Transaction In Processing",
    1137: "Confirmed Amount Is Invalid",
    1138: "Refund In Processing",
    1141: "Partial Void Not Supported",
}


class Number(str):
    """A number in JSON, as the text that it is written as."""

    __slots__ = ()


class Quirk(StrEnum):
    """How a callback's body is written."""

    NONE = "none"
    FORM_KEY = "form_key"
    """The JSON is the one key of a form, encoded."""
    RAW_FORM_KEY = "raw_form_key"
    """The JSON is sent as it is with an equals sign after it, and called a form."""
    NO_VALUE = "no_value"
    """A field has no value."""
    NO_CONTENT_TYPE = "no_content_type"


def written(fields: Mapping[str, Any]) -> bytes:
    """Return fields as JSON, with its numbers as they are."""
    parts = (f"{json.dumps(name)}:{_json(value)}" for name, value in fields.items())
    return ("{" + ",".join(parts) + "}").encode()


def _json(value: Any) -> str:
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(_json(one) for one in cast("Sequence[Any]", value)) + "]"
    if isinstance(value, Mapping):
        return written(cast("Mapping[str, Any]", value)).decode()
    return json.dumps(value, ensure_ascii=False)


def _number(value: int | Decimal) -> Number:
    """Return a number as PHP writes it: at its shortest."""
    text = f"{value:f}"
    return Number(text.rstrip("0").rstrip(".") if "." in text else text)


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, reference: str | None = None) -> None:
        super().__init__(_REASONS[code])
        self.code = code
        self.reference = reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """A payment as it stands; amounts are in major units. asked is what the customer was to pay."""

    reference: str
    asked: Decimal
    amount: Decimal
    currency: str
    status: str
    reason: int
    created: datetime
    processed: datetime
    auth_code: str = ""
    card_pan: str = ""
    refunded: Decimal = Decimal(0)
    in_refund: Decimal = Decimal(0)
    hold_timeout: int | None = None
    text: str | None = None
    """How the amount is written, when it isn't written at its shortest."""


class WayForPayStandIn(StandIn):
    """`async with WayForPayStandIn() as gateway:`, then point the connector's base_url at `gateway.url`.

    `payments` are all that there are, by order reference; `done` is every change that a request or a customer made, as
    (what, reference, amount). time is what its clock shows: the real time while it is None. A misbehavior may be bound
    to one kind of request by the path `/CHECK_STATUS`, `/SETTLE` and so on.

    What isn't known of WayForPay can be set: settle_signature, captured_in (the field that says what was taken of a
    hold), part_refunded (the status after a part was given back), expired_as (the status of a hold nobody confirmed).
    With slow_refunds a refund stays in processing until `finish_refund`; with declines_refunds none is made. alter
    changes answers before they are sent: (kind of request, answer) to another answer; `signed` signs one anew.
    """

    def __init__(
        self,
        *,
        account: str = ACCOUNT,
        key: str = KEY,
        port: int = 0,
        settle_signature: Literal["long", "short", "none"] = "long",
        captured_in: Literal["amount", "settlementAmount"] = "amount",
        part_refunded: Literal["Approved", "Refunded"] = "Refunded",
        expired_as: Literal["Expired", "Voided"] = "Expired",
        hold_days: int = 21,
        window_days: int = 31,
        currencies: Sequence[str] = _CURRENCIES,
    ) -> None:
        """Make a merchant without payments."""
        self.account, self.key = account, key
        self.payments: dict[str, Paid] = {}
        self.done: list[tuple[str, str, str]] = []
        self.time: datetime | None = None
        self.alter: Callable[[str, Json], Json] = lambda _, answer: answer
        self.slow_refunds = False
        self.declines_refunds = False
        self._settle_signature = settle_signature
        self._captured_in = captured_in
        self._part_refunded = part_refunded
        self._expired_as = expired_as
        self._hold = timedelta(days=hold_days)
        self._window = window_days * 86_400
        self._currencies = tuple(currencies)
        self._kinds: dict[str, Callable[[Json], Json]] = {
            "CHECK_STATUS": self._check_status,
            "SETTLE": self._settle,
            "REFUND": self._refund,
            "TRANSACTION_LIST": self._list,
        }
        routes = [Route("/api", self._api, methods=["POST"]), Route("/pay", self._pay, methods=["POST"])]
        super().__init__(Starlette(routes=routes), port=port)

    def error(self, status: int) -> Response:
        """Return an answer with an error status; how WayForPay's look isn't known."""
        return PlainTextResponse("<html>Error</html>", status_code=status)

    def failure(self) -> Response:
        """Return an answer that says with status 200 that nothing was done yet."""
        return _answered({"reason": _REASONS[1131], "reasonCode": Number(1131)})

    def next_plan(self, seen: Seen) -> Plan | None:
        """Return what goes wrong with a request; its kind stands for its path."""
        with suppress(ValueError):
            sent: Any = json.loads(seen.body)
            if isinstance(sent, dict):
                kind = cast("Json", sent).get("transactionType", "")
                return super().next_plan(replace(seen, path=f"/{kind}"))
        return super().next_plan(seen)

    def sign(self, *values: str) -> str:
        """Return the signature over values."""
        return hmac.new(self.key.encode(), ";".join(values).encode(), "md5").hexdigest()

    # What customers and the shop do; each returns a callback

    def pay(
        self,
        reference: str,
        amount: str,
        currency: str = "UAH",
        *,
        hold: bool = False,
        hold_timeout: int | None = None,
        by_card: bool = True,
        now: datetime | None = None,
    ) -> Json:
        """Let a customer pay, or let the money be held; amount is in major units and is sent as it is written here."""
        self._create(reference, Decimal(amount), currency, hold_timeout, now, text=amount)
        return self.approve(reference, hold=hold, by_card=by_card, now=now)

    def hold(self, reference: str, amount: str, currency: str = "UAH", **more: Any) -> Json:
        """Let a customer's money be held."""
        return self.pay(reference, amount, currency, hold=True, **more)

    def fail(self, reference: str, amount: str, currency: str = "UAH", *, now: datetime | None = None) -> Json:
        """Let a customer's attempt be declined by the bank."""
        self._create(reference, Decimal(amount), currency, None, now, text=amount)
        return self.decline(reference, now=now)

    def begin(self, reference: str, amount: str, currency: str = "UAH", *, now: datetime | None = None) -> Json:
        """Let a customer come as far as the page on which the card is asked for."""
        self._create(reference, Decimal(amount), currency, None, now, text=amount)
        return self._changed(reference, now, status="InProcessing", reason=1131)

    def approve(self, reference: str, *, hold: bool = False, by_card: bool = True, now: datetime | None = None) -> Json:
        """Let the bank authorize what a customer was to pay; without a card there is neither code nor card number."""
        card = {"auth_code": "541963", "card_pan": "41****8217"} if by_card else {}
        status = "WaitingAuthComplete" if hold else "Approved"
        self._did("hold" if hold else "pay", reference, self.payments[reference].amount)
        return self._changed(reference, now, status=status, reason=1100, **card)

    def decline(self, reference: str, *, now: datetime | None = None) -> Json:
        """Let the bank decline it."""
        return self._changed(reference, now, status="Declined", reason=1101)

    def expire(self, reference: str, *, now: datetime | None = None) -> Json:
        """Let the time to pay, or to confirm a hold, run out."""
        return self._changed(reference, now, status="Expired", reason=1101)

    def settle(self, reference: str, amount: str | None = None, *, now: datetime | None = None) -> Json:
        """Confirm a hold, as the shop does in WayForPay's cabinet."""
        self._confirm(reference, Decimal(amount) if amount else self.payments[reference].amount, now)
        return self.callback(reference)

    def refund(self, reference: str, amount: str | None = None, *, now: datetime | None = None) -> Json:
        """Give money back, as the shop does in WayForPay's cabinet: all that is left, or a part."""
        paid = self.payments[reference]
        self._give_back(reference, Decimal(amount) if amount else paid.amount - paid.refunded, now)
        return self.callback(reference)

    def finish_refund(self, reference: str, *, now: datetime | None = None) -> Json:
        """Let a refund that was in processing come through."""
        paid = self.payments[reference]
        self.payments[reference] = replace(paid, in_refund=Decimal(0), status="Approved")
        self._return(reference, paid.in_refund, now)
        return self.callback(reference)

    # What WayForPay does

    def callback(self, reference: str) -> Json:
        """Return the callback about how a payment stands now."""
        return self.signed(self._shown(self.payments[reference]), _LONG)

    def body(self, callback: Mapping[str, Any], quirk: Quirk = Quirk.NONE) -> bytes:
        """Return a callback as it is sent."""
        sent = written(callback)
        match quirk:
            case Quirk.FORM_KEY:
                return quote_plus(sent).encode() + b"="
            case Quirk.RAW_FORM_KEY:
                return sent + b"="
            case Quirk.NO_VALUE:
                return sent[:-1] + b',"products":,"clientFields":}'
            case Quirk.NONE | Quirk.NO_CONTENT_TYPE:
                return sent

    async def deliver(
        self, callback: Mapping[str, Any], url: str, *, quirk: Quirk = Quirk.NONE, tries: int = 5
    ) -> list[int]:
        """Post a callback until it is accepted, at most so often, and return the statuses answered.

        The last one that isn't an accept is followed by nothing, as when WayForPay gives up.
        """
        content_type = {
            Quirk.FORM_KEY: "application/x-www-form-urlencoded",
            Quirk.RAW_FORM_KEY: "application/x-www-form-urlencoded",
            Quirk.NO_CONTENT_TYPE: None,
        }.get(quirk, "application/json")
        headers = {"Content-Type": content_type} if content_type else {}
        answered: list[int] = []
        async with httpx.AsyncClient(timeout=30) as client:
            for _ in range(tries):
                response = await client.post(url, content=self.body(callback, quirk), headers=headers)
                answered.append(response.status_code)
                if response.status_code == 200 and self.is_accept(response.content, str(callback["orderReference"])):
                    break
        return answered

    def is_accept(self, body: bytes, reference: str) -> bool:
        """Say whether an answer accepts a callback about a payment, and is signed as it must be."""
        try:
            sent: Any = json.loads(body)
        except ValueError:
            return False
        if not isinstance(sent, dict):
            return False
        told = cast("Json", sent)
        if told.get("orderReference") != reference or told.get("status") != "accept":
            return False
        return isinstance(told.get("time"), int) and told.get("signature") == self.sign(
            reference, "accept", str(told["time"])
        )

    # How it keeps its payments

    def _now(self, now: datetime | None = None) -> datetime:
        return now or self.time or datetime.now(UTC)

    def _did(self, what: str, reference: str, amount: Decimal) -> None:
        self.done.append((what, reference, _number(amount)))

    def _create(
        self,
        reference: str,
        amount: Decimal,
        currency: str,
        hold_timeout: int | None,
        now: datetime | None,
        text: str | None = None,
    ) -> None:
        if reference in self.payments:
            raise ValueError(f"order reference {reference} was used before ({_REASONS[1112]})")
        if amount <= 0:
            raise ValueError(f"{amount} is no amount that WayForPay takes")
        at = self._now(now)
        self.payments[reference] = Paid(
            reference=reference,
            asked=amount,
            amount=amount,
            currency=currency,
            status="Created",
            reason=1131,
            created=at,
            processed=at,
            hold_timeout=hold_timeout,
            text=text,
        )

    def _changed(self, reference: str, now: datetime | None, **fields: Any) -> Json:
        self.payments[reference] = replace(self.payments[reference], processed=self._now(now), **fields)
        return self.callback(reference)

    def _found(self, reference: str) -> Paid:
        """Return a payment; a hold that nobody confirmed in time has ended."""
        paid = self.payments.get(reference)
        if paid is None:
            raise _Refused(1127, reference)
        lasts = timedelta(seconds=paid.hold_timeout) if paid.hold_timeout else self._hold
        if paid.status == "WaitingAuthComplete" and self._now() > paid.created + lasts:
            paid = replace(paid, status=self._expired_as, reason=1101, processed=paid.created + lasts)
            self.payments[reference] = paid
        return paid

    def _confirm(self, reference: str, amount: Decimal, now: datetime | None) -> None:
        paid = self._found(reference)
        if paid.status != "WaitingAuthComplete":
            raise _Refused(1126, reference)
        if not 0 < amount <= paid.amount:
            raise _Refused(1137, reference)
        self._did("settle", reference, amount)
        self._changed(reference, now, status="Approved", reason=1100, amount=amount, text=None)

    def _give_back(self, reference: str, amount: Decimal, now: datetime | None) -> None:
        paid = self._found(reference)
        if paid.status == "WaitingAuthComplete":
            if amount != paid.amount:
                raise _Refused(1141, reference)
            self._did("void", reference, amount)
            self._changed(reference, now, status="Voided", reason=1100)
            return
        if paid.status == "RefundInProcessing":
            raise _Refused(1138, reference)
        if paid.status not in ("Approved", "Refunded") or paid.refunded == paid.amount:
            raise _Refused(1126, reference)
        if self.declines_refunds:
            raise _Refused(1123, reference)
        if amount <= 0:
            raise _Refused(1130, reference)
        if amount > paid.amount - paid.refunded:
            raise _Refused(1128, reference)
        if self.slow_refunds:
            self._changed(reference, now, status="RefundInProcessing", reason=1138, in_refund=amount)
        else:
            self._return(reference, amount, now)

    def _return(self, reference: str, amount: Decimal, now: datetime | None) -> None:
        paid = self.payments[reference]
        back = paid.refunded + amount
        self._did("refund", reference, amount)
        status = "Refunded" if back == paid.amount else self._part_refunded
        self._changed(reference, now, status=status, reason=1100, refunded=back)

    # How it answers

    def _shown(self, paid: Paid, *, listed: bool = False) -> Json:
        amount = Number(paid.text) if paid.text else _number(paid.amount)
        shown: Json = {
            "merchantAccount": self.account,
            "orderReference": paid.reference,
            "amount": amount,
            "currency": paid.currency,
            "authCode": paid.auth_code,
            "email": "bozena@example.com",
            "phone": "420601234567",
            "createdDate": Number(int(paid.created.timestamp())),
            "processingDate": Number(int(paid.processed.timestamp())),
            "cardPan": paid.card_pan,
            "cardType": "Visa" if paid.card_pan else None,
            "issuerBankName": None,
            "transactionStatus": paid.status,
            "reason": _REASONS[paid.reason],
            "reasonCode": Number(paid.reason),
            "fee": Number("0"),
            "paymentSystem": "card" if paid.card_pan else "privat24",
        }
        if paid.hold_timeout and not listed:
            shown["holdTimeout"] = Number(paid.hold_timeout)
        if self._captured_in == "settlementAmount" and paid.amount != paid.asked:
            shown |= {"amount": _number(paid.asked), "settlementAmount": _number(paid.amount)}
        if listed:
            for name in ("merchantAccount", "authCode"):
                del shown[name]
            shown = {"transactionType": "PURCHASE", **shown}
        return shown

    def signed(self, fields: Json, names: Sequence[str] = _LONG) -> Json:
        """Return fields with the signature over the account, the order reference and these; the long one by default."""
        values = [str(fields.get(name) or "") for name in ("merchantAccount", "orderReference", *names)]
        return {**fields, "merchantSignature": self.sign(*values)}

    async def _api(self, request: Request) -> Response:
        try:
            return _answered(self._carried_out(await request.body()))
        except _Refused as refused:
            said: Json = {"reason": str(refused), "reasonCode": Number(refused.code)}
            return _answered({**({"orderReference": refused.reference} if refused.reference else {}), **said})

    def _carried_out(self, body: bytes) -> Json:
        try:
            sent: Any = json.loads(body, parse_int=Number, parse_float=Number)
        except (ValueError, RecursionError):
            raise _Refused(1109) from None
        if not isinstance(sent, dict):
            raise _Refused(1109)
        fields = cast("Json", sent)
        kind = fields.get("transactionType")
        if not isinstance(kind, str) or kind not in self._kinds:
            raise _Refused(1109)
        for name in ("merchantAccount", "merchantSignature", "apiVersion", *_NEEDED[kind]):
            if not isinstance(fields.get(name), str) or not fields[name]:
                raise _Refused(1115)
        if fields["merchantAccount"] != self.account:
            raise _Refused(1121)
        signed = (fields[name] for name in ("merchantAccount", *_SIGNED[kind]))
        if fields["merchantSignature"] != self.sign(*signed):
            raise _Refused(1113)
        numbers = {"amount", "dateBegin", "dateEnd", "apiVersion"} & {*_NEEDED[kind], "apiVersion"}
        if any(not isinstance(fields[name], Number) for name in numbers):
            raise _Refused(1109)
        return self.alter(kind, self._kinds[kind](fields))

    def _check_status(self, sent: Json) -> Json:
        paid = self._found(sent["orderReference"])
        shown = self._shown(paid)
        if paid.refunded:
            shown["refundAmount"] = _number(paid.refunded)
        return self.signed(shown, _LONG)

    def _settle(self, sent: Json) -> Json:
        reference = sent["orderReference"]
        if sent["currency"] != self._found(reference).currency:
            raise _Refused(1110, reference)
        self._confirm(reference, Decimal(sent["amount"]), None)
        shown = self._shown(self.payments[reference])
        if self._settle_signature == "none":
            return shown
        return self.signed(shown, _LONG if self._settle_signature == "long" else _SHORT)

    def _refund(self, sent: Json) -> Json:
        reference = sent["orderReference"]
        if sent["currency"] != self._found(reference).currency:
            raise _Refused(1110, reference)
        self._give_back(reference, Decimal(sent["amount"]), None)
        paid = self.payments[reference]
        told = "Refunded" if paid.status == "Approved" else paid.status
        answer: Json = {"merchantAccount": self.account, "orderReference": reference, "transactionStatus": told}
        answer |= {"reason": _REASONS[paid.reason], "reasonCode": Number(paid.reason)}
        return self.signed(answer, _SHORT)

    def _list(self, sent: Json) -> Json:
        begin, end = int(sent["dateBegin"]), int(sent["dateEnd"])
        if not 0 <= end - begin <= self._window:
            raise _Refused(1109)
        found = [self._found(reference) for reference in self.payments]
        rows = [self._shown(paid, listed=True) for paid in found if begin <= int(paid.created.timestamp()) <= end]
        return {"reason": "Ok", "reasonCode": Number(1100), "transactionList": rows}

    async def _pay(self, request: Request) -> Response:
        sent = parse_qs((await request.body()).decode(), keep_blank_values=True)
        try:
            reference = self._order(sent)
        except _Refused as refused:
            return _answered({"reason": str(refused), "reasonCode": Number(refused.code)})
        return PlainTextResponse(f"Pay for {reference}")

    def _order(self, sent: Mapping[str, list[str]]) -> str:
        needed = ("merchantAccount", *_PURCHASE, *_PRODUCTS)
        if any(not sent.get(name) for name in (*needed, "merchantSignature")):
            raise _Refused(1115)
        if sent["merchantAccount"] != [self.account]:
            raise _Refused(1121)
        values = [value for name in needed for value in sent[name]]
        if sent["merchantSignature"] != [self.sign(*values)]:
            raise _Refused(1113)
        (reference,), (amount,), (currency,) = sent["orderReference"], sent["amount"], sent["currency"]
        if reference in self.payments:
            raise _Refused(1112)
        if currency not in self._currencies:
            raise _Refused(1110)
        try:
            self._create(reference, Decimal(amount), currency, None, None, text=amount)
        except (ArithmeticError, ValueError):
            raise _Refused(1130) from None
        return reference


def _answered(fields: Mapping[str, Any]) -> Response:
    return Response(written(fields), media_type="application/json")


async def _serve(gateway: WayForPayStandIn, payments: list[list[str]], webhook: str | None, *, hold: bool) -> None:
    async with gateway:
        _say(f"base_url: {gateway.url}\nmerchant_account: {gateway.account}\nsecret_key: {gateway.key}")
        for reference, amount, currency in payments:
            callback = gateway.pay(reference, amount, currency, hold=hold)
            answered = await gateway.deliver(callback, webhook) if webhook else "not delivered"
            _say(f"{callback['transactionStatus']} order {reference}: {answered}")
        await asyncio.Event().wait()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until interrupted; payments given on the command line are made, and delivered if there is a webhook."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.sandbox.wayforpay",
        description="A stand-in for WayForPay, with the account and the key that WayForPay publishes for trials",
    )
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free one")
    parser.add_argument("--webhook", metavar="URL", help="where callbacks are posted to")
    parser.add_argument("--pay", nargs=3, action="append", default=[], metavar=("ORDER", "AMOUNT", "CURRENCY"))
    parser.add_argument("--hold", action="store_true", help="let the money be held only")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(WayForPayStandIn(port=given.port), given.pay, given.webhook, hold=given.hold))


if __name__ == "__main__":
    main()
