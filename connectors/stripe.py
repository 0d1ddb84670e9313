"""Stripe: payments by card, their refunds and chargebacks, and the payouts that they are paid out in.

A webhook only says where to look. What counts is what the API says about the object when it is asked.

Payouts are polled. Of an automatic one Stripe tells what it is made of; of one that was asked for by hand it doesn't.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from connectors import Config, signatures
from connectors.errors import Misconfigured, Rejected, Transient, raise_for_status
from connectors.http import Client, Limits
from connectors.roles import NOWHERE, BadSignature, Origin, Page, PayoutPage, PayoutReport, WebhookEvent
from domain.money import Money, MoneyError
from domain.payments import IncomingPayment, Kind, Method
from domain.payouts import LineKind, Payout, PayoutLine, problems
from domain.reconciliation import Transaction

_EVENT_TYPES = (
    "payment_intent.succeeded",
    "charge.refunded",
    "charge.refund.updated",
    "refund.updated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
)
"""The events that can make a payment; polling asks for these alone (Stripe takes at most 20 types)."""

_PAGE_SIZE = 100

# A payout is listed as paid within five business days of its making (docs.stripe.com/api/payouts/object, status), and
# not in the order of its making; so what was made within these days is looked through at each poll.
_PAYOUT_DAYS = 14
_PAYOUTS_AT_ONCE = 5
_MAX_TRANSACTIONS = 50_000

# How docs.stripe.com/reports/balance-transaction-types calls what a payout is made of; the rest is set off otherwise.
_LINE_KINDS = {
    "charge": LineKind.PAYMENT,
    "payment": LineKind.PAYMENT,
    "refund": LineKind.REFUND,
    "payment_refund": LineKind.REFUND,
    "stripe_fee": LineKind.FEE,
    "stripe_fx_fee": LineKind.FEE,
    "tax_fee": LineKind.FEE,
}
# Card networks give a shop weeks to answer a dispute, and banks months to decide it.
_DISPUTE_DAYS = 180

_ORDER_KEYS = ("order", "order_number", "order_id")

# Stripe counts in a currency's minor unit, but these it counts otherwise than ISO 4217 does: their number of decimals
# there (docs.stripe.com/currencies, zero-decimal currencies and special cases).
_DECIMALS = {"ISK": 2, "UGX": 2, "MGA": 0}

_ID = "[a-z]{2,5}_[A-Za-z0-9_]{1,240}"  # such an id is safe in a path
_Id = Annotated[str, Field(pattern=f"^{_ID}$")]
_Seconds = Annotated[int, Field(ge=0, lt=253_402_300_800, description="Since 1970, before the year 10000")]
_Amount = Annotated[int, Field(ge=-(10**15), le=10**15, description="As Stripe counts the currency")]


class StripeConfig(Config):
    """Settings of a Stripe account."""

    api_key: SecretStr = Field(
        description="Secret key, or a restricted one that may read events, payment intents, charges and disputes"
    )
    webhook_secret: SecretStr = Field(
        description="The webhook endpoint's signing secret; while it is being replaced, both, with a comma between"
    )
    base_url: str = "https://api.stripe.com/v1"
    api_version: str = Field(default="2026-10-28.endive", pattern=r"^[!-~]+$")
    account: str | None = Field(default=None, description="What to call the account that the money arrives on")
    tolerance: int = Field(default=300, ge=1, le=3600, description="Seconds a webhook's time may differ from ours")
    days: int = Field(default=3, ge=1, le=30, description="Days that the first poll looks back")
    settle: int = Field(default=30, ge=0, le=3600, description="Seconds that an event rests before it is polled")
    payouts: bool = Field(
        default=True,
        description="Read payouts too; the key must then be allowed payouts and balance transactions as well",
    )
    payout_payers: tuple[Annotated[str, Field(min_length=3, max_length=80)], ...] = Field(
        default=("STRIPE",), description="Words of the payer's name, or its account, as the bank has it for payouts"
    )
    limits: Limits = Field(default_factory=Limits)

    @field_validator("api_key", "webhook_secret")
    @classmethod
    def _whole(cls, value: SecretStr) -> SecretStr:
        # Anybody can sign with an empty secret, and a line break would end the header that the key is sent in.
        if not all(re.fullmatch("[!-~]+", secret.strip(" ")) for secret in value.get_secret_value().split(",")):
            raise ValueError("it is empty, or there is a space or a line break in it; copy it again")
        return value


class _Object(BaseModel):
    """Something that Stripe sent, as far as it is used here."""

    model_config = ConfigDict(strict=True)


class _Event(_Object):
    id: _Id
    type: str = ""
    created: _Seconds = 0
    data: dict[str, Any] = Field(default_factory=dict[str, Any])


class _Subject(_Object):
    id: _Id
    charge: _Id | None = None


class _Answer(_Object):
    """What the API is asked for; KIND is how it names such an object in its field `object`."""

    KIND: ClassVar[str]


class _Named(_Object):
    object: str


class _Intent(_Answer):
    KIND = "payment_intent"

    id: _Id
    status: str
    amount_received: _Amount
    currency: str
    created: _Seconds
    description: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict[str, str])


class _Charge(_Answer):
    KIND = "charge"

    id: _Id
    payment_intent: _Id | None = None
    metadata: dict[str, str] = Field(default_factory=dict[str, str])


class _Movement(_Object):
    """A refund, or a balance transaction of a dispute."""

    id: _Id
    amount: _Amount
    currency: str
    created: _Seconds
    status: str | None = None


class _Dispute(_Answer):
    KIND = "dispute"

    id: _Id
    amount: _Amount
    currency: str
    charge: _Id
    balance_transactions: list[_Movement]


class _ListedRefund(_Movement):
    charge: _Id | None = None
    payment_intent: _Id | None = None


class _ListedDispute(_Dispute):
    payment_intent: _Id | None = None


class _List(_Answer):
    KIND = "list"

    data: list[dict[str, Any]]
    has_more: bool


class _Trace(_Object):
    status: str | None = None
    value: str | None = None


class _Payout(_Object):
    """A payout; amount is negative where the account was debited."""

    id: _Id
    amount: _Amount
    currency: str
    created: _Seconds
    arrival_date: _Seconds
    automatic: bool
    reconciliation_status: str | None = None
    trace_id: _Trace | None = None


class _Cause(_Object):
    """What a balance transaction comes of: a charge, a refund, a dispute, or something that is of no use here."""

    id: str = ""
    object: str = ""
    payment_intent: str | None = None
    charge: str | None = None
    status: str | None = None
    metadata: dict[str, str] | None = None


class _Booked(_Object):
    """A balance transaction; net is amount less fee, and the fee positive where Stripe keeps it."""

    id: _Id
    type: str
    amount: _Amount
    fee: _Amount
    net: _Amount
    currency: str
    created: _Seconds
    source: _Cause | str | None = None


class _Problem(_Object):
    type: str | None = None
    code: str | None = None


class _Failure(_Object):
    error: _Problem


class _Missing(Rejected):
    """Stripe has no object of that id."""


_Read = TypeVar("_Read", bound=_Object)
_Asked = TypeVar("_Asked", bound=_Answer)
_Known = TypeVar("_Known", "_Intent", "_Charge", "_Dispute")


def _order_in(metadata: Mapping[str, str]) -> str | None:
    return next((value.strip() for key in _ORDER_KEYS if (value := metadata.get(key, "")).strip()), None)


def _safe(id_: str | None) -> str | None:
    return id_ if id_ and re.fullmatch(_ID, id_) else None


def _cause(booked: _Booked) -> _Cause:
    """Return what a balance transaction comes of; without its object only the id is known."""
    return booked.source if isinstance(booked.source, _Cause) else _Cause(id=booked.source or "")


def _line_kind(booked: _Booked) -> LineKind:
    cause = _cause(booked)
    kind = _LINE_KINDS.get(booked.type, LineKind.OTHER)
    if booked.type == "adjustment" and cause.object == "dispute":
        kind = LineKind.CHARGEBACK if booked.amount < 0 else LineKind.REINSTATED if booked.amount else LineKind.FEE
    # A refund that didn't reach the customer moved no money; what brings it back is a transaction of its own.
    if kind is LineKind.REFUND and (booked.amount >= 0 or cause.status in ("failed", "canceled") or not cause.id):
        kind = LineKind.OTHER
    return LineKind.OTHER if kind is LineKind.PAYMENT and booked.amount <= 0 else kind


def _hint(booked: _Booked) -> bytes | None:
    """Return the event by which Stripe would have told of a transaction, or None where it tells of none."""
    cause, kind = _cause(booked), _line_kind(booked)
    if kind is LineKind.PAYMENT and (intent := _safe(cause.payment_intent)):
        type_, about = "payment_intent.succeeded", {"id": intent}
    elif kind is LineKind.REFUND and _safe(cause.id) and (charge := _safe(cause.charge)):
        type_, about = "refund.updated", {"id": cause.id, "charge": charge}
    elif kind in (LineKind.CHARGEBACK, LineKind.REINSTATED) and _safe(cause.id):
        type_, about = "charge.dispute.funds_withdrawn", {"id": cause.id}
    else:
        return None
    return _event(booked.id, type_, booked.created, about)


def _event(id_: str, type_: str, created: int, about: Mapping[str, Any]) -> bytes:
    """Return an event as a webhook would have told it."""
    event = {"id": id_, "object": "event", "type": type_, "created": created, "data": {"object": about}}
    return json.dumps(event).encode()


def _moves(dispute: _Dispute) -> list[tuple[_Movement, Kind]]:
    """Return what a dispute took, negative, and what winning it gave back, in the currency that was paid in."""
    found: list[tuple[_Movement, Kind]] = []
    for booked in dispute.balance_transactions:
        moved = booked
        # Balance transactions are in the currency of the payout, which needn't be the one that was paid in.
        if booked.currency != dispute.currency:
            amount = dispute.amount if booked.amount > 0 else -dispute.amount
            moved = booked.model_copy(update={"amount": amount, "currency": dispute.currency})
        found.append((moved, Kind.CHARGEBACK if moved.amount < 0 else Kind.REINSTATED))
    return found


class Stripe:
    """A Stripe account as a source of payments: by webhook, and by polling for what the webhooks missed."""

    def __init__(self, config: StripeConfig) -> None:
        self._config = config
        self._secrets = [secret.strip() for secret in config.webhook_secret.get_secret_value().split(",")]
        headers = {
            "Authorization": f"Bearer {config.api_key.get_secret_value()}",
            "Stripe-Version": config.api_version,
        }
        self._client = Client(config.name, config.base_url, config.limits, headers=headers)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    @property
    def payout_source(self) -> str:
        """The source of the account's payments, and of its payouts."""
        return f"stripe:{self._config.name}"

    @property
    def payout_payers(self) -> Sequence[str]:
        """Names and accounts that the bank writes for Stripe."""
        return self._config.payout_payers

    async def check(self) -> str:
        """Say that the account was reached and the key accepted; raises one of the three errors."""
        for path in ("/events", "/payouts") if self._config.payouts else ("/events",):
            await self._get(path, _List, {"limit": 1})
        return f"{self._config.name}: Stripe answers and accepts the key"

    def verify(
        self,
        headers: Mapping[str, str],
        body: bytes,
        *,
        now: datetime,
        origin: Origin = NOWHERE,  # noqa: ARG002 - a signature says more
    ) -> WebhookEvent:
        """Return what a webhook is, or raise BadSignature. Header names are in lower case."""
        signatures.verify(
            headers.get("stripe-signature"),
            body,
            header="Stripe-Signature",
            secrets=self._secrets,
            now=now,
            tolerance=self._config.tolerance,
        )
        try:
            event = _Event.model_validate_json(body)
        except ValidationError:
            raise BadSignature("the body is no event of Stripe's: no JSON, or without a usable id") from None
        return WebhookEvent(external_id=event.id, kind=event.type)

    async def truth(self, body: bytes) -> list[IncomingPayment]:
        """Ask what the object of a stored event really is, and return the payments it makes.

        A payment is the intent's, once it has succeeded; what was returned comes as negative payments, one per refund
        or movement of a dispute. A failed attempt makes none, so it never takes a paid order back. Raises Transient,
        Rejected or Misconfigured.
        """
        event = self._read(_Event, body)
        kind = event.type
        if kind.startswith("payment_intent.") and kind != "payment_intent.payment_failed":
            return await self._payment(self._subject(event).id)
        if kind == "charge.refunded":
            return await self._refunds(self._subject(event).id)
        if kind in ("charge.refund.updated", "refund.updated"):
            charge = self._subject(event).charge
            return await self._refunds(charge) if charge else []
        if kind.startswith("charge.dispute."):
            return await self._dispute(self._subject(event).id)
        return []

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return up to 100 events after a cursor, the oldest first; None looks back as many days as configured.

        The cursor is `<created>:<id>` of the last event taken, the id empty while there was none.

        Stripe lists newest first, and a list has a top that moves and an end that doesn't. So going on means asking
        for what stands right before the last event (`ending_before`), which is the oldest that is still missing,
        however many came since. Starting has no such event to hold on to: the list is walked down to its end, only
        the last page, the oldest, is taken, and the rest follows upwards from there. An interrupted start begins
        again, and nothing was taken.

        Events of the last seconds are left alone: one may still appear below one that is listed already (`created` is
        in whole seconds and is not when an event is listed), and would then stand behind the cursor for good.

        Stripe keeps events for 30 days. When it knows the cursor's event no more, the walk starts at that event's time.
        """
        since, last = self._position(cursor, now)
        wanted = {"types[]": list(_EVENT_TYPES), "created[lt]": int(now.timestamp()) - self._config.settle}
        page: _List | None = None
        more = False
        if last:
            try:
                page = await self._get("/events", _List, {**wanted, "limit": _PAGE_SIZE, "ending_before": last})
                more = page.has_more
            except _Missing:
                page = None
        if page is None:
            async for older in self._walk("/events", {**wanted, "created[gte]": since}):
                page, more = older, page is not None
        found = [(self._read(_Event, raw), json.dumps(raw).encode()) for raw in reversed(page.data if page else [])]
        if found:
            since, last = found[-1][0].created, found[-1][0].id
        return Page(tuple((event.id, raw) for event, raw in found), f"{since}:{last}", more)

    async def payouts(self, cursor: str | None, *, now: datetime) -> PayoutPage:
        """Return up to five payouts that were not returned before, the oldest first, each with what it is made of.

        The cursor is `<began>:<since>:<ids>`: when the first poll looked back to, the time from which payouts are
        listed, and the ones of these that were returned. What was paid before the first poll is told of, but not hinted
        at: it belongs to a time when nobody asked.
        """
        if not self._config.payouts:
            return PayoutPage((), cursor or "", more=False)
        began, since, taken = self._payout_position(cursor, now)
        listed: list[_Payout] = []
        async for page in self._walk("/payouts", {"status": "paid", "created[gte]": since}):
            listed += [self._read(_Payout, raw) for raw in page.data]
        listed.reverse()
        ready = [one for one in listed if one.id not in taken and one.reconciliation_status != "in_progress"]
        reports = [await self._report(one, began) for one in ready[:_PAYOUTS_AT_ONCE]]
        taken |= {report.external_id for report in reports}
        left = [one.created for one in listed if one.id not in taken]
        since = max(since, min([int((now - timedelta(days=_PAYOUT_DAYS)).timestamp()), *left]))
        known = ",".join(one.id for one in listed if one.id in taken and one.created >= since)
        return PayoutPage(tuple(reports), f"{began}:{since}:{known}", more=len(ready) > len(reports))

    def _payout_position(self, cursor: str | None, now: datetime) -> tuple[int, int, set[str]]:
        if not cursor:
            began = int((now - timedelta(days=self._config.days)).timestamp())
            return began, began, set()
        known = re.fullmatch(f"([0-9]{{1,12}}):([0-9]{{1,12}}):((?:{_ID}(?:,{_ID})*)?)", cursor)
        if known is None:
            raise Misconfigured(f"{self._config.name}: “{cursor[:60]}” is not a cursor; poll without one to start anew")
        return int(known[1]), int(known[2]), set(known[3].split(","))

    async def _report(self, told: _Payout, began: int) -> PayoutReport:
        """Return a payout with its lines, or why it can't be taken: another one is not kept up by it."""
        booked: list[_Booked] = []
        hints: dict[str, bytes] = {}
        payout: Payout | None = None
        refused = ""
        try:
            net = self._money(told.amount, told.currency)
            if told.automatic:
                booked = await self._booked(told)
                lines = self._lines(booked)
                recent = [(one, line) for one, line in zip(booked, lines, strict=True) if one.created >= began]
                hints = {line.external_id: hint for one, line in recent if (hint := _hint(one))}
            else:
                # Stripe doesn't say what a payout is made of that was asked for by hand.
                zero = Money.zero(net.currency)
                lines = [PayoutLine(external_id=told.id, kind=LineKind.OTHER, gross=net, fee=zero, net=net)]
            payout = self._paid_out(told, net, tuple(lines))
            refused = "; ".join(f"{problem.where}: {problem.reason}" for problem in problems(payout)[:3])
        except (Rejected, MoneyError) as error:
            refused = str(error)
        kept = {"payout": told.model_dump(), "balance_transactions": [one.model_dump() for one in booked]}
        return PayoutReport(
            external_id=told.id,
            body=json.dumps(kept).encode(),
            payout=None if refused else payout,
            refused=refused,
            hints=hints,
        )

    def _paid_out(self, told: _Payout, net: Money, lines: tuple[PayoutLine, ...]) -> Payout:
        trace = told.trace_id.value if told.trace_id and told.trace_id.status == "supported" else None
        return Payout(
            source=self.payout_source,
            external_id=told.id,
            # A line in another currency is found with the other problems, and named.
            gross=Money(sum(line.gross.minor for line in lines), net.currency),
            fee=Money(sum(line.fee.minor for line in lines), net.currency),
            net=net,
            paid_on=datetime.fromtimestamp(told.arrival_date, UTC).date(),
            lines=lines,
            reference=trace if trace and re.fullmatch("[ -~]{1,100}", trace) else None,
        )

    async def _booked(self, told: _Payout) -> list[_Booked]:
        """Return the balance transactions that an automatic payout is made of, the oldest first."""
        found: list[_Booked] = []
        wanted = {"payout": told.id, "expand[]": "data.source"}
        async for page in self._walk("/balance_transactions", wanted):
            found += [self._read(_Booked, raw) for raw in page.data]
            if len(found) > _MAX_TRANSACTIONS:
                raise Rejected(f"{self._config.name}: payout {told.id} has more than {_MAX_TRANSACTIONS} transactions")
        # Among them is the payout itself, as what leaves the account's balance.
        return [one for one in reversed(found) if (one.type, _cause(one).id) != ("payout", told.id)]

    def _lines(self, booked: Sequence[_Booked]) -> list[PayoutLine]:
        lines: list[PayoutLine] = []
        seen: set[str] = set()
        for one in booked:
            kind, cause = _line_kind(one), _cause(one)
            gross, fee = self._money(one.amount, one.currency), self._money(one.fee, one.currency)
            if kind is LineKind.FEE:
                gross, fee = gross - gross, fee - gross
            # As the payments that truth returns are called; a refund that failed is there twice.
            id_ = cause.id if kind is LineKind.REFUND and cause.id not in seen else one.id
            seen.add(id_)
            order = _order_in(cause.metadata or {})
            line = PayoutLine(
                external_id=id_,
                kind=kind,
                gross=gross,
                fee=fee,
                net=self._money(one.net, one.currency),
                provider_reference=_safe(cause.payment_intent),
                order_reference=order if order and order.isprintable() else None,
                booked_on=datetime.fromtimestamp(one.created, UTC).date(),
            )
            lines.append(line)
        return lines

    def _position(self, cursor: str | None, now: datetime) -> tuple[int, str]:
        if cursor is None:
            return int((now - timedelta(days=self._config.days)).timestamp()), ""
        known = re.fullmatch(f"([0-9]{{1,12}}):((?:{_ID})?)", cursor)
        if known is None:
            raise Misconfigured(f"{self._config.name}: “{cursor[:60]}” is not a cursor; poll without one to start anew")
        return int(known[1]), known[2]

    @property
    def transaction_source(self) -> str:
        """The source of the account's payments."""
        return self.payout_source

    async def transactions(self, since: datetime) -> AsyncGenerator[list[Transaction]]:
        """Yield, page by page, the payments that began at a time or later, and the refunds and disputes booked since.

        Attempts that brought no money are among them, since one that is stored all the same shows so. A dispute is won
        or lost months after it began, so disputes are looked through from longer ago.
        """
        start = int(since.timestamp())
        async for page in self._walk("/payment_intents", {"created[gte]": start}):
            intents = [self._read(_Intent, raw) for raw in page.data]
            yield [self._of_intent(intent) for intent in intents]
        async for page in self._walk("/refunds", {"created[gte]": start}):
            refunds = [self._read(_ListedRefund, raw) for raw in page.data]
            # What has no intent never came in as a payment here.
            yield [self._of_refund(refund) for refund in refunds if refund.payment_intent]
        began = int((since - timedelta(days=_DISPUTE_DAYS)).timestamp())
        async for page in self._walk("/disputes", {"created[gte]": began}):
            disputes = [self._read(_ListedDispute, raw) for raw in page.data]
            yield [
                self._listed(moved, kind, "booked", "charge.dispute.funds_withdrawn", {"id": dispute.id})
                for dispute in disputes
                if dispute.payment_intent
                for moved, kind in _moves(dispute)
                if moved.created >= start
            ]

    def _of_intent(self, intent: _Intent) -> Transaction:
        settled = intent.status == "succeeded" and intent.amount_received > 0
        moved = _Movement(id=intent.id, amount=intent.amount_received, currency=intent.currency, created=intent.created)
        about = {"id": intent.id}
        return self._listed(moved, Kind.PAYMENT, intent.status, "payment_intent.succeeded", about, settled=settled)

    def _of_refund(self, refund: _ListedRefund) -> Transaction:
        back = refund.model_copy(update={"amount": -refund.amount})
        status = refund.status or "unknown"
        about = {"id": refund.id, "charge": refund.charge}
        return self._listed(back, Kind.REFUND, status, "refund.updated", about, settled=status == "succeeded")

    def _listed(
        self, moved: _Movement, kind: Kind, state: str, type_: str, about: dict[str, Any], *, settled: bool = True
    ) -> Transaction:
        return Transaction(
            external_id=moved.id,
            kind=kind,
            amount=self._money(moved.amount, moved.currency),
            at=datetime.fromtimestamp(moved.created, UTC),
            settled=settled,
            state=state if re.fullmatch("[a-z_]{1,60}", state) else "unknown",
            event=_event(moved.id, type_, moved.created, about),
        )

    async def _payment(self, intent_id: str) -> list[IncomingPayment]:
        intent = await self._object("payment_intents", intent_id, _Intent)
        if intent.status != "succeeded" or intent.amount_received <= 0:
            return []
        moved = _Movement(id=intent.id, amount=intent.amount_received, currency=intent.currency, created=intent.created)
        return [self._incoming(moved, intent.id, _order_in(intent.metadata), intent.description)]

    async def _refunds(self, charge_id: str) -> list[IncomingPayment]:
        intent_id, order = await self._origin(charge_id)
        if intent_id is None:
            return []
        payments: list[IncomingPayment] = []
        async for page in self._walk("/refunds", {"payment_intent": intent_id}):
            for refund in (self._read(_ListedRefund, raw) for raw in page.data):
                if refund.payment_intent != intent_id:
                    raise Transient(f"{self._config.name}: answered with the refunds of another payment")
                # A pending refund is told again when it succeeds; a failed or canceled one returned nothing.
                if refund.status == "succeeded":
                    back = refund.model_copy(update={"amount": -refund.amount})
                    payments.append(self._incoming(back, intent_id, order, "Refund", Kind.REFUND))
        return payments

    async def _dispute(self, dispute_id: str) -> list[IncomingPayment]:
        """Return the money a dispute took, and what winning it gave back: one payment per balance transaction."""
        dispute = await self._object("disputes", dispute_id, _Dispute)
        if not dispute.balance_transactions:
            return []
        intent_id, order = await self._origin(dispute.charge)
        if intent_id is None:
            return []
        return [
            self._incoming(
                moved,
                intent_id,
                order,
                "Chargeback" if kind is Kind.CHARGEBACK else "Chargeback reversed",
                kind,
            )
            for moved, kind in _moves(dispute)
        ]

    async def _origin(self, charge_id: str) -> tuple[str | None, str | None]:
        """Return the intent and the order of a charge; a charge without intent never came in as a payment here."""
        charge = await self._object("charges", charge_id, _Charge)
        order = _order_in(charge.metadata)
        if charge.payment_intent and order is None:
            intent = await self._object("payment_intents", charge.payment_intent, _Intent)
            order = _order_in(intent.metadata)
        return charge.payment_intent, order

    def _incoming(
        self, moved: _Movement, intent_id: str, order: str | None, text: str | None, kind: Kind = Kind.PAYMENT
    ) -> IncomingPayment:
        return IncomingPayment(
            source=self.payout_source,
            external_id=moved.id,
            method=Method.CARD,
            amount=self._money(moved.amount, moved.currency),
            booked_on=datetime.fromtimestamp(moved.created, UTC).date(),
            account=self._config.account,
            provider_reference=intent_id,
            order_reference=order,
            text=text,
            kind=kind,
        )

    def _money(self, amount: int, currency: str) -> Money:
        code = currency.upper()
        try:
            if code in _DECIMALS:
                return Money.from_decimal(Decimal(amount).scaleb(-_DECIMALS[code]), code)
            return Money(amount, code)
        except MoneyError as error:
            raise Rejected(f"{self._config.name}: {error}") from None

    def _subject(self, event: _Event) -> _Subject:
        return self._read(_Subject, event.data.get("object"))

    def _read(self, model: type[_Read], sent: Any) -> _Read:
        """Read an object of Stripe's; one with a wrong field will have it the next time too."""
        try:
            return model.model_validate_json(sent) if isinstance(sent, bytes) else model.model_validate(sent)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            said = f"an object of Stripe's can't be read: {where[:200]}: {first['msg']}"
            raise Rejected(f"{self._config.name}: {said}") from None

    async def _walk(self, path: str, params: dict[str, Any]) -> AsyncGenerator[_List]:
        """Yield the pages of a list from its top, the newest, to its end."""
        page = await self._get(path, _List, {**params, "limit": _PAGE_SIZE})
        yield page
        seen: set[str] = set()
        while page.has_more and page.data:
            after = self._read(_Subject, page.data[-1]).id
            if after in seen:
                raise Transient(f"{self._config.name}: the next page of a list was the same page again")
            seen.add(after)
            page = await self._get(path, _List, {**params, "limit": _PAGE_SIZE, "starting_after": after})
            yield page

    async def _object(self, kind: str, id_: str, model: type[_Known]) -> _Known:
        """Return an object by its id.

        An answer that comes twice is the answer to the next question on its connection; a payment that took its order
        from another one's charge would be money on the wrong order.
        """
        found = await self._get(f"/{kind}/{id_}", model)
        if found.id != id_:
            raise Transient(f"{self._config.name}: answered with another {model.KIND} than was asked for")
        return found

    async def _get(self, path: str, model: type[_Asked], params: dict[str, Any] | None = None) -> _Asked:
        response = await self._client.request("GET", path, params=params)
        if not response.is_success:
            self._refuse(response)
        # A page of something between, or an error with a status of success, says nothing about the object.
        try:
            named = _Named.model_validate_json(response.content).object
        except ValidationError:
            named = None
        if named != model.KIND:
            status = response.status_code
            raise Transient(f"{self._config.name}: answered {status}, but not with the {model.KIND} that was asked for")
        return self._read(model, response.content)

    def _refuse(self, response: httpx.Response) -> None:
        """Raise for an error answer. Its message is left out, because it can quote personal data; its code can't."""
        try:
            problem = _Failure.model_validate_json(response.content).error
        except ValidationError:
            problem = _Problem()
        said = "/".join(word for word in (problem.type, problem.code) if word and re.fullmatch("[a-z_]{1,60}", word))
        if problem.code == "resource_missing":
            raise _Missing(f"{self._config.name}: answered {response.status_code} ({said})")
        raise_for_status(self._config.name, response, said)


CONFIG = StripeConfig
CONNECTOR = Stripe
