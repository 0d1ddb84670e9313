"""Allocation: how a payment's money is split over the item it was found to settle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from domain.money import Money
from domain.orders import Status, still_on_delivery
from domain.payments import Method
from domain.rules import EvidenceKind


class Share(StrEnum):
    """What of an order a payment can settle, where the goods are paid before and the delivery when it comes."""

    ALL = "all"
    GOODS = "goods"
    DELIVERY = "delivery"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenItem:
    """Something that can be settled: what it asks for in all, and what is still open of that.

    customer is who owes it, by an id of the store's or the file's; customer_number and group are what the rules of its
    channel know the customer by.
    on_delivery is what of amount is paid when the parcel comes, and collected what carriers brought of the item so far.

    share says which part of it this is, as asked_of gives it; it comes first where it waits for the goods to be paid.
    crowded says that its customer may have more open than was looked at: what fits need not be the only one that does.
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
    customer_number: str | None = None
    on_delivery: Money | None = None
    collected: Money | None = None
    share: Share = Share.ALL
    waits: bool = False
    crowded: bool = False

    def asked_of(self, method: Method, amount: Money) -> OpenItem:
        """Return what of it a payment can settle: all that is open if it brings just that, else its part by the method.

        What carriers collect is for the delivery, and all other money for the goods.
        """
        if self.on_delivery is None:
            return self
        plain = replace(self, on_delivery=None, collected=None)
        if amount == (self.open if self.open.minor > 0 else self.amount):
            return plain
        later = still_on_delivery(self.open, self.on_delivery, self.collected)
        first = self.open - later
        open_ = self.open.minor > 0
        if method is Method.CASH_ON_DELIVERY:
            share = Share.DELIVERY if open_ else Share.ALL
            return replace(plain, amount=self.on_delivery, open=later, share=share, waits=first.minor > 0)
        share = Share.GOODS if open_ else Share.ALL
        return replace(plain, amount=self.amount - self.on_delivery, open=first, share=share)

    def relieved(self, minor: int, method: Method) -> OpenItem:
        """Return it as it is when a payment has relieved it of so many minor units."""
        taken = Money(minor, self.open.currency)
        if self.on_delivery is None or method is not Method.CASH_ON_DELIVERY:
            return replace(self, open=self.open - taken)
        return replace(self, open=self.open - taken, collected=self.collected + taken if self.collected else taken)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a payment for one item. The item is relieved of amount + write_off.

    It completes the item when nothing is missing any more of what is asked for now.
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
        return Part(item, amount, -difference, completes=not item.waits), Money.zero(amount.currency)
    if difference.minor < 0:
        return Part(item, amount, Money.zero(amount.currency), completes=False), Money.zero(amount.currency)
    return Part(item, item.open, Money.zero(amount.currency), completes=not item.waits), difference


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
