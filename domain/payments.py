"""Payments: what a source says came in, before anybody knows what it pays for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

from domain.money import Money


class Method(StrEnum):
    """How the money came; each method has its scenario."""

    CARD = "card"
    BANK_TRANSFER = "bank_transfer"
    CASH_ON_DELIVERY = "cash_on_delivery"


class Kind(StrEnum):
    """What a movement of money is, as far as its source says."""

    PAYMENT = "payment"
    REFUND = "refund"
    CHARGEBACK = "chargeback"
    REINSTATED = "reinstated"
    """A dispute was won: what a chargeback took came back."""
    RETURN = "return"
    """A bank's return of what was paid out before, or of what had been collected."""


class Outcome(StrEnum):
    """What a payment turned out to be; every payment ends in exactly one."""

    EXACT = "exact"
    WITHIN_TOLERANCE = "within_tolerance"
    SHORT = "short"
    OVER = "over"
    DUPLICATE = "duplicate"
    LATE = "late"
    WRONG_CURRENCY = "wrong_currency"
    AMBIGUOUS = "ambiguous"
    UNKNOWN = "unknown"
    REFUND = "refund"
    CHARGEBACK = "chargeback"
    REINSTATED = "reinstated"
    TAKEN_BACK = "taken_back"
    """A person took it off the order that it had settled; it is matched again only when that is asked for."""
    RETURNED = "returned"
    """The bank sent it back: money that we had paid out and that reached nobody."""
    PAYOUT = "payout"
    """A gateway's lump sum: its report says whose payments it is made of, and they settle the orders."""
    OUTGOING = "outgoing"
    """Money that left the account and names no order of ours (a fee, a supplier): nothing to settle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementEntry:
    """One movement on a bank account, or one line of a carrier's remittance.

    amount is signed: credit positive. where says where in the file it stands, for error texts.
    bank_reference is the bank's own id; it is absent where the bank gives none.
    returned says that the bank sends back by it what was paid before.
    order_reference is set where the format has a field for the order's number, tracking_number likewise.
    """

    amount: Money
    booked_on: date
    where: str
    value_date: date | None = None
    bank_reference: str | None = None
    end_to_end_id: str | None = None
    variable_symbol: str | None = None
    rf: str | None = None
    payer_name: str | None = None
    payer_account: str | None = None
    remittance: str | None = None
    order_reference: str | None = None
    tracking_number: str | None = None
    returned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The entries of one account over one period; opening and closing are absent where the format has none.

    opened_on and closed_on are the days that these balances are of, as the bank dates them. whole is False for a page
    of a statement that has more, since its balances are often those of the whole statement.
    """

    account: str
    currency: str
    entries: tuple[StatementEntry, ...]
    opening: Money | None = None
    closing: Money | None = None
    opened_on: date | None = None
    closed_on: date | None = None
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """A part of a file that can't be taken: where it stands, and why, in a sentence."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementFile:
    """What one statement file says; what is bad in it is listed beside what is good."""

    format: str
    method: Method
    statements: tuple[Statement, ...] = ()
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingPayment:
    """A payment as its source tells it, before it is stored.

    (source, external_id) is unique. What gives money back, or back again, names by provider_reference the payment of
    the same source that it belongs to.
    """

    source: str
    external_id: str
    method: Method
    amount: Money
    booked_on: date
    value_date: date | None = None
    account: str | None = None
    provider_reference: str | None = None
    end_to_end_id: str | None = None
    variable_symbol: str | None = None
    rf: str | None = None
    order_reference: str | None = None
    tracking_number: str | None = None
    payer_name: str | None = None
    payer_account: str | None = None
    text: str | None = None
    kind: Kind = Kind.PAYMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment(IncomingPayment):
    """A stored payment; round counts how often it was set out to be matched anew, from 1."""

    id: int = field(default=0)
    round: int = 1


def _content(account: str, entry: StatementEntry) -> str:
    parts = [account, entry.bank_reference or "", entry.booked_on.isoformat(), str(entry.amount)]
    if not entry.bank_reference:
        parts += [
            entry.value_date.isoformat() if entry.value_date else "",
            entry.end_to_end_id or "",
            entry.variable_symbol or "",
            entry.rf or "",
            entry.payer_account or "",
            entry.payer_name or "",
            entry.remittance or "",
            entry.order_reference or "",
            entry.tracking_number or "",
        ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def incoming_from_statement(
    *, source: str, method: Method, account: str, entries: Iterable[StatementEntry]
) -> list[IncomingPayment]:
    """Give each entry its identity, so that importing it again adds nothing, from this file or an overlapping one.

    entries are all that one file has of one account, in its order: pages and statements of a file belong in one call.
    The bank's reference counts, with day and amount, because banks give one reference to several entries; where there
    is none, all that is told of the entry. Equal entries are numbered, so that two equal real payments are both kept.
    Nothing here looks at other entries beyond that, so a file that covers more or less gives an entry the same id; only
    equal entries of a day can't be told apart by a file that begins within it.
    """
    seen: Counter[str] = Counter()
    found: list[IncomingPayment] = []
    for entry in entries:
        content = _content(account, entry)
        seen[content] += 1
        found.append(
            IncomingPayment(
                source=source,
                external_id=f"{account:.40}/{entry.bank_reference or '':.80}#{content}.{seen[content]}",
                method=method,
                amount=entry.amount,
                booked_on=entry.booked_on,
                value_date=entry.value_date,
                account=account,
                provider_reference=None,
                end_to_end_id=entry.end_to_end_id,
                variable_symbol=entry.variable_symbol,
                rf=entry.rf,
                order_reference=entry.order_reference,
                tracking_number=entry.tracking_number,
                payer_name=entry.payer_name,
                payer_account=entry.payer_account,
                text=entry.remittance,
                kind=Kind.RETURN if entry.returned else Kind.PAYMENT,
            )
        )
    return found
