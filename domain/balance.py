"""Balance: which orders a customer's money pays that settles no order yet, and which a top-up lets go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.money import Money
from domain.payments import Method
from domain.rules import BalanceRules

SOURCE = "balance"
"""The source of the payments that are made of customers' balances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An order that waits for its customer's balance, and what is still to be paid of it."""

    order_id: int
    open: Money
    placed_at: datetime


def available(balance: Money, rules: BalanceRules) -> Money:
    """Return what a customer can pay orders with: his balance, and how far that may go below zero."""
    return balance + Money.from_decimal(rules.credit_limit, balance.currency)


def covers(balance: Money, rules: BalanceRules, amount: Money) -> bool:
    """Say whether a balance, with its credit limit, pays an amount."""
    return amount <= available(balance, rules)


def sets_free(rules: BalanceRules, method: Method | None) -> bool:
    """Say whether a top-up pays orders that wait; method is how it was paid, None by hand."""
    if not rules.use or rules.release == "never":
        return False
    return rules.release == "all" or method is Method.CARD


def released(balance: Money, waiting: Sequence[Waiting], rules: BalanceRules, *, most: int | None = None) -> list[int]:
    """Return the orders that a balance after a top-up pays, in the order in which they are paid.

    Only the latest of those that wait, as many as the rules say, are looked at (or the earliest), and only when the
    balance is not below zero. Whatever the rules, no order is paid that would take the balance below its credit limit.
    most is given where a person says how many.
    """
    if balance.minor < 0:
        return []
    newest = rules.release_first == "newest"
    ranked = sorted(waiting, key=lambda one: (one.placed_at, one.order_id), reverse=newest)
    chosen = [one for one in ranked if one.open.minor > 0][: rules.release_most if most is None else most]
    left = available(balance, rules)
    if rules.release_only == "together":
        asked = sum((one.open for one in chosen), Money.zero(balance.currency))
        return [one.order_id for one in chosen] if asked <= left else []
    paid: list[int] = []
    for one in chosen:
        if one.open <= left:
            left -= one.open
            paid.append(one.order_id)
    return paid
