"""Reconciliation: two sides compared. Each kind of difference is told by its name, and what agrees is not told."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rules_builders import eur, rules

from domain.money import Money
from domain.orders import PaymentState, Status
from domain.payments import Kind, Method, Outcome, Statement, StatementEntry
from domain.reconciliation import (
    AlarmAfter,
    Compared,
    Difference,
    ListedDocument,
    ListedOrder,
    OrderFacts,
    StatementRead,
    Stored,
    StoredOrder,
    Transaction,
    What,
    age,
    alarm_after,
    compare_documents,
    compare_numbers,
    compare_order,
    compare_shop_order,
    compare_statements,
    compare_transactions,
    missing_here,
    nothing_listed,
    old_statement,
    overdue_statements,
    statement_read,
)
from domain.rules import DocumentKind
from domain.weeks import GROUPS, Group, by_week, first_day, week_tables
from tasks.picture import draw, markdown

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
TODAY = NOW.date()


def kinds(found: Sequence[Difference]) -> list[What]:
    return [difference.what for difference in found]


def only(found: Sequence[Difference]) -> Difference:
    (difference,) = found
    return difference


# Gateway


def listed(id_: str = "pi_1", amount: str = "450.00", **told: Any) -> Transaction:
    values: dict[str, Any] = {
        "kind": Kind.PAYMENT,
        "at": NOW - timedelta(days=1),
        "settled": True,
        "state": "succeeded",
    }
    return Transaction(external_id=id_, amount=eur(amount), **(values | told))


def stored(id_: str = "pi_1", amount: str = "450.00", kind: Kind = Kind.PAYMENT) -> Stored:
    return Stored(id=17, external_id=id_, kind=kind, amount=eur(amount), booked_on=TODAY - timedelta(days=1))


def compared(theirs: Transaction, *ours: Stored) -> tuple[list[Transaction], list[Difference]]:
    return compare_transactions("stripe", [theirs], {one.external_id: one for one in ours}, fresh=NOW)


def test_a_movement_that_both_sides_have_alike_is_not_told() -> None:
    assert compared(listed(), stored()) == ([], [])


def test_a_movement_that_only_the_gateway_has_is_missing_here() -> None:
    theirs = listed()
    assert compared(theirs) == ([theirs], [])
    told = missing_here("stripe", theirs)
    assert (told.what, told.subject) == (What.MISSING_HERE, "pi_1")
    assert (told.one, told.other) == ("stripe says payment of 450.00 EUR, succeeded", "it is not here")
    assert told.since == TODAY - timedelta(days=1)


def test_what_is_missing_says_whether_it_comes_in_by_itself() -> None:
    said = {
        missing_here("stripe", listed(), can_ask=can_ask, asked_before=before).todo
        for can_ask, before in ((True, False), (True, True), (False, False))
    }
    assert len(said) == 3


def test_a_refund_at_the_gateway_that_is_not_here_is_missing_here() -> None:
    refund = listed("re_1", "-100.00", kind=Kind.REFUND)
    assert compared(refund, stored()) == ([refund], [])


def test_what_moved_just_now_may_still_be_on_its_way() -> None:
    assert compared(listed(at=NOW)) == ([], [])


def test_an_attempt_that_brought_no_money_is_missed_by_nobody() -> None:
    assert compared(listed(settled=False, state="requires_payment_method")) == ([], [])


@pytest.mark.parametrize("ours", [stored(amount="449.00"), stored(kind=Kind.REFUND)])
def test_another_amount_or_kind_is_a_difference(ours: Stored) -> None:
    missing, found = compared(listed(), ours)
    assert missing == []
    told = only(found)
    assert (told.what, told.subject) == (What.AMOUNT, "payment 17")
    assert told.one == "stripe says payment of 450.00 EUR (pi_1)"
    assert str(ours.amount) in told.other


def test_another_currency_is_another_amount() -> None:
    theirs = replace(listed(), amount=Money(45_000, "CZK"))
    assert kinds(compared(theirs, stored())[1]) == [What.AMOUNT]


def test_a_payment_here_that_the_gateway_calls_off_differs_in_its_state() -> None:
    _, found = compared(listed(settled=False, state="canceled"), stored())
    told = only(found)
    assert (told.what, told.one) == (What.STATE, "stripe says canceled, no money moved (pi_1)")


def test_a_gateway_that_lists_nothing_is_told_once_and_not_a_payment_at_a_time() -> None:
    told = nothing_listed("stripe", 3, TODAY)
    assert (told.what, told.other) == (What.NOTHING_THERE, "here are 3 payments of it")
    assert "live" in told.todo


# Bank


def on(day: int, opening: str | None, closing: str | None, moved: str | None = None, **told: Any) -> StatementRead:
    """Make a statement of a day in May 2026; Monday was the fourth."""
    values: dict[str, Any] = {"file": f"file {day}", "account": "CZ65", "currency": "EUR"}
    values |= {"opening": eur(opening) if opening else None, "closing": eur(closing) if closing else None}
    values |= {"first_on": date(2026, 5, day), "last_on": date(2026, 5, day)}
    if opening:
        values |= {"opened_on": date(2026, 5, day)}
    if closing:
        values |= {"closed_on": date(2026, 5, day)}
    change = eur(moved) if moved else eur(closing or "0.00") - eur(opening or "0.00")
    values["moved"] = change.minor
    return StatementRead(**(values | told))


def test_statements_that_add_up_and_follow_each_other_are_not_told() -> None:
    assert compare_statements([on(4, "10.00", "15.00"), on(5, "15.00", "15.00"), on(6, "15.00", "9.00")]) == []


def test_a_statement_whose_entries_dont_lead_to_its_closing_balance() -> None:
    told = only(compare_statements([on(4, "10.00", "15.00", "4.00")]))
    assert (told.what, told.subject) == (What.STATEMENT_SUM, "account CZ65, file 4")
    assert told.one == "the statement closes with 15.00 EUR"
    assert told.other == "from 10.00 EUR its entries lead to 14.00 EUR"


def test_a_page_of_a_statement_has_the_balances_of_all_pages_and_is_not_added_up() -> None:
    assert compare_statements([on(4, "10.00", "15.00", "4.00", whole=False)]) == []


def test_a_statement_that_does_not_open_as_the_last_one_closed_says_that_one_is_missing() -> None:
    told = only(compare_statements([on(4, "10.00", "15.00"), on(6, "19.00", "20.00")]))
    assert told.what is What.STATEMENT_CHAIN
    assert told.one == "the statement before it closes on 2026-05-04 with 15.00 EUR"
    assert told.other == "it opens on 2026-05-06 with 19.00 EUR"
    assert told.since == date(2026, 5, 4)


def test_an_opening_balance_may_be_dated_by_the_day_before() -> None:
    before = replace(on(4, "10.00", "15.00"), first_on=date(2026, 5, 1), opened_on=date(2026, 5, 1))
    after = replace(on(5, "15.00", "20.00"), first_on=date(2026, 5, 4), opened_on=date(2026, 5, 4))
    assert compare_statements([before, after]) == []
    gap = replace(after, opening=eur("16.00"), moved=400)
    assert kinds(compare_statements([before, gap])) == [What.STATEMENT_CHAIN]


def test_a_statement_of_the_whole_month_beside_those_of_its_days_breaks_no_chain() -> None:
    days = [on(4, "10.00", "15.00"), on(5, "15.00", "16.00"), on(6, "16.00", "20.00")]
    month = replace(on(4, "10.00", "20.00"), last_on=date(2026, 5, 6), closed_on=date(2026, 5, 6), file="month")
    assert compare_statements([*days, month]) == []


def test_several_statements_of_a_day_follow_each_other() -> None:
    morning, evening = on(4, "10.00", "12.00"), on(4, "12.00", "15.00")
    assert compare_statements([evening, on(5, "15.00", "15.00"), morning]) == []


def test_a_file_that_was_imported_twice_is_compared_once() -> None:
    one = on(4, "10.00", "15.00", "4.00")
    assert len(compare_statements([one, replace(one, file="the same again")])) == 1


def test_accounts_and_currencies_are_chains_of_their_own() -> None:
    other = on(5, "99.00", "99.00", account="RO40")
    foreign = replace(on(5, None, None), currency="USD", opening=Money(1, "USD"), closing=Money(1, "USD"))
    assert compare_statements([on(4, "10.00", "15.00"), other, foreign]) == []


def csv_days(*days: int) -> list[StatementRead]:
    """Make statements without balances of some days."""
    return [on(day, None, None, "1.00") for day in days]


def test_a_banking_day_without_a_statement_is_told_where_there_is_one_each_banking_day() -> None:
    told = only(compare_statements(csv_days(4, 5, 6, 8, 11, 12, 13, 14, 15)))
    assert (told.what, told.one) == (What.STATEMENT_DAYS, "there is no statement of 2026-05-07")


def test_weekends_are_no_banking_days_and_days_in_a_row_are_one_difference() -> None:
    assert compare_statements(csv_days(4, 5, 6, 7, 8, 11, 12)) == []
    told = only(compare_statements(csv_days(4, 5, 6, 7, 12, 13, 14, 15, 18, 19, 20, 21)))
    assert told.one == "there is no statement of 2026-05-08 to 2026-05-11"


def test_an_account_with_a_statement_now_and_then_misses_no_day() -> None:
    assert compare_statements(csv_days(4, 11, 18)) == []
    assert compare_statements(csv_days(1, 6, 11, 18, 22, 27)) == []


def test_a_day_between_balances_that_agree_had_no_movement() -> None:
    days = [on(day, "5.00", "5.00") for day in (4, 5, 6, 8, 11, 12, 13, 14, 15)]
    assert compare_statements(days) == []


def test_an_account_whose_statements_stopped_coming_is_overdue() -> None:
    after = AlarmAfter()
    days = csv_days(4, 5, 6, 7, 8, 11)
    assert [*overdue_statements(days, today=date(2026, 5, 16), after=after)] == []
    assert [*overdue_statements(days, today=date(2026, 5, 17), after=after)] == [("CZ65", date(2026, 5, 11))]
    assert [*overdue_statements(csv_days(4), today=TODAY, after=after)] == []
    told = old_statement("CZ65", date(2026, 5, 11), today=date(2026, 5, 17), after=after)
    assert told.alarm
    assert told.one == "its last statement is of 2026-05-11, 6 days ago"


def test_a_mistyped_date_makes_nothing_long() -> None:
    odd = replace(on(4, None, None, "1.00"), first_on=date(1, 1, 1), last_on=date(9999, 12, 31))
    assert len(compare_statements([odd, *csv_days(4, 5, 6, 7)])) <= 2


def test_a_statement_covers_its_entries_and_its_balances() -> None:
    entry = StatementEntry(amount=eur("5.00"), booked_on=date(2026, 5, 6), where="entry 1")
    statement = Statement(account="CZ65", currency="EUR", entries=(entry,), closing=eur("9.00"), closed_on=TODAY)
    read = statement_read(statement, "file")
    assert read is not None
    assert (read.first_on, read.last_on, read.moved) == (date(2026, 5, 6), TODAY, 500)
    assert statement_read(replace(statement, entries=(), closed_on=None), "file") is None


# Shop and accounting

PAID = ((Kind.PAYMENT, eur("450.00"), eur("0.00")),)
REFUNDED = (*PAID, (Kind.REFUND, eur("-450.00"), eur("450.00")))
CHARGED_BACK = (*PAID, (Kind.CHARGEBACK, eur("-450.00"), eur("0.00")))


def facts(status: Status = Status.PAID, **told: Any) -> OrderFacts:
    """Make an order over 450.00 EUR that is paid and invoiced."""
    values: dict[str, Any] = {"number": "1042", "channel": "shop", "method": Method.CARD, "total": eur("450.00")}
    values |= {"moves": PAID, "since": TODAY, "invoice": "2026-1", "invoice_total": eur("450.00"), "invoice_on": TODAY}
    return OrderFacts(status=status, **(values | told))


def unpaid(status: Status, **told: Any) -> OrderFacts:
    return facts(status, **({"moves": (), "invoice": None, "invoice_total": None, "invoice_on": None} | told))


def order_kinds(order: OrderFacts, **changes: Any) -> list[What]:
    return kinds(compare_order(order, rules(**changes)))


@pytest.mark.parametrize(
    "order",
    [
        facts(),
        facts(Status.COMPLETED, method=Method.CASH_ON_DELIVERY),
        unpaid(Status.AWAITING_PAYMENT),
        unpaid(Status.CANCELLED),
        unpaid(Status.DISPATCHED, method=Method.CASH_ON_DELIVERY),
        facts(Status.CANCELLED, moves=REFUNDED, invoice=None),
        facts(total=eur("500.00"), invoice_total=eur("500.00"), on_delivery=eur("50.00")),
    ],
)
def test_an_order_whose_sides_agree_is_not_told(order: OrderFacts) -> None:
    assert order_kinds(order) == []


def test_an_order_that_is_paid_and_still_waits_for_money() -> None:
    told = only(compare_order(facts(Status.AWAITING_PAYMENT), rules()))
    assert (told.what, told.compared) == (What.PAID_BUT_WAITS, Compared.SHOP)
    assert told.one == "its status is awaiting payment"
    assert told.other == "it is paid: 450.00 EUR of 450.00 EUR"


def test_a_status_that_the_rules_leave_alone_may_wait_though_it_is_paid() -> None:
    assert order_kinds(facts(Status.NEW), scenarios={"card": {"change_status": False}}) == []
    assert order_kinds(facts(Status.ON_HOLD), scenarios={"card": {"status": "on_hold"}}) == []


def test_a_difference_within_the_tolerance_counts_as_paid() -> None:
    moves = ((Kind.PAYMENT, eur("449.50"), eur("0.50")),)
    assert order_kinds(facts(moves=moves)) == []


def test_an_order_that_goes_on_and_was_not_paid() -> None:
    told = only(compare_order(unpaid(Status.PROCESSING), rules()))
    assert (told.what, told.other) == (What.NOT_PAID, "nothing is paid")
    part = unpaid(Status.PROCESSING, moves=((Kind.PAYMENT, eur("100.00"), eur("0.00")),))
    assert only(compare_order(part, rules())).other == "only 100.00 EUR of 450.00 EUR is paid"


def test_what_was_taken_in_as_paid_or_is_made_so_when_placed_needs_no_money_here() -> None:
    assert order_kinds(unpaid(Status.PROCESSING, taken_in_as=Status.PAID)) == []
    assert order_kinds(unpaid(Status.PROCESSING), placed={"card": {"status": "processing"}}) == []


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.EXPIRED, Status.RETURNED])
def test_an_order_that_is_closed_and_has_money(status: Status) -> None:
    told = compare_order(facts(status), rules())
    assert (kinds(told), told[0].other) == ([What.CLOSED_WITH_MONEY], "450.00 EUR of it is still here")


def test_a_paid_order_without_the_invoice_that_the_rules_ask_for() -> None:
    order = facts(invoice=None, invoice_total=None, invoice_on=None)
    told = only(compare_order(order, rules()))
    assert (told.what, told.compared, told.one) == (What.NOT_INVOICED, Compared.ACCOUNTING, "there is no invoice")
    assert order_kinds(order, scenarios={"card": {"invoice": {"action": "ignore"}}}) == []
    assert order_kinds(order, scenarios={"card": {"invoice": {"kind": "proforma"}}}) == []
    assert order_kinds(replace(order, no_invoice=True)) == []


def test_an_invoice_of_an_order_that_is_not_paid() -> None:
    told = only(compare_order(facts(Status.AWAITING_PAYMENT, moves=()), rules()))
    assert (told.what, told.one) == (What.INVOICED_UNPAID, "invoice 2026-1 over 450.00 EUR")


def test_an_invoice_over_another_sum_than_the_order() -> None:
    told = only(compare_order(facts(invoice_total=eur("400.00")), rules()))
    assert (told.what, told.other) == (What.INVOICED_AMOUNT, "the order comes to 450.00 EUR")


def test_an_invoice_that_stands_though_all_money_went_back() -> None:
    assert order_kinds(facts(moves=REFUNDED)) == [What.INVOICED_REFUNDED]
    assert order_kinds(facts(moves=REFUNDED), money_back={"refund": {"credit_note": False}}) == []
    # A chargeback may be disputed, so by default the invoice stands.
    assert order_kinds(facts(moves=CHARGED_BACK)) == []


def test_an_order_of_which_something_is_under_way_needs_not_agree_yet() -> None:
    assert order_kinds(facts(Status.NEW, invoice=None, under_way=True)) == []


def test_an_order_that_costs_nothing_is_paid_by_nobody() -> None:
    assert order_kinds(unpaid(Status.NEW, total=eur("0.00"))) == []


# Documents


def test_a_series_without_gaps_is_not_told() -> None:
    assert compare_numbers("shop, invoices of 2026", [1, 2, 3], 3) == []
    assert compare_numbers("shop, invoices of 2026", [], 0) == []


def test_numbers_that_are_missing_and_numbers_used_twice() -> None:
    found = compare_numbers("shop, invoices of 2026", [1, 3, 3], 4)
    assert [(one.what, one.one) for one in found] == [
        (What.NUMBER_MISSING, "numbers 2, 4 missing"),
        (What.NUMBER_TWICE, "number 3 used twice"),
    ]
    many = compare_numbers("shop, invoices of 2026", [50], 50)
    assert many[0].one.endswith("and 39 more missing")


def document(total: str = "450.00", **told: Any) -> ListedDocument:
    values: dict[str, Any] = {"kind": DocumentKind.INVOICE, "number": "2026-1", "issued_on": TODAY}
    return ListedDocument(total=eur(total), **(values | told))


@pytest.mark.parametrize(
    ("theirs", "ours", "what"),
    [
        (document(), document(), None),
        (None, document(), What.MISSING_THERE),
        (document(), None, What.MISSING_HERE),
        (document("400.00"), document(), What.AMOUNT),
        (document(cancelled=True), document(), What.STATE),
    ],
)
def test_documents_of_an_accounting_system_are_compared_with_ours(
    theirs: ListedDocument | None, ours: ListedDocument | None, what: What | None
) -> None:
    sides = [{"invoice 2026-1": side} if side else {} for side in (theirs, ours)]
    found = compare_documents("books", *sides)
    assert kinds(found) == ([what] if what else [])
    assert all(one.subject == "invoice 2026-1" for one in found)


def in_shop(**told: Any) -> ListedOrder:
    values: dict[str, Any] = {"channel": "shop", "number": "1042", "total": eur("450.00"), "status": "wc-processing"}
    values |= {"standard": Status.PROCESSING, "placed_at": NOW}
    return ListedOrder(**(values | told))


def here(**told: Any) -> StoredOrder:
    values: dict[str, Any] = {"channel": "shop", "number": "1042", "total": eur("450.00"), "placed_at": NOW}
    values |= {"standard": Status.PROCESSING, "state": PaymentState.PAID}
    return StoredOrder(**(values | told))


@pytest.mark.parametrize(
    ("theirs", "ours", "what"),
    [
        (in_shop(), here(), None),
        (in_shop(), None, What.MISSING_HERE),
        (None, here(), What.MISSING_THERE),
        (in_shop(total=eur("1.00")), here(), What.AMOUNT),
        (in_shop(standard=Status.AWAITING_PAYMENT, status="wc-pending"), here(), What.PAID_BUT_WAITS),
        (in_shop(standard=Status.CANCELLED, status="wc-cancelled"), here(), What.STATE),
        (in_shop(standard=Status.NEW), here(state=PaymentState.UNPAID, standard=Status.NEW), None),
    ],
)
def test_orders_of_a_shop_are_compared_with_ours(
    theirs: ListedOrder | None, ours: StoredOrder | None, what: What | None
) -> None:
    assert kinds(compare_shop_order("woo", theirs, ours)) == ([what] if what else [])


# What is old


def test_how_long_things_may_wait_is_a_setting_and_a_wrong_one_is_told_by_its_name() -> None:
    assert alarm_after(None) == AlarmAfter()
    assert alarm_after({"unmatched_days": 7}).unmatched_days == 7
    for wrong in ({"unmatched_days": -1}, {"patience": 3}, {"step_hours": "a day"}):
        with pytest.raises(ValueError, match=rf"kvit\.yaml, alarms\.{next(iter(wrong))}"):
            alarm_after(wrong)
    with pytest.raises(ValueError, match=r"kvit\.yaml, alarms"):
        alarm_after([3])


def test_an_age_is_said_in_hours_and_then_in_days() -> None:
    spans = (timedelta(minutes=90), timedelta(hours=47), timedelta(days=2), timedelta(days=12))
    assert [age(span) for span in spans] == ["1 hour", "47 hours", "2 days", "12 days"]


# Weeks and their picture

MONDAY = date(2026, 5, 18)


def test_every_outcome_has_its_group() -> None:
    assert set(GROUPS) == {None, *Outcome}
    assert set(GROUPS.values()) == set(Group)


def test_the_last_weeks_begin_on_a_monday_and_end_with_this_one() -> None:
    for day in range(7):
        assert first_day(MONDAY + timedelta(days=day), weeks=2) == MONDAY - timedelta(weeks=1)


def test_payments_are_counted_and_summed_in_the_week_of_their_booking() -> None:
    rows = [
        (MONDAY, Outcome.EXACT, "EUR", 2, 300),
        (MONDAY + timedelta(days=6), Outcome.EXACT, "EUR", 1, 100),
        (MONDAY - timedelta(days=1), Outcome.REFUND, "CZK", 1, -50),
        (MONDAY - timedelta(weeks=9), Outcome.EXACT, "EUR", 9, 900),
        (MONDAY + timedelta(weeks=1), None, "EUR", 9, 900),
    ]
    before, now = by_week(rows, TODAY, weeks=2)
    assert (dict(now.counts), now.sums["EUR"]) == ({Group.EXACT: 3}, {Group.EXACT: 400})
    assert (dict(before.counts), before.sums["CZK"]) == ({Group.BACK: 1}, {Group.BACK: -50})
    tables = {title: (headers, rows_) for title, headers, rows_ in week_tables([before, now])}
    assert tables["Payments"] == (
        ["Week of", "exact", "went back", "together"],
        [["2026-05-11", "0", "1", "1"], ["2026-05-18", "3", "0", "3"]],
    )
    assert tables["Sums in EUR"][1] == [["2026-05-11", "0.00", "0.00"], ["2026-05-18", "4.00", "0.00"]]
    assert tables["Sums in CZK"][1][0] == ["2026-05-11", "0.00", "-0.50"]


outcomes = st.sampled_from([None, *Outcome])
figures = st.lists(
    st.tuples(
        st.dates(MONDAY - timedelta(weeks=13), MONDAY + timedelta(days=6)),
        outcomes,
        st.sampled_from(["EUR", "CZK", "JPY", "KWD", "UAH"]),
        st.integers(1, 10**7),
        st.integers(-(10**15), 10**15),
    ),
    max_size=20,
)


@settings(max_examples=20)  # each is a picture
@given(figures)
def test_any_figures_can_be_drawn_and_are_all_in_the_tables(
    rows: list[tuple[date, Outcome | None, str, int, int]],
) -> None:
    weeks = by_week(rows, TODAY)
    picture = Image.open(io.BytesIO(draw(weeks, TODAY)))
    assert (picture.format, picture.width) == ("PNG", 1200)
    (_, _, counts), *_ = week_tables(weeks)
    head, _, text = markdown(weeks, TODAY).partition("data:image/png;base64,")
    assert re.fullmatch(r"[\w \n!\[(,;]+\]\([\w \n|:*.,()/+=-]+", head + text)
    inside = sum(count for day, _, _, count, _ in rows if day >= first_day(TODAY))
    assert sum(int(row[-1]) for row in counts) == inside


def test_the_picture_is_small_says_what_it_is_and_is_the_same_for_the_same_figures() -> None:
    rows = [
        (MONDAY - timedelta(days=day), outcome, currency, 5 + day % 7, 100_000 * (1 + day % 5))
        for day in range(80)
        for outcome in (None, *Outcome)
        for currency in ("CZK", "EUR", "RON", "UAH")
    ]
    weeks = by_week(rows, TODAY)
    assert draw(weeks, TODAY) == draw(weeks, TODAY)
    shown = markdown(weeks, TODAY)
    assert shown.startswith("![Bars of ")
    assert "](data:image/png;base64,iVBOR" in shown
    assert "Not drawn, but in the tables: UAH." in shown
    assert len(shown) < 100_000
    for title in ("Payments", "Sums in CZK", "Sums in UAH"):
        assert f"**{title}**" in shown


def test_each_group_has_a_color_of_its_own() -> None:
    week = by_week([(MONDAY, outcome, "EUR", 100, 100) for outcome in (None, *Outcome)], TODAY, weeks=1)
    colors = Image.open(io.BytesIO(draw(week, TODAY))).convert("RGB").getcolors(1 << 20)
    assert colors is not None
    large = {color for count, color in colors if count > 500}
    assert len(large) >= len(Group)
