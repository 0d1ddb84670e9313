"""Waiting for money: until when an order's goods are kept for it, and on which days something is done about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from domain.rules import PlacedRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Until when an order may be paid, and when its scenarios fall due, by name.

    reserved_until is the end of the last day of an order that waits for its money, due_on the day by which one on
    credit is to be paid; one of the two is there.
    """

    reserved_until: datetime | None
    due_on: date | None
    due: dict[str, datetime]


def end_of(day: date) -> datetime:
    """Return the end of a day, in UTC."""
    return datetime.combine(day + timedelta(days=1), time(), UTC)


def last_day(until: datetime) -> date:
    """Return the last day of what is kept until then: of the end of a day, that day."""
    return (until - timedelta(microseconds=1)).date()


def reserved(now: datetime, rules: PlacedRules, *, days: int, grace_days: int) -> Term:
    """Return the term of an order whose goods are kept for some days, counted from now.

    The customer is reminded before the last day, a person told to call him on it; when that day and the bank's lag are
    over, the rules decide.
    """
    last = (now + timedelta(days=days)).date()
    return _kept(last, rules, grace_days=grace_days)


def _kept(last: date, rules: PlacedRules, *, grace_days: int) -> Term:
    until = end_of(last)
    day = until - timedelta(days=1)
    return Term(
        reserved_until=until,
        due_on=None,
        due={
            "remind": day - timedelta(days=rules.remind_days),
            "last_day": day,
            "expire": until + timedelta(days=grace_days),
        },
    )


def reserved_for(now: datetime, *, hours: int) -> Term:
    """Return the term of an order that waits for a card for some hours; then the rules decide, and nobody calls."""
    until = now + timedelta(hours=hours)
    return Term(reserved_until=until, due_on=None, due={"expire": until})


def on_credit(due_on: date, rules: PlacedRules, *, grace_days: int) -> Term:
    """Return the term of an order on credit: a reminder before the due date, another one and a person after it."""
    return Term(
        reserved_until=None,
        due_on=due_on,
        due={
            "remind": end_of(due_on) - timedelta(days=rules.remind_days + 1),
            "overdue": end_of(due_on) + timedelta(days=rules.overdue_days),
            "last_day": end_of(due_on) + timedelta(days=max(grace_days, rules.overdue_days)),
        },
    )


def extended(term_end: datetime | None, due_on: date | None, rules: PlacedRules, *, days: int, grace_days: int) -> Term:
    """Return the term that a person has put off by some days. Raises ValueError for an order that has none."""
    if term_end is not None and rules.reserve_hours is not None:
        return reserved_for(term_end, hours=24 * days)
    if due_on is not None:
        return on_credit(due_on + timedelta(days=days), rules, grace_days=grace_days)
    if term_end is None:
        raise ValueError("the order has no last day that could be put off")
    return _kept((term_end + timedelta(days=days - 1)).date(), rules, grace_days=grace_days)
