"""Unmatched: in which order a person looks at the payments that wait for one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from domain.money import Money


@dataclass(frozen=True, slots=True)
class Waiting:
    """A payment that waits for a person; open_orders is how many orders it names that still wait for money."""

    id: int
    amount: Money
    booked_on: date
    open_orders: int


def ranked(waiting: Iterable[Waiting]) -> list[Waiting]:
    """Return what waits for a person, what is to be looked at first in front.

    First what names one open order: it is decided at a glance, and goods wait for it. Then what names several of them,
    where a look tells which one is meant. Then all the rest. Within each of these the larger amount comes first, in or
    out; amounts of different currencies can't be compared, so the largest of each currency stand side by side, then the
    next ones. Of what is equal in all that the older comes first.
    """
    groups: dict[int, list[Waiting]] = defaultdict(list)
    for one in waiting:
        groups[one.open_orders if one.open_orders == 1 else 2 if one.open_orders else 3].append(one)
    return [one for group in sorted(groups) for one in _by_size(groups[group])]


def _by_size(group: list[Waiting]) -> list[Waiting]:
    sizes: dict[str, set[int]] = defaultdict(set)
    for one in group:
        sizes[one.amount.currency].add(abs(one.amount.minor))
    place = {
        (currency, size): place
        for currency, found in sizes.items()
        for place, size in enumerate(sorted(found, reverse=True))
    }
    return sorted(group, key=lambda one: (place[one.amount.currency, abs(one.amount.minor)], one.booked_on, one.id))
