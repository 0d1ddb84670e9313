"""Transition times: how long orders stay in a status before they come to the next, which shows where the delay is.

A time belongs to the week and to the side of a change in which it ended. What still waits has no time yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

from domain.payments import Method
from domain.spreadsheet import csv_line

DAYS = 84
"""What is looked at by default: twelve weeks."""
DAYS_MAX = 366
_WORST = 3


class ReportError(ValueError):
    """What can't be reported on; its text says why, in a sentence."""


@dataclass(frozen=True, slots=True)
class Period:
    """Days from since to until, both included; change is the day on which something was changed, if one was asked for.

    Days are those of UTC.
    """

    since: date
    until: date
    change: date | None = None

    @property
    def begins(self) -> datetime:
        """The first moment of the period."""
        return datetime.combine(self.since, time.min, UTC)

    @property
    def ends(self) -> datetime:
        """The first moment after it."""
        return datetime.combine(self.until + timedelta(days=1), time.min, UTC)

    @property
    def mondays(self) -> list[date]:
        """The Mondays of the weeks that it touches."""
        first = self.since - timedelta(days=self.since.weekday())
        return [first + timedelta(days=days) for days in range(0, (self.until - first).days + 1, 7)]

    def __str__(self) -> str:
        change = f", before and after {self.change}" if self.change else ""
        return f"{self.since} to {self.until}{change}"


def period_of(
    today: date, *, since: date | None = None, until: date | None = None, change: date | None = None
) -> Period:
    """Return the days to report on: by default the last twelve weeks, and as many before a change as after it.

    Raises ReportError for days in the wrong order, too many of them, or a change outside of them.
    """
    until = min(until, today) if until else today
    if change is not None and change > until:
        raise ReportError(f"{change} comes after {until}; it must not, so that there is a before and an after")
    if since is None and change is not None:
        since = change - (until - change + timedelta(days=1))
    since = since or until - timedelta(days=DAYS - 1)
    if since > until:
        raise ReportError(f"{since} comes after {until}; the first day must come before the last")
    if change is not None and change <= since:
        raise ReportError(f"{change} must come after {since}, so that there is a before and an after")
    if (until - since).days >= DAYS_MAX:
        raise ReportError(f"{since} to {until} is more than {DAYS_MAX} days; ask for fewer")
    return Period(since, until, change)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One order's way from a status, as its channel calls it, to the next."""

    channel: str
    method: Method
    number: str
    before: str
    after: str
    began: datetime
    ended: datetime

    @property
    def seconds(self) -> int:
        """How long it took; a clock that was set back makes no time negative."""
        return max(round((self.ended - self.began).total_seconds()), 0)


@dataclass(frozen=True, slots=True)
class Figures:
    """Times of some transitions in seconds; worst are the longest with the orders' numbers, the longest first.

    Nine of ten were no longer than p90_s.
    """

    count: int
    median_s: int
    p90_s: int
    total_s: int
    worst: tuple[tuple[int, str], ...]

    @property
    def worst_s(self) -> int:
        """The longest time."""
        return self.worst[0][0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A transition of one channel and scenario: over the whole period, by week, and on either side of a change.

    weeks has a place for each week of the period, None where there was none.
    """

    channel: str
    method: Method
    before: str
    after: str
    whole: Figures
    weeks: tuple[Figures | None, ...]
    earlier: Figures | None = None
    later: Figures | None = None

    @property
    def name(self) -> str:
        """What it is called: `awaiting payment → paid`."""
        return f"{_words(self.before)} → {_words(self.after)}"


class Times:
    """Takes transitions in, and works their figures out; what ended outside of the period is left out."""

    def __init__(self, period: Period) -> None:
        self._period = period
        self._groups: dict[tuple[str, Method, str, str], list[tuple[int, str, date]]] = defaultdict(list)

    def add(self, transitions: Iterable[Transition]) -> None:
        """Take some transitions in."""
        for one in transitions:
            if self._period.begins <= one.ended < self._period.ends:
                key = (one.channel, one.method, one.before, one.after)
                self._groups[key].append((one.seconds, one.number, one.ended.astimezone(UTC).date()))

    def rows(self) -> list[Row]:
        """Return the figures; within a channel and scenario, where most time is spent in all comes first."""
        found = [_row(key, sorted(times), self._period) for key, times in self._groups.items()]
        scenarios = list(Method)
        return sorted(
            found,
            key=lambda row: (row.channel, scenarios.index(row.method), -row.whole.total_s, row.before, row.after),
        )


def _row(key: tuple[str, Method, str, str], times: Sequence[tuple[int, str, date]], period: Period) -> Row:
    channel, method, before, after = key
    whole = _figures(times)
    assert whole is not None  # noqa: S101 - a group has at least one
    weeks: dict[date, list[tuple[int, str, date]]] = defaultdict(list)
    for one in times:
        weeks[one[2] - timedelta(days=one[2].weekday())].append(one)
    change = period.change
    return Row(
        channel=channel,
        method=method,
        before=before,
        after=after,
        whole=whole,
        weeks=tuple(_figures(weeks.get(monday, [])) for monday in period.mondays),
        earlier=_figures([one for one in times if one[2] < change]) if change else None,
        later=_figures([one for one in times if one[2] >= change]) if change else None,
    )


def _figures(times: Sequence[tuple[int, str, date]]) -> Figures | None:
    """Return the figures of times that are sorted, the shortest first; None if there are none."""
    if not times:
        return None
    seconds = [one[0] for one in times]
    count = len(seconds)
    return Figures(
        count=count,
        median_s=(seconds[(count - 1) // 2] + seconds[count // 2]) // 2,
        p90_s=seconds[-(-count * 9 // 10) - 1],
        total_s=sum(seconds),
        worst=tuple((one[0], one[1]) for one in reversed(times[-_WORST:])),
    )


class Trend(StrEnum):
    """What became of a transition after a change."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "the same"
    NEW = "only after"
    GONE = "only before"


def trend_of(row: Row) -> tuple[Trend, int | None]:
    """Say by the medians what a change did to a transition, and by how many per cent its time fell (or rose, below 0).

    The per cents are None where there is nothing to compare, or it took no time before.
    """
    if row.earlier is None or row.later is None:
        return (Trend.NEW if row.earlier is None else Trend.GONE), None
    was, now = row.earlier.median_s, row.later.median_s
    trend = Trend.FASTER if now < was else Trend.SLOWER if now > was else Trend.SAME
    return trend, round((was - now) * 100 / was) if was else None


def changed_said(row: Row) -> str:
    """Return in words what a change did to a transition: `87 % faster`."""
    trend, percent = trend_of(row)
    return f"{abs(percent)} % {trend}" if percent else trend.value


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def lasted(seconds: int) -> str:
    """Return a length of time as a person reads it, in its two largest units: `2 d 4 h`, `12 min`, `0 s`."""
    for (size, name), smaller in zip(_UNITS, (*_UNITS[1:], None), strict=True):
        if seconds >= size or smaller is None:
            rest = seconds % size // smaller[0] if smaller else 0
            return f"{seconds // size} {name}" + (f" {rest} {smaller[1]}" if smaller and rest else "")
    raise AssertionError  # the smallest unit holds every time


def worst_said(figures: Figures) -> str:
    """Return the longest times with the orders' numbers: `CZ1042 (3 d 2 h), CZ1050 (2 d)`."""
    return ", ".join(f"{number} ({lasted(seconds)})" for seconds, number in figures.worst)


def _words(status: str) -> str:
    return status.replace("_", " ")


_COLUMNS = ("channel", "scenario", "from", "to", "period", "count", "median_s", "p90_s", "worst_s", "worst_orders")
# A spreadsheet takes what begins so for a formula, also within quotes.


def csv_of(rows: Sequence[Row], period: Period) -> str:
    """Return the figures as CSV (RFC 4180), times in seconds: for each transition the whole period, weeks and sides."""
    lines = [csv_line(_COLUMNS)]
    for row in rows:
        sides = (("before", row.earlier), ("after", row.later)) if period.change else ()
        weeks = ((f"week of {monday}", week) for monday, week in zip(period.mondays, row.weeks, strict=True))
        for name, figures in (("all", row.whole), *weeks, *sides):
            if figures is not None:
                numbers = " ".join(number for _, number in figures.worst)
                times = (figures.count, figures.median_s, figures.p90_s, figures.worst_s)
                cells = (row.channel, row.method.value, row.before, row.after, name, *times, numbers)
                lines.append(csv_line(cells))
    return "".join(lines)
