"""By hand: how a person's word splits a payment over orders, and what is refused because it can't be meant so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domain.allocation import OpenItem, Part, split
from domain.money import Money, MoneyError
from domain.orders import CLOSED
from domain.payments import Outcome


class ByHandError(ValueError):
    """What a person asks for can't be done; its text says why, and what to do."""


def named_amount(text: str, currency: str) -> tuple[str, Money | None]:
    """Read what a person writes of one order, such as CZ1042 or CZ1042=450.00, into its number and amount.

    currency is the payment's. Raises ByHandError for a text without a number, and for an amount that is none.
    """
    number, equals, amount = text.strip().rpartition("=")
    number = number.strip() if equals else amount
    if not number:
        raise ByHandError(f"“{text:.80}” names no order; write its number, such as CZ1042 or CZ1042=450.00")
    if not equals:
        return number, None
    try:
        money = Money.parse(amount, currency)
    except MoneyError as error:
        raise ByHandError(f"order {number}: {error}") from None
    if money.minor <= 0:
        raise ByHandError(f"order {number}: {money} is nothing to allocate; write an amount above zero")
    return number, money


@dataclass(frozen=True, slots=True)
class Wish:
    """An order that a person gives money to; without an amount it gets what is open of it."""

    item: OpenItem
    amount: Money | None = None


@dataclass(frozen=True, slots=True)
class Shared:
    """A payment split over orders by hand; the parts and the surplus come to its amount."""

    outcome: Outcome
    parts: tuple[Part, ...]
    surplus: Money


def share(amount: Money, wishes: Sequence[Wish], tolerances: Mapping[int, Money]) -> Shared:
    """Split a payment over the orders that a person names.

    amount is positive; tolerances are how far each item's amount may be off, by the item's id. An order with an amount
    gets it; of those without, each gets what is open of it, in the order given, and the last of them the rest. Raises
    ByHandError for what an order can't take, and for more than the payment has.
    """
    if not wishes:
        raise ByHandError("name at least one order")
    for place, wish in enumerate(wishes):
        if any(wish.item.id == other.item.id for other in wishes[:place]):
            raise ByHandError(f"order {wish.item.number} is named twice; name it once, with all that it gets")
        _check(amount, wish)
    left = amount
    for wish in wishes:
        left = left - (wish.amount or Money.zero(amount.currency))
    if left.minor < 0:
        raise ByHandError(f"{amount - left} in all is more than the {amount} that there are to give")
    last = next((wish for wish in reversed(wishes) if wish.amount is None), None)
    parts: list[Part] = []
    for wish in wishes:
        item = wish.item
        given = wish.amount
        if given is None:
            if left.minor <= 0:
                raise ByHandError(
                    f"nothing is left for order {item.number}; say how much each order gets, "
                    f"such as {item.number}=10.00"
                )
            given = left if wish is last else min(left, item.open)
            left = left - given
        part, over = split(given, item, tolerances[item.id])
        parts.append(part)
        left = left + over
    return Shared(_outcome(parts, left), tuple(parts), left)


def _check(amount: Money, wish: Wish) -> None:
    """Raise ByHandError when an order can't take money of this payment."""
    item = wish.item
    instead = "send it back with --refund, or keep it for the customer with --balance"
    if item.open.currency != amount.currency:
        raise ByHandError(
            f"order {item.number} is to be paid in {item.open.currency}, not in {amount.currency}; {instead}"
        )
    if item.status in CLOSED:
        raise ByHandError(f"order {item.number} is {item.status}, so it takes no money any more; {instead}")
    if item.open.minor <= 0:
        raise ByHandError(f"nothing is open of order {item.number}, it is paid already; {instead}")
    if wish.amount and item.open < wish.amount:
        raise ByHandError(f"{wish.amount} is more than the {item.open} that is open of order {item.number}")


def _outcome(parts: Sequence[Part], surplus: Money) -> Outcome:
    if surplus:
        return Outcome.OVER
    if not all(part.completes for part in parts):
        return Outcome.SHORT
    return Outcome.WITHIN_TOLERANCE if any(part.write_off for part in parts) else Outcome.EXACT
