"""A statement entry's identity: importing anything again adds nothing, and no real payment is ever taken for another.

The bank's reference alone doesn't tell entries apart: banks give one reference to a whole batch, to a payment and its
reversal, or begin to count anew each day. With the day and the amount it does. Without a reference an entry is all
that the file tells of it. Entries that are equal in this are numbered, in the order of the file.
"""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_builders import ACCOUNT, DAY, entry, ids

from domain.money import Money
from domain.payments import Method, StatementEntry, incoming_from_statement

# Few values, so that equal entries and shared references are the rule.
entries = st.builds(
    entry,
    st.sampled_from(["450.00", "990.00", "-450.00"]),
    reference=st.sampled_from([None, None, "R1", "R2"]),
    day=st.integers(1, 5),
    payer_name=st.sampled_from([None, "Novák", "Ionescu"]),
    variable_symbol=st.sampled_from([None, "1042"]),
)
statements = st.lists(entries, max_size=12)


@st.composite
def shuffled(draw: st.DrawFn) -> tuple[list[StatementEntry], list[StatementEntry]]:
    statement = draw(statements)
    return statement, draw(st.permutations(statement))


def told(one: StatementEntry) -> tuple[Any, ...]:
    """Return what tells an entry from others: its reference with day and amount, else everything."""
    if one.bank_reference:
        return (one.bank_reference, one.booked_on, one.amount)
    return tuple(getattr(one, field.name) for field in fields(one) if field.name != "where")


# One file


@given(statements)
def test_importing_a_statement_again_gives_the_same_ids(statement: list[StatementEntry]) -> None:
    assert ids(statement) == ids(statement)


@given(statements)
def test_no_two_entries_of_a_statement_share_an_id(statement: list[StatementEntry]) -> None:
    assert len(set(ids(statement))) == len(statement)


@given(shuffled())
def test_a_statement_in_another_order_has_the_same_ids(
    orders: tuple[list[StatementEntry], list[StatementEntry]],
) -> None:
    one, other = orders
    assert set(ids(one)) == set(ids(other))


@given(statements)
def test_an_entry_that_differs_from_all_others_has_the_id_it_has_alone(statement: list[StatementEntry]) -> None:
    facts = [told(one) for one in statement]
    for one, fact, its_id in zip(statement, facts, ids(statement), strict=True):
        if facts.count(fact) == 1:
            assert ids([one]) == [its_id]


@pytest.mark.parametrize("reference", [None, "", "R1"])
def test_two_truly_equal_entries_are_both_kept(reference: str | None) -> None:
    first, second = ids([entry(reference=reference, where="line 1"), entry(reference=reference, where="line 2")])
    assert first != second


def test_a_reference_shared_by_a_batch_loses_none_of_its_payments() -> None:
    batch = [
        entry("450.00", reference="BATCH", payer_name="Novák"),
        entry("450.00", reference="BATCH", payer_name="Ionescu"),
        entry("990.00", reference="BATCH"),
    ]
    assert len(set(ids(batch))) == 3


def test_a_payment_its_fee_and_its_reversal_may_share_a_reference() -> None:
    assert (
        len(
            set(
                ids([entry("450.00", reference="R1"), entry("-5.00", reference="R1"), entry("-450.00", reference="R1")])
            )
        )
        == 3
    )


def test_accounts_never_share_ids() -> None:
    assert ids([entry()], account="123/0800") != ids([entry()], account="124/0800")
    assert ids([entry(reference="B/R")], account="A") != ids([entry(reference="R")], account="A/B")


def test_an_id_stays_short_and_telling_however_long_the_reference() -> None:
    one, other = ids([entry(reference="R" * 500 + "1"), entry(reference="R" * 500 + "2")], account="A" * 500)
    assert one != other
    assert len(one) <= 200


@pytest.mark.parametrize("reference", [None, "R1"])
@pytest.mark.parametrize(
    "other",
    [{"amount": Money(45001, "EUR")}, {"amount": Money(45000, "CZK")}, {"booked_on": date(2026, 5, 5)}],
    ids=["amount", "currency", "day"],
)
def test_amount_currency_and_day_always_tell_entries_apart(reference: str | None, other: dict[str, Any]) -> None:
    one = entry(reference=reference)
    assert ids([one]) != ids([replace(one, **other)])


OTHERWISE: dict[str, Any] = {
    "amount": Money(1, "EUR"),
    "booked_on": date(2026, 5, 9),
    "value_date": date(2026, 5, 9),
    "bank_reference": "R1",
    "end_to_end_id": "E2E-1",
    "variable_symbol": "1042",
    "rf": "RF181042",
    "payer_name": "Novák",
    "payer_account": "CZ9408000000001234567899",
    "remittance": "objednávka 1042",
    "order_reference": "1042",
    "tracking_number": "DR123",
}


def test_every_field_of_an_entry_is_decided() -> None:
    # That the bank returned it is told by some formats alone, and one entry in two formats is one.
    assert OTHERWISE.keys() | {"where", "returned"} == {field.name for field in fields(StatementEntry)}


@pytest.mark.parametrize("field", OTHERWISE)
def test_without_a_reference_every_field_tells_entries_apart(field: str) -> None:
    assert ids([entry()]) != ids([replace(entry(), **{field: OTHERWISE[field]})])


@pytest.mark.parametrize("reference", [None, "R1"])
def test_where_an_entry_stands_in_its_file_does_not_matter(reference: str | None) -> None:
    assert ids([entry(reference=reference, where="line 1")]) == ids([entry(reference=reference, where="line 9")])


def test_text_moved_from_one_field_to_the_next_is_another_entry() -> None:
    assert ids([entry(payer_name="A\x1fB")]) != ids([entry(payer_name="A", remittance="B")])
    assert ids([entry(payer_name="A")]) != ids([entry(remittance="A")])


# Several files


@given(
    st.lists(entries, max_size=12), st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4)
)
def test_files_of_whole_days_may_overlap_in_any_way(
    ledger: list[StatementEntry], periods: list[tuple[int, int]]
) -> None:
    files = [[one for one in ledger if first <= one.booked_on.day <= last] for first, last in periods]
    covered = [one for one in ledger if any(first <= one.booked_on.day <= last for first, last in periods)]
    assert {each for file in files for each in ids(file)} == set(ids(covered))


@given(statements, st.data())
def test_a_file_taken_in_the_middle_of_a_day_is_completed_by_the_whole_day(
    day: list[StatementEntry], data: st.DataObject
) -> None:
    so_far = data.draw(st.integers(0, len(day)))
    assert set(ids(day[:so_far])) <= set(ids(day))
    assert len(set(ids(day[:so_far])) | set(ids(day))) == len(day)


@given(st.lists(entries, max_size=12, unique_by=told), st.data())
def test_entries_that_differ_may_be_split_over_files_in_any_way(
    ledger: list[StatementEntry], data: st.DataObject
) -> None:
    part = st.lists(st.sampled_from(ledger), unique_by=id) if ledger else st.just(list[StatementEntry]())
    one, other = data.draw(part), data.draw(part)
    both = {told(each) for each in [*one, *other]}
    assert len(set(ids(one)) | set(ids(other))) == len(both)


def test_a_reference_that_proves_shared_only_in_a_later_file_does_not_change_the_first_ones_id() -> None:
    first, second = entry("450.00", reference="R1"), entry("990.00", reference="R1")
    assert set(ids([first])) < set(ids([first, second]))


def test_a_reference_shared_over_two_files_loses_neither_entry() -> None:
    assert ids([entry("450.00", reference="R1")]) != ids([entry("990.00", reference="R1")])


def test_a_reversal_in_a_later_file_is_kept_though_it_bears_the_payments_reference() -> None:
    assert ids([entry("450.00", reference="R1")]) != ids([entry("-450.00", reference="R1", day=6)])


def test_references_that_count_anew_each_day_lose_no_payment_of_the_same_price() -> None:
    assert ids([entry("990.00", reference="1", day=4)]) != ids([entry("990.00", reference="1", day=5)])


def test_an_entry_with_a_reference_is_the_same_in_a_format_that_tells_more_of_it() -> None:
    notified = entry(reference="R1")
    stated = entry(reference="R1", value_date=DAY, payer_name="Jan Novák", remittance="VS1042", variable_symbol="1042")
    assert ids([notified]) == ids([stated])


# What no id can guarantee: banks must be asked for whole days, and for references.


def test_not_guaranteed_equal_entries_without_reference_are_one_where_a_file_begins_within_their_day() -> None:
    morning, afternoon = entry(where="9:00"), entry(where="15:00")
    assert ids([morning]) == ids([afternoon])


def test_not_guaranteed_a_reference_used_twice_on_a_day_for_one_amount_is_one_where_files_split_the_day() -> None:
    assert ids([entry(reference="1", payer_name="Novák")]) == ids([entry(reference="1", payer_name="Ionescu")])


def test_not_guaranteed_an_entry_without_reference_told_otherwise_by_another_format_is_taken_twice() -> None:
    assert ids([entry(remittance="order 1042")]) != ids([entry(remittance="ORDER 1042")])


def test_not_guaranteed_an_entry_whose_day_the_bank_corrects_is_taken_twice() -> None:
    assert ids([entry(reference="R1", day=4)]) != ids([entry(reference="R1", day=5)])


# What is taken over


def test_everything_that_matching_needs_is_taken_over() -> None:
    (payment,) = incoming_from_statement(
        source="bank", method=Method.BANK_TRANSFER, account=ACCOUNT, entries=[replace(entry(), **OTHERWISE)]
    )
    assert (payment.source, payment.method, payment.account) == ("bank", Method.BANK_TRANSFER, ACCOUNT)
    assert payment.text == OTHERWISE["remittance"]
    for field in OTHERWISE.keys() - {"bank_reference", "remittance"}:
        assert getattr(payment, field) == OTHERWISE[field]
