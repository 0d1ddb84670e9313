"""Holds and terms: what is warned of, what is decided by the rules, and on which days; pure rules of time."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_builders import rules

from domain.holds import Decision, HoldState, Verdict, look_after, moves_on
from domain.orders import CLOSED, Status
from domain.reverting import Way, way_back
from domain.rules import Placed, PlacedRules, RulesError
from domain.waiting import end_of, extended, on_credit, reserved, reserved_for

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


# The second fiscal receipt


def test_a_second_receipt_is_off_unless_the_rules_say_when_goods_are_handed_over() -> None:
    assert [status for status in Status if rules().holds.handed_over(status)] == []


@pytest.mark.parametrize(
    ("moment", "before", "after"),
    [("dispatched", Status.READY, Status.DISPATCHED), ("delivered", Status.DISPATCHED, Status.DELIVERED)],
)
def test_goods_are_handed_over_from_that_status_on_and_never_in_a_closed_one(
    moment: str, before: Status, after: Status
) -> None:
    holds = rules(holds={"receipt": True, "second_receipt": moment}).holds
    assert [holds.handed_over(status) for status in (before, after, Status.COMPLETED)] == [False, True, True]
    assert not any(holds.handed_over(status) for status in CLOSED)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"holds": {"second_receipt": "delivered"}},
            (
                "a second receipt, when the goods are delivered, follows a first one, and there is none; set receipt "
                "to true, or second_receipt to never"
            ),
        ),
        (
            {
                "holds": {"receipt": True, "second_receipt": "dispatched"},
                "scenarios": {"card": {"status": "completed"}},
            },
            (
                "by scenarios.card.status an order is “completed” as soon as it is paid, so its goods are not handed "
                "over later"
            ),
        ),
        ({"holds": {"receipt": True, "second_receipt": "paid"}}, "holds.second_receipt"),
    ],
)
def test_a_second_receipt_that_contradicts_the_rest_of_the_document_is_refused(
    changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(RulesError, match=re.escape(said)):
        rules(**changed)


def test_a_registered_receipt_is_no_more_taken_back_by_a_revert_than_a_letter() -> None:
    way, said = way_back("second receipt", "done", "rt-1", undone=False, live=False, status=Status.COMPLETED)
    assert (way, said) == (Way.IRREVERSIBLE, "receipt rt-1 is registered; a refund's own receipt takes it back")


def test_an_order_that_waits_for_a_card_waits_some_hours_and_is_put_off_by_days() -> None:
    term = reserved_for(NOW, hours=36)
    assert (term.reserved_until, term.due) == (NOW + timedelta(hours=36), {"expire": NOW + timedelta(hours=36)})
    later = extended(term.reserved_until, None, PlacedRules(reserve_hours=36), days=2, grace_days=5)
    assert later == reserved_for(NOW, hours=36 + 48)


@pytest.mark.parametrize(
    ("method", "at_expiry", "said"),
    [
        (
            "bank_transfer",
            "cancel",
            "bank_transfer.reserve_hours: hours are for cards alone and reservation_days",
        ),
        ("cash_on_delivery", "cancel", "cash_on_delivery.reserve_hours: hours are for cards alone; take it out"),
        ("card", "ask", "set card.at_expiry to release or cancel"),
    ],
)
def test_hours_of_waiting_that_can_not_be_meant_are_refused(method: str, at_expiry: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Placed.model_validate({method: {"reserve_hours": 24, "at_expiry": at_expiry}})
