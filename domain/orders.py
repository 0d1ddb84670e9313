"""Orders: lines, lifecycle and the payment state that follows from all of an order's payments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from domain.money import Money
from domain.payments import Kind, Method


class Status(StrEnum):
    """The standard statuses; a channel's own statuses each stand for one of these."""

    NEW = "new"
    AWAITING_PAYMENT = "awaiting_payment"
    ON_HOLD = "on_hold"
    PAID = "paid"
    PROCESSING = "processing"
    IN_PRODUCTION = "in_production"
    READY = "ready"
    DISPATCHED = "dispatched"
    DELIVERED = "delivered"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    RETURNED = "returned"


CLOSED = frozenset({Status.CANCELLED, Status.EXPIRED, Status.RETURNED})
"""Statuses in which an order no longer waits for money: a payment for it is late."""

_PATH = (
    Status.NEW,
    Status.AWAITING_PAYMENT,
    Status.ON_HOLD,
    Status.PAID,
    Status.PROCESSING,
    Status.IN_PRODUCTION,
    Status.READY,
    Status.DISPATCHED,
    Status.DELIVERED,
    Status.COMPLETED,
)
_RANK = {status: rank for rank, status in enumerate(_PATH)}


class Move(StrEnum):
    """What a wanted change of status comes to."""

    ALLOWED = "allowed"
    ALREADY = "already"
    FORBIDDEN = "forbidden"


def transition(now: Status, to: Status) -> Move:
    """Say whether an order may go from one standard status to another.

    Along the path an order only moves forward (a step that asks for an earlier status finds it already past);
    it may expire until it is paid, be cancelled until it is dispatched, and be returned after that. Nothing leaves a
    closed status.
    """
    if now == to:
        return Move.ALREADY
    if now in CLOSED:
        return Move.FORBIDDEN
    if to is Status.EXPIRED:
        return Move.ALLOWED if _RANK[now] < _RANK[Status.PAID] else Move.FORBIDDEN
    if to is Status.CANCELLED:
        return Move.ALLOWED if _RANK[now] < _RANK[Status.DISPATCHED] else Move.FORBIDDEN
    if to is Status.RETURNED:
        return Move.ALLOWED if _RANK[now] >= _RANK[Status.DISPATCHED] else Move.FORBIDDEN
    return Move.ALLOWED if _RANK[to] > _RANK[now] else Move.ALREADY


class PaymentState(StrEnum):
    """What all payments of an order together say."""

    UNPAID = "unpaid"
    PART_PAID = "part_paid"
    PAID = "paid"
    OVERPAID = "overpaid"
    REFUNDED = "refunded"
    PART_REFUNDED = "part_refunded"
    CHARGED_BACK = "charged_back"


def payment_state(total: Money, settled: Iterable[Money], disputed: Iterable[Money] = ()) -> PaymentState:
    """Derive the payment state from everything ever allocated to an order; refunds are negative.

    What counts is the sum, so one of two charges given back leaves an order paid. disputed is what chargebacks took,
    negative, and what won disputes brought back. Raises MoneyError where an allocation is of another currency than
    the total.
    """
    moves, taken = list(settled), sum(disputed, Money.zero(total.currency))
    kept = sum(moves, Money.zero(total.currency)) + taken
    if taken.minor < 0 and kept < total:
        return PaymentState.CHARGED_BACK
    refunded = any(money.minor < 0 for money in moves)
    if refunded and kept.minor <= 0:
        return PaymentState.REFUNDED
    if kept < total:
        if refunded:
            return PaymentState.PART_REFUNDED
        return PaymentState.PART_PAID if kept else PaymentState.UNPAID
    return PaymentState.PAID if kept == total or not kept else PaymentState.OVERPAID


def payment_state_of(total: Money, moves: Iterable[tuple[Kind, Money, Money]]) -> PaymentState:
    """Derive the payment state from what an order was allocated, as (kind, amount, written off)."""
    # What a refund writes off is what it gave back: it was paid once, and isn't owed again.
    settled = [(kind, amount if kind is Kind.REFUND else amount + off) for kind, amount, off in moves]
    of_dispute = (Kind.CHARGEBACK, Kind.REINSTATED)
    return payment_state(
        total,
        [money for kind, money in settled if money and kind not in of_dispute],
        [money for kind, money in settled if money and kind in of_dispute],
    )


def still_on_delivery(to_pay: Money, on_delivery: Money | None, collected: Money | None) -> Money:
    """Return what of an order's missing money is to be collected: no more than is missing, and none of it twice."""
    if on_delivery is None:
        return Money.zero(to_pay.currency)
    left = on_delivery.minor - (collected.minor if collected else 0)
    return Money(max(min(left, to_pay.minor), 0), to_pay.currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a parcel goes or an invoice is addressed to."""

    name: str = ""
    street: str = ""
    city: str = ""
    postcode: str = ""
    country: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Who bought; number is the channel's own, language one of cs, ro, uk, ru, en or None for the channel's."""

    id: int
    number: str
    name: str
    email: str | None = None
    phone: str | None = None
    language: str | None = None
    group: str | None = None
    tax_id: str | None = None
    address: Address = field(default_factory=Address)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLine:
    """One line; prices are gross (VAT included), vat_rate is in per cent; a line without sku moves no stock."""

    id: int
    sku: str | None
    title: str
    quantity: int
    unit_price: Money
    vat_rate: Decimal

    @property
    def total(self) -> Money:
        """Gross total of the line."""
        return Money(self.unit_price.minor * self.quantity, self.unit_price.currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as the steps see it; settled is what all allocations so far come to.

    external_id is the shop's own id of it, where that isn't its number. written_off is what of settled no money came
    for: what tolerance let pass, and what was given back and is not owed again. reserved_until is the end of the last
    day of one that waits for its money, due_on that of one on credit; extended counts how often it was put off.

    Where goods are paid before and the delivery when it comes, on_delivery is its price, a part of the total, and
    collected is what carriers have brought of the order so far.

    begun_as is the status that it had when what is under way began, where that may not be the one that it has.
    """

    id: int
    channel: str
    number: str
    status: str
    standard_status: Status
    method: Method
    total: Money
    settled: Money
    placed_at: datetime
    customer: Customer
    lines: tuple[OrderLine, ...]
    delivery_method: str | None = None
    delivery_address: Address = field(default_factory=Address)
    variable_symbol: str | None = None
    rf: str | None = None
    external_id: str | None = None
    written_off: Money | None = None
    due_on: date | None = None
    reserved_until: datetime | None = None
    extended: int = 0
    on_delivery: Money | None = None
    collected: Money | None = None
    begun_as: str | None = None

    @property
    def to_pay(self) -> Money:
        """What is still missing; negative when too much came."""
        return self.total - self.settled

    @property
    def to_collect(self) -> Money:
        """What of it the carrier is to collect where only the delivery is paid when it comes; else nothing."""
        return still_on_delivery(self.to_pay, self.on_delivery, self.collected)

    @property
    def to_pay_now(self) -> Money:
        """What is missing before the parcel may go: all of it, or all but what the carrier is to collect."""
        return self.to_pay - self.to_collect if self.on_delivery else self.to_pay

    @property
    def carried_on_as(self) -> Method:
        """The method whose rules hold: the carrier's remittance ends an order whose delivery it pays."""
        remitted = self.on_delivery and self.collected and self.to_pay.minor <= 0
        return Method.CASH_ON_DELIVERY if remitted else self.method

    @property
    def paid(self) -> Money:
        """What came in, less what went back."""
        return self.settled - self.written_off if self.written_off else self.settled
