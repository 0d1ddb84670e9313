"""Allocation: how a payment's money is split over the item it was found to settle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domain.money import Money
from domain.orders import Status
from domain.rules import EvidenceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenItem:
    """Something that can be settled: what it asks for in all, and what is still open of that.

    customer is who owes it, by an id of the store's or the file's; group is the customer's, within its channel.
    """

    id: int
    order_id: int | None
    channel: str
    number: str
    status: Status
    amount: Money
    open: Money
    references: frozenset[tuple[EvidenceKind, str]]
    customer: int | str | None = None
    customer_name: str = ""
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a payment for one item. The item is relieved of amount + write_off.

    write_off is what tolerance lets pass: positive when too little came, negative when too much. taken is what it takes
    of the payment, where that is of another currency than the item; amount is then what that is worth.
    """

    item: OpenItem
    amount: Money
    write_off: Money
    completes: bool
    taken: Money | None = None


def split(amount: Money, item: OpenItem, tolerance: Money) -> tuple[Part, Money]:
    """Split a payment between one open item and the surplus that nobody asked for.

    amount and item.open are positive and of one currency. A difference within the tolerance, either way, is written
    off: the whole payment goes to the item and nothing is left over.
    """
    difference = amount - item.open
    if abs(difference) <= tolerance:
        return Part(item, amount, -difference, completes=True), Money.zero(amount.currency)
    if difference.minor < 0:
        return Part(item, amount, Money.zero(amount.currency), completes=False), Money.zero(amount.currency)
    return Part(item, item.open, Money.zero(amount.currency), completes=True), difference


@dataclass(frozen=True, slots=True)
class Kept:
    """What an open item still has of the money that a payment brought it."""

    item_id: int
    order_id: int | None
    number: str
    channel: str
    amount: Money


def give_back(amount: Money, unapplied: Money, kept: Sequence[Kept]) -> list[tuple[Kept, Money]] | None:
    """Say from which items money went back, and how much from each; None when more went back than had come.

    amount is positive. What settled nothing goes back first, then what was allocated, the last item first.
    """
    left = amount.minor - min(amount.minor, max(unapplied.minor, 0))
    shares: list[tuple[Kept, Money]] = []
    for item in reversed(kept):
        share = min(left, max(item.amount.minor, 0))
        if share:
            shares.append((item, Money(share, amount.currency)))
            left -= share
    return None if left else shares
