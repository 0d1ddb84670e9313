"""Holds and terms: what is warned of, what is decided by the rules, and on which days; pure rules of time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.holds import Decision, HoldState, Verdict, look_after, moves_on
from domain.rules import PlacedRules
from domain.waiting import end_of, extended, on_credit, reserved

NOW = datetime(2026, 3, 10, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "at_expiry", "verdict"),
    [
        (48, "ask", Verdict()),
        (24, "ask", Verdict(warn=True)),
        (2, "ask", Verdict(warn=True)),
        (-5, "ask", Verdict(warn=True)),
        (24, "capture", Verdict(warn=True)),
        (3, "capture", Verdict(decision=Decision.CAPTURE)),
        (-1, "release", Verdict(decision=Decision.RELEASE)),
    ],
)
def test_a_hold_is_warned_of_and_then_decided_about(hours: float, at_expiry: str, verdict: Verdict) -> None:
    at = NOW + timedelta(hours=hours)
    assert look_after(at, now=NOW, warn_hours=24, act_hours=3, at_expiry=at_expiry) == verdict


def test_of_money_whose_expiry_is_not_told_nobody_is_warned() -> None:
    assert look_after(None, now=NOW, warn_hours=24, act_hours=3, at_expiry="capture") == Verdict()


@given(now=st.sampled_from(HoldState), told=st.sampled_from(HoldState))
def test_only_held_money_becomes_something_else(now: HoldState, told: HoldState) -> None:
    assert moves_on(now, told) == (now is HoldState.HELD and told is not HoldState.HELD)


def test_the_days_of_an_order_that_waits_for_its_money() -> None:
    term = reserved(NOW, PlacedRules(remind_days=1), days=3, grace_days=2)
    assert term.due_on is None
    assert term.reserved_until == datetime(2026, 3, 14, tzinfo=UTC)  # the end of the 13th
    assert term.due == {
        "remind": datetime(2026, 3, 12, tzinfo=UTC),
        "last_day": datetime(2026, 3, 13, tzinfo=UTC),
        "expire": datetime(2026, 3, 16, tzinfo=UTC),
    }


def test_the_days_of_an_order_on_credit() -> None:
    term = on_credit(date(2026, 3, 24), PlacedRules(remind_days=2, overdue_days=3), grace_days=5)
    assert (term.reserved_until, term.due_on) == (None, date(2026, 3, 24))
    assert term.due == {
        "remind": datetime(2026, 3, 22, tzinfo=UTC),
        "overdue": datetime(2026, 3, 28, tzinfo=UTC),
        "last_day": datetime(2026, 3, 30, tzinfo=UTC),
    }


@given(days=st.integers(0, 90), more=st.integers(1, 366), grace=st.integers(0, 30), remind=st.integers(0, 30))
def test_what_is_put_off_is_put_off_by_just_as_many_days(days: int, more: int, grace: int, remind: int) -> None:
    rules = PlacedRules(remind_days=remind)
    term = reserved(NOW, rules, days=days, grace_days=grace)
    later = extended(term.reserved_until, None, rules, days=more, grace_days=grace)
    assert term.reserved_until is not None
    assert later.reserved_until == term.reserved_until + timedelta(days=more)
    assert {name: at - term.due[name] for name, at in later.due.items()} == dict.fromkeys(
        term.due, timedelta(days=more)
    )


@given(days=st.integers(0, 90), grace=st.integers(0, 30), remind=st.integers(0, 30))
def test_nobody_is_called_after_the_end_or_reminded_after_the_last_day(days: int, grace: int, remind: int) -> None:
    term = reserved(NOW, PlacedRules(remind_days=remind), days=days, grace_days=grace)
    assert term.due["remind"] <= term.due["last_day"] < term.due["expire"]


def test_an_order_without_a_last_day_has_none_to_put_off() -> None:
    with pytest.raises(ValueError, match="no last day"):
        extended(None, None, PlacedRules(), days=1, grace_days=0)


def test_a_day_ends_at_midnight_in_utc() -> None:
    assert end_of(date(2026, 12, 31)) == datetime(2027, 1, 1, tzinfo=UTC)
