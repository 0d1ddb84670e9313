"""Weeks: payments counted and summed by what they turned out to be, week by week."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum

from domain.money import Money
from domain.payments import Outcome

WEEKS = 12


class Group(StrEnum):
    """What outcomes are shown as: as many as can be told apart in a picture."""

    EXACT = "exact"
    TOLERANCE = "within tolerance"
    OVER = "too much"
    SHORT = "too little"
    NOTHING = "settled nothing"
    BACK = "went back"
    NOT_OURS = "outgoing, payout"
    NEW = "not matched yet"


GROUPS: dict[Outcome | None, Group] = {
    Outcome.EXACT: Group.EXACT,
    Outcome.WITHIN_TOLERANCE: Group.TOLERANCE,
    Outcome.OVER: Group.OVER,
    Outcome.SHORT: Group.SHORT,
    Outcome.DUPLICATE: Group.NOTHING,
    Outcome.LATE: Group.NOTHING,
    Outcome.WRONG_CURRENCY: Group.NOTHING,
    Outcome.AMBIGUOUS: Group.NOTHING,
    Outcome.UNKNOWN: Group.NOTHING,
    Outcome.TAKEN_BACK: Group.NOTHING,
    Outcome.REFUND: Group.BACK,
    Outcome.CHARGEBACK: Group.BACK,
    Outcome.REINSTATED: Group.BACK,
    Outcome.RETURNED: Group.BACK,
    Outcome.PAYOUT: Group.NOT_OURS,
    Outcome.OUTGOING: Group.NOT_OURS,
    None: Group.NEW,
}
"""The group of each outcome, and of what has none yet."""


@dataclass(frozen=True, slots=True)
class Week:
    """One week from Monday to Sunday: how many payments, and their sums in minor units by currency, by group."""

    start: date
    counts: dict[Group, int] = field(default_factory=lambda: defaultdict[Group, int](int))
    sums: dict[str, dict[Group, int]] = field(
        default_factory=lambda: defaultdict[str, dict[Group, int]](lambda: defaultdict[Group, int](int))
    )


def first_day(today: date, weeks: int = WEEKS) -> date:
    """Return the Monday with which the last weeks begin, the one of today included."""
    return today - timedelta(days=today.weekday(), weeks=weeks - 1)


def by_week(rows: Iterable[tuple[date, Outcome | None, str, int, int]], today: date, weeks: int = WEEKS) -> list[Week]:
    """Fold (day, outcome, currency, how many, sum in minor units) into the last weeks, a week without any as well."""
    first = first_day(today, weeks)
    found = [Week(first + timedelta(weeks=n)) for n in range(weeks)]
    for day, outcome, currency, count, minor in rows:
        place = (day - first).days // 7
        if 0 <= place < weeks:
            group = GROUPS[outcome]
            found[place].counts[group] += count
            found[place].sums[currency][group] += minor
    return found


def currencies(weeks: Sequence[Week]) -> list[str]:
    """Return the currencies of which there is anything, that of the most weeks first."""
    times: dict[str, int] = defaultdict(int)
    for week in weeks:
        for currency in week.sums:
            times[currency] += 1
    return sorted(times, key=lambda currency: (-times[currency], currency))


def groups(weeks: Sequence[Week]) -> list[Group]:
    """Return the groups of which there is anything, in the order in which they are shown."""
    return [group for group in Group if any(week.counts.get(group) for week in weeks)]


def week_tables(weeks: Sequence[Week]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the figures as tables of (title, headers, rows): first the counts, then the sums of each currency."""
    shown = groups(weeks)
    headers = ["Week of", *shown]
    tables = [
        (
            "Payments",
            [*headers, "together"],
            [
                [week.start.isoformat(), *(str(week.counts.get(g, 0)) for g in shown), str(sum(week.counts.values()))]
                for week in weeks
            ],
        )
    ]
    for currency in currencies(weeks):
        rows = [
            [week.start.isoformat(), *(_sum(week.sums.get(currency, {}).get(group, 0), currency) for group in shown)]
            for week in weeks
        ]
        tables.append((f"Sums in {currency}", headers, rows))
    return tables


def _sum(minor: int, currency: str) -> str:
    try:
        return Money(minor, currency).amount
    except ValueError:
        return "beyond what can be shown"
