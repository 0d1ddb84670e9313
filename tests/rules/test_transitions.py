"""Transition times: how long orders stay in a status, by scenario, by week, and before and after a change."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, timedelta
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.payments import Method
from domain.transitions import (
    DAYS_MAX,
    Period,
    ReportError,
    Row,
    Times,
    Transition,
    changed_said,
    csv_of,
    lasted,
    period_of,
    worst_said,
)

TODAY = date(2026, 11, 25)  # a Wednesday
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
HOUR = 3600


def way(
    seconds: float,
    ended: datetime = NOON,
    *,
    number: str = "CZ1",
    between: str = "new paid",
    channel: str = "cz",
    method: Method = Method.CARD,
) -> Transition:
    before, after = between.split()
    began = ended - timedelta(seconds=seconds)
    return Transition(
        channel=channel, method=method, number=number, before=before, after=after, began=began, ended=ended
    )


def rows(*transitions: Transition, period: Period | None = None) -> list[Row]:
    times = Times(period or period_of(TODAY))
    times.add(transitions)
    return times.rows()


def one(*transitions: Transition, period: Period | None = None) -> Row:
    (row,) = rows(*transitions, period=period)
    return row


# The figures


def test_a_transition_has_its_count_median_nine_of_ten_and_its_longest_orders_by_number() -> None:
    row = one(*(way(seconds, number=f"CZ{seconds}") for seconds in range(100, 0, -10)))
    whole = row.whole
    assert (whole.count, whole.median_s, whole.p90_s, whole.worst_s, whole.total_s) == (10, 55, 90, 100, 550)
    assert whole.worst == ((100, "CZ100"), (90, "CZ90"), (80, "CZ80"))
    assert worst_said(whole) == "CZ100 (1 min 40 s), CZ90 (1 min 30 s), CZ80 (1 min 20 s)"
    assert row.name == "new → paid"


def test_a_single_transition_is_its_own_median_and_longest() -> None:
    whole = one(way(7)).whole
    assert (whole.count, whole.median_s, whole.p90_s, whole.worst) == (1, 7, 7, ((7, "CZ1"),))


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=60))
def test_the_figures_are_those_of_the_sorted_times(seconds: list[int]) -> None:
    whole = one(*(way(n) for n in seconds)).whole
    assert whole.median_s == int(median(seconds))
    assert sum(n <= whole.p90_s for n in seconds) * 10 >= 9 * len(seconds)
    assert sum(n < whole.p90_s for n in seconds) * 10 < 9 * len(seconds)
    assert whole.worst_s == max(seconds)
    assert whole.worst_s >= whole.p90_s >= min(seconds)


def test_channels_and_payment_methods_are_kept_apart() -> None:
    found = rows(way(1), way(2, channel="ro"), way(3, method=Method.BANK_TRANSFER), way(4, between="paid ready"))
    assert [(row.channel, row.method, row.before, row.whole.worst_s) for row in found] == [
        ("cz", Method.CARD, "paid", 4),
        ("cz", Method.CARD, "new", 1),
        ("cz", Method.BANK_TRANSFER, "new", 3),
        ("ro", Method.CARD, "new", 2),
    ]


def test_where_most_time_is_spent_in_all_comes_first() -> None:
    often = [way(60, between="paid ready") for _ in range(100)]
    assert [row.before for row in rows(way(1000), *often)] == ["paid", "new"]


def test_a_clock_that_was_set_back_makes_no_time_negative() -> None:
    assert one(way(-5)).whole.worst_s == 0


# Weeks


def test_a_time_belongs_to_the_week_in_which_it_ended() -> None:
    period = period_of(TODAY, since=date(2026, 11, 9))
    monday = datetime(2026, 11, 16, 0, 0, tzinfo=UTC)
    row = one(way(9, monday - timedelta(microseconds=1)), way(5, monday), way(7, monday), period=period)
    assert period.mondays == [date(2026, 11, 9), date(2026, 11, 16), date(2026, 11, 23)]
    assert [week and (week.count, week.median_s) for week in row.weeks] == [(1, 9), (2, 6), None]


def test_a_time_told_in_another_zone_belongs_to_the_week_of_utc() -> None:
    period = period_of(TODAY, since=date(2026, 11, 9))
    ended = datetime.fromisoformat("2026-11-16T01:30:00+02:00")
    assert [week is not None for week in one(way(5, ended), period=period).weeks] == [True, False, False]


def test_what_ended_outside_of_the_days_is_left_out() -> None:
    period = period_of(TODAY, since=date(2026, 11, 24), until=date(2026, 11, 24))
    inside = datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC)
    before, after = datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 25, tzinfo=UTC)
    assert one(way(1, inside), way(2, before), way(3, after), period=period).whole.worst_s == 1


# Before and after


def test_times_before_a_day_are_compared_with_those_from_it_on() -> None:
    change = date(2026, 11, 20)
    midnight = datetime(2026, 11, 20, tzinfo=UTC)
    period = period_of(TODAY, change=change)
    row = one(way(6 * HOUR, midnight - timedelta(seconds=1)), way(1, midnight), period=period)
    assert row.earlier is not None
    assert row.later is not None
    assert (row.earlier.median_s, row.later.median_s) == (6 * HOUR, 1)
    assert changed_said(row) == "100 % faster"


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (100, 25, "75 % faster"),
        (100, 150, "50 % slower"),
        (100, 100, "the same"),
        (0, 0, "the same"),
        (0, 5, "slower"),
        (1000, 999, "faster"),
        (None, 5, "only after"),
        (5, None, "only before"),
    ],
)
def test_a_change_is_told_by_the_medians(was: int | None, now: int | None, said: str) -> None:
    change = date(2026, 11, 20)
    midnight = datetime(2026, 11, 20, tzinfo=UTC)
    told = [way(was, midnight - timedelta(hours=1))] if was is not None else []
    told += [way(now, midnight)] if now is not None else []
    assert changed_said(one(*told, period=period_of(TODAY, change=change))) == said


def test_as_many_days_are_looked_at_before_a_change_as_after_it() -> None:
    period = period_of(TODAY, change=date(2026, 11, 16))
    assert (period.since, period.until) == (date(2026, 11, 6), TODAY)
    assert (period.change or TODAY) - period.since == timedelta(days=10)
    assert period.ends.date() - (period.change or TODAY) == timedelta(days=10)
    assert str(period) == "2026-11-06 to 2026-11-25, before and after 2026-11-16"


# Days


def test_by_default_the_last_twelve_weeks_are_looked_at() -> None:
    period = period_of(TODAY)
    assert period.ends - period.begins == timedelta(weeks=12)
    assert period.until == TODAY
    assert period_of(TODAY, until=date(2027, 1, 1)).until == TODAY


@pytest.mark.parametrize(
    ("since", "until", "change", "said"),
    [
        (date(2026, 11, 26), None, None, "comes after 2026-11-25"),
        (date(2026, 11, 2), date(2026, 11, 1), None, "the first day must come before the last"),
        (TODAY - timedelta(days=DAYS_MAX), None, None, f"more than {DAYS_MAX} days"),
        (date(2026, 11, 1), None, date(2026, 11, 1), "so that there is a before and an after"),
        (date(2026, 11, 1), None, date(2026, 11, 26), "so that there is a before and an after"),
        (None, None, date(2026, 11, 26), "so that there is a before and an after"),
        (None, None, date(2026, 1, 1), f"more than {DAYS_MAX} days"),
    ],
)
def test_days_that_can_not_be_reported_on_are_refused(
    since: date | None, until: date | None, change: date | None, said: str
) -> None:
    with pytest.raises(ReportError, match=said):
        period_of(TODAY, since=since, until=until, change=change)


def test_a_whole_year_can_be_reported_on() -> None:
    assert len(period_of(TODAY, since=TODAY - timedelta(days=DAYS_MAX - 1)).mondays) == 53


# How it is written


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (3660, "1 h 1 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (187_200, "2 d 4 h"),
        (86_400 * 400 + 59, "400 d"),
    ],
)
def test_a_length_of_time_is_said_in_its_two_largest_units(seconds: int, said: str) -> None:
    assert lasted(seconds) == said


def test_the_csv_has_the_whole_period_each_week_and_both_sides_of_a_change() -> None:
    period = period_of(TODAY, since=date(2026, 11, 9), change=date(2026, 11, 16))
    told = [way(9, NOON - timedelta(days=12), number="CZ1"), way(5, number="CZ2"), way(7, number="CZ3")]
    found = list(csv.reader(io.StringIO(csv_of(rows(*told, period=period), period), newline="")))
    assert found[0] == "channel scenario from to period count median_s p90_s worst_s worst_orders".split()
    key = ["cz", "card", "new", "paid"]
    assert found[1:] == [
        [*key, "all", "3", "7", "9", "9", "CZ1 CZ3 CZ2"],
        [*key, "week of 2026-11-09", "1", "9", "9", "9", "CZ1"],
        [*key, "week of 2026-11-23", "2", "6", "7", "7", "CZ3 CZ2"],
        [*key, "before", "1", "9", "9", "9", "CZ1"],
        [*key, "after", "2", "6", "7", "7", "CZ3 CZ2"],
    ]


@given(st.text(min_size=1, max_size=20).filter(lambda text: not text.isspace()))
def test_no_order_number_becomes_another_cell_or_a_formula(number: str) -> None:
    period = period_of(TODAY)
    row = Times(period)
    row.add([way(1, number=number)])
    _, whole, _week = csv.reader(io.StringIO(csv_of(row.rows(), period), newline=""))
    assert whole[-1].removeprefix("'") == number.removeprefix("'")
    assert whole[-1][0] not in "=+-@\t\r"
