"""A channel's rules: one document, checked whole when it is read, so that no mistake in it waits for a payment."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, create_model
from rules_builders import document, eur, rules

from domain.money import Money, MoneyError
from domain.orders import CLOSED, Status
from domain.payments import Method, Outcome
from domain.rules import (
    ChannelRules,
    DocumentKind,
    EvidenceKind,
    InvoiceAction,
    Moment,
    Policy,
    RulesError,
    ScenarioRules,
    Series,
    StockAction,
    Surplus,
    Template,
    Tolerance,
    Wait,
    parse_rules,
)


def refusal(changed: Any = None, **fields: Any) -> str:
    """Return the text with which a document is refused."""
    with pytest.raises(RulesError) as refused:
        parse_rules(document(**fields) if changed is None else changed, where="shop.yaml")
    return str(refused.value)


FULL = document(
    language="cs",
    accounts=["CZ65 0800 0000 1920 0014 5399"],
    statuses={"to_pack": {"means": "processing", "labels": {"cs": "K zabalení", "en": "To be packed"}}},
    references={"order_number": "CZ[0-9]{4,6}", "invoice_number": "2026[0-9]{5}", "priority": ["variable_symbol"]},
    tolerance={"absolute": "0.50", "percent": "1.5"},
    outcomes={"short": "operator", "over": "operator", "within_tolerance": "operator", "surplus": "balance"},
    placed={"bank_transfer": {"reserve_stock": True, "proforma": True, "status": "awaiting_payment"}},
    scenarios={
        "card": {
            "status": "to_pack",
            "messages": [{"template": "payment_received", "moment": "paid"}],
            "dispatch": {"start": True, "waits_for": ["stock", "payment", "invoice"]},
        },
        "bank_transfer": {"change_status": False, "invoice": {"action": "update", "kind": "proforma"}},
        "cash_on_delivery": {"stock": "ignore", "dispatch": {"start": False, "waits_for": []}},
    },
    series={"invoice": "FV{year}/{number:06}"},
    reservation_days=7,
    grace_days=0,
    connectors={"accounting": "invoices"},
    groups={"dealers": {"tolerance": {"percent": "2"}}},
    customers={"1042": {"language": "en", "scenarios": {"card": {"messages": []}}}},
)


# Defaults


def test_a_document_need_say_only_channel_title_currency_and_seller() -> None:
    assert refusal({}).splitlines() == [
        "shop.yaml: channel: Field required",
        "shop.yaml: title: Field required",
        "shop.yaml: currency: Field required",
        "shop.yaml: seller: Field required",
    ]
    assert rules().channel == "shop"


def test_what_a_document_does_not_say_is_the_cautious_default() -> None:
    silent = rules()
    assert silent.tolerance.limit(eur("1000.00")) == eur("0.00")
    assert silent.outcomes.surplus is Surplus.OPERATOR
    assert (silent.references.order_number, silent.references.invoice_number) == (None, None)
    assert (silent.statuses, silent.accounts, silent.groups, silent.customers) == ({}, (), {}, {})
    assert (silent.language, silent.reservation_days, silent.grace_days) == ("en", 3, 2)


@pytest.mark.parametrize(
    ("method", "status", "waits_for"),
    [
        (Method.CARD, "paid", {Wait.PAYMENT}),
        (Method.BANK_TRANSFER, "paid", {Wait.PAYMENT}),
        (Method.CASH_ON_DELIVERY, "completed", set[Wait]()),
    ],
)
def test_by_default_a_payment_sets_the_status_invoices_deducts_stock_and_writes_to_nobody(
    method: Method, status: str, waits_for: set[Wait]
) -> None:
    scenario = rules().scenarios.of(method)
    assert scenario.change_status
    assert scenario.status == status
    assert (scenario.invoice.action, scenario.invoice.kind) == (InvoiceAction.ISSUE, DocumentKind.INVOICE)
    assert scenario.stock is StockAction.DEDUCT
    assert (scenario.dispatch.start, scenario.dispatch.waits_for) == (True, waits_for)
    assert scenario.messages == ()


def test_a_scenario_keeps_its_own_defaults_when_a_part_of_it_is_written() -> None:
    written = rules(scenarios={"cash_on_delivery": {"stock": "ignore"}})
    assert written.scenarios.cash_on_delivery.status == Status.COMPLETED


def test_cash_on_delivery_never_waits_for_its_payment_because_a_part_of_its_dispatch_is_written() -> None:
    written = rules(scenarios={"cash_on_delivery": {"dispatch": {"start": True}}})
    assert written.scenarios.cash_on_delivery.dispatch.waits_for == frozenset()


@pytest.mark.parametrize("method", Method)
def test_every_payment_method_has_a_scenario_and_rules_for_placed_orders(method: Method) -> None:
    own = rules(scenarios={method.value: {"status": "processing"}}, placed={method.value: {"reserve_stock": True}})
    assert [each for each in Method if own.scenarios.of(each).status == "processing"] == [method]
    assert [each for each in Method if own.placed.of(each).reserve_stock] == [method]


# Mistakes


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"seller": {"name": "S", "phone": "1"}}, "seller.phone"),
        ({"scenarios": {"card": {"stauts": "paid"}}}, "scenarios.card.stauts"),
        ({"scenarios": {"cheque": {}}}, "scenarios.cheque"),
        ({"outcomes": {"chargeback": "release"}}, "outcomes.chargeback"),
        ({"connectors": {"fax": "x"}}, "connectors.fax"),
    ],
)
def test_an_unknown_field_is_named(fields: dict[str, Any], field: str) -> None:
    assert refusal(**fields) == f"shop.yaml: {field}: Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("fields", "beginning"),
    [
        ({"channel": "My Shop"}, "channel: String should match pattern"),
        ({"channel": "shop\n"}, "channel: String should match pattern"),
        ({"currency": "Kč"}, "currency: “Kč” is not an ISO 4217 currency code"),
        ({"language": "de"}, "language: Input should be 'cs', 'ro', 'uk', 'ru' or 'en'"),
        ({"reservation_days": 91}, "reservation_days: Input should be less than or equal to 90"),
        ({"grace_days": -1}, "grace_days: Input should be greater than or equal to 0"),
        ({"tolerance": {"percent": 11}}, "tolerance.percent: Input should be less than or equal to 10"),
        ({"tolerance": {"absolute": -1}}, "tolerance.absolute: Input should be greater than or equal to 0"),
        ({"tolerance": {"absolute": "1,50"}}, "tolerance.absolute: Input should be a valid decimal"),
        ({"tolerance": {"absolute": "NaN"}}, "tolerance.absolute: Input should be a finite number"),
        ({"tolerance": {"absolute": True}}, "tolerance.absolute: Decimal input should be"),
        ({"tolerance": {"absolute": "0.001"}}, "tolerance.absolute: 0.001 EUR is finer than the smallest unit of EUR"),
        ({"tolerance": {"absolute": "1e40"}}, "tolerance.absolute: 1E+40 is not an amount of money"),
        ({"outcomes": {"within_tolerance": "wait"}}, "outcomes.within_tolerance: Input should be"),
        ({"outcomes": {"short": "release"}}, "outcomes.short: Input should be"),
        ({"outcomes": {"over": "ignore"}}, "outcomes.over: Input should be"),
        (
            {"scenarios": {"card": {"messages": [{"template": "hello", "moment": "paid"}]}}},
            "scenarios.card.messages.0.",
        ),
        ({"customers": {1042: {}}}, "customers.1042.[key]: Input should be a valid string"),
        ({"groups": {"dealers": "gold"}}, "groups.dealers: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_value_is_refused_where_it_stands(fields: dict[str, Any], beginning: str) -> None:
    assert refusal(**fields).startswith(f"shop.yaml: {beginning}")


def test_every_mistake_has_a_line_of_its_own() -> None:
    lines = refusal(channel="?", currency="eur", scenarios={"card": {"stock": "eat", "colour": 1}}).splitlines()
    fields = ["channel", "currency", "scenarios.card.stock", "scenarios.card.colour"]
    assert [line.split(": ")[1] for line in lines] == fields


@pytest.mark.parametrize("nonsense", [None, "text", 5, [], [document()], {1: 2}])
def test_what_is_no_document_at_all_is_refused(nonsense: object) -> None:
    with pytest.raises(RulesError, match=r"^rules: "):
        parse_rules(nonsense)


# Statuses


@pytest.mark.parametrize("place", ["scenarios", "placed"])
@pytest.mark.parametrize("method", Method)
def test_an_unknown_status_is_named_with_its_field_and_the_known_ones(place: str, method: Method) -> None:
    text = refusal(statuses={"to_pack": {"means": "processing"}}, **{place: {method.value: {"status": "payed"}}})
    assert text.startswith(
        f"shop.yaml: {place}.{method}.status: channel shop has no status “payed”; it has to_pack, new,"
    )
    assert text.endswith(Status.RETURNED)


@pytest.mark.parametrize("status", Status)
def test_every_standard_status_stands_for_itself(status: Status) -> None:
    assert rules().standard(status) is status


def test_a_status_of_the_channels_own_stands_for_a_standard_one() -> None:
    own = parse_rules(FULL)
    assert own.standard("to_pack") is Status.PROCESSING
    with pytest.raises(ValueError, match="channel shop has no status “to_sell”"):
        own.standard("to_sell")


def test_a_standard_status_can_be_labelled_but_not_made_to_mean_another() -> None:
    assert rules(statuses={"paid": {"means": "paid", "labels": {"en": "Paid"}}}).label("paid", "en") == "Paid"
    assert refusal(statuses={"paid": {"means": "new"}}) == (
        "shop.yaml: statuses.paid: “paid” is a standard status and can only mean itself"
    )


@pytest.mark.parametrize("closed", sorted(CLOSED))
def test_neither_a_payment_nor_placing_an_order_may_close_it(closed: Status) -> None:
    own = {"gone": {"means": closed.value}}
    assert "scenarios.card.status: “gone” closes an order" in refusal(
        statuses=own, scenarios={"card": {"status": "gone"}}
    )
    placed = refusal(placed={"card": {"status": closed.value}})
    assert placed.startswith(f"shop.yaml: placed.card.status: “{closed}” closes an order")


@pytest.mark.parametrize(
    ("status", "language", "label"),
    [
        ("to_pack", "en", "To be packed"),
        ("to_pack", "cs", "K zabalení"),
        ("to_pack", "ro", "K zabalení"),
        ("paid", "en", "paid"),
    ],
)
def test_a_label_falls_back_to_the_channels_language_then_to_the_status(status: str, language: str, label: str) -> None:
    assert parse_rules(FULL).label(status, language) == label


# References


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("CZ[0-9", "is not a regular expression: unterminated character set"),
        ("*", "is not a regular expression: nothing to repeat"),
        ("a{99999999999}", "is not a regular expression: the repetition number is too large"),
        ("A" * 201, "a pattern has at most 200 characters"),
    ],
)
@pytest.mark.parametrize("field", ["order_number", "invoice_number"])
def test_a_pattern_that_is_none_is_refused_with_the_reason(field: str, pattern: str, why: str) -> None:
    text = refusal(references={field: pattern})
    assert text.startswith(f"shop.yaml: references.{field}: ")
    assert why in text


def test_an_empty_pattern_looks_for_nothing() -> None:
    assert rules(references={"order_number": ""}).references.order_number is None


@given(st.lists(st.sampled_from(EvidenceKind), unique=True))
def test_a_priority_is_completed_with_the_kinds_it_leaves_out_in_their_order(named: list[EvidenceKind]) -> None:
    priority = rules(references={"priority": [kind.value for kind in named]}).references.priority
    rest = [kind for kind in EvidenceKind if kind not in named]
    assert priority == (*named, *rest)


def test_a_priority_names_a_kind_once() -> None:
    assert "named twice" in refusal(references={"priority": ["rf", "variable_symbol", "rf"]})


def test_accounts_are_kept_without_spaces_and_in_capitals() -> None:
    assert rules(accounts=["cz65 0800 0000 1920 0014 5399"]).accounts == ("CZ6508000000192000145399",)


# Tolerance


@pytest.mark.parametrize(
    ("absolute", "percent", "to_pay", "limit"),
    [
        ("0", "0", "1000.00", "0.00"),
        ("1.00", "0", "1000.00", "1.00"),
        ("0", "1", "1000.00", "10.00"),
        ("1.00", "1", "1000.00", "10.00"),
        ("1.00", "1", "99.99", "1.00"),
        ("0", "1", "0.99", "0.00"),
        ("0", "10", "0.19", "0.01"),
        ("0", "1", "-1000.00", "10.00"),
        ("0.50", "1", "0.00", "0.50"),
    ],
)
def test_the_larger_limit_counts_and_never_more_than_its_share_rounded_down(
    absolute: str, percent: str, to_pay: str, limit: str
) -> None:
    assert Tolerance(absolute=Decimal(absolute), percent=Decimal(percent)).limit(eur(to_pay)) == eur(limit)


@given(
    st.integers(0, 10_000),
    st.decimals(0, 10, places=3),
    st.integers(-(10**12), 10**12),
    st.sampled_from(["JPY", "EUR", "KWD"]),
)
def test_a_limit_is_whole_minor_units_the_same_for_both_signs(
    absolute: int, percent: Decimal, minor: int, currency: str
) -> None:
    tolerance = Tolerance(absolute=Money(absolute, currency).decimal, percent=percent)
    limit = tolerance.limit(Money(minor, currency))
    assert limit == tolerance.limit(Money(-minor, currency))
    assert limit.minor >= absolute
    assert limit.minor * 100 >= abs(minor) * percent - 100
    assert limit.minor == absolute or limit.minor * 100 <= abs(minor) * percent


def test_a_tolerance_finer_than_the_currency_is_never_rounded() -> None:
    with pytest.raises(MoneyError, match="finer than the smallest unit of JPY"):
        Tolerance(absolute=Decimal("0.50")).limit(Money(100, "JPY"))
    assert "finer than the smallest unit of JPY" in refusal(currency="JPY", tolerance={"absolute": "0.5"})


# Outcomes

POLICIES = {
    Outcome.EXACT: Policy.RELEASE,
    Outcome.WITHIN_TOLERANCE: Policy.RELEASE,
    Outcome.SHORT: Policy.WAIT,
    Outcome.OVER: Policy.RELEASE,
    Outcome.DUPLICATE: Policy.OPERATOR,
    Outcome.LATE: Policy.OPERATOR,
    Outcome.WRONG_CURRENCY: Policy.OPERATOR,
    Outcome.AMBIGUOUS: Policy.OPERATOR,
    Outcome.UNKNOWN: Policy.OPERATOR,
    Outcome.REFUND: Policy.OPERATOR,
    Outcome.CHARGEBACK: Policy.OPERATOR,
    Outcome.REINSTATED: Policy.OPERATOR,
    Outcome.TAKEN_BACK: Policy.OPERATOR,
    Outcome.RETURNED: Policy.OPERATOR,
    Outcome.PAYOUT: Policy.OPERATOR,
    Outcome.OUTGOING: Policy.IGNORE,
}


def test_every_outcome_is_decided() -> None:
    assert POLICIES.keys() == set(Outcome)
    assert {outcome: rules().outcomes.policy(outcome) for outcome in Outcome} == POLICIES


@pytest.mark.parametrize("outcome", [Outcome.WITHIN_TOLERANCE, Outcome.SHORT, Outcome.OVER])
def test_a_channel_may_send_what_is_not_exact_to_the_operator_and_nothing_else_changes(outcome: Outcome) -> None:
    outcomes = rules(outcomes={outcome.value: "operator"}).outcomes
    assert {each: outcomes.policy(each) for each in Outcome} == {**POLICIES, outcome: Policy.OPERATOR}


@pytest.mark.parametrize(
    ("outcome", "policy"),
    [
        *(
            (outcome, policy)
            for outcome in (Outcome.DUPLICATE, Outcome.LATE)
            for policy in ("balance", "refund", "ignore")
        ),
        (Outcome.WRONG_CURRENCY, "refund"),
        (Outcome.UNKNOWN, "ignore"),
    ],
)
def test_a_channel_may_say_what_becomes_of_money_that_settles_nothing(outcome: Outcome, policy: str) -> None:
    outcomes = rules(outcomes={outcome.value: policy}).outcomes
    assert {each: outcomes.policy(each) for each in Outcome} == {**POLICIES, outcome: Policy(policy)}


@pytest.mark.parametrize(
    ("outcome", "policy"),
    [("late", "release"), ("duplicate", "wait"), ("wrong_currency", "balance"), ("unknown", "refund")],
)
def test_no_rule_lets_money_go_where_nobody_can_say_that_it_belongs(outcome: str, policy: str) -> None:
    assert f"outcomes.{outcome}" in refusal(outcomes={outcome: policy})


# Series


@pytest.mark.parametrize("kind", DocumentKind)
def test_every_kind_of_document_has_a_series_that_numbers_by_year(kind: DocumentKind) -> None:
    series: str = getattr(Series(), kind.value)
    years_and_numbers = [(2026, 1), (2026, 2), (2026, 99_999), (2026, 100_000), (2027, 1)]
    assert len({series.format(year=year, number=number) for year, number in years_and_numbers}) == 5


@pytest.mark.parametrize("series", ["{year}{number:05}", "FV-{year}/{number}", "{number:04d}.{year}"])
def test_a_series_may_be_written_around_year_and_number(series: str) -> None:
    assert rules(series={"invoice": series, "credit_note": "X" + series}).series.invoice == series


@pytest.mark.parametrize(
    "series",
    [
        "",
        "2026",
        "{year}",
        "{number:05}",
        "{}{year}{number}",
        "{0}",
        "{year}{number",
        "{year}{nummer}",
        "{year}{number.real}",
        "{year}{number[0]}",
        "{year}{number.__class__}",
        "{year}{number!r}",
        "{year}{number:x}",
        "{year}{number:.1e}",
        "{year}{number:099999999}",
        "{{year}}{{number}}",
        "{year}\n{number}",
        "{year}{number}" + "X" * 40,
    ],
)
def test_a_series_that_does_not_number_for_ever_is_refused(series: str) -> None:
    assert refusal(series={"invoice": series}).startswith("shop.yaml: series.invoice: ")


def test_two_kinds_of_document_never_share_numbers() -> None:
    assert "series: proforma and invoice" in refusal(series={"proforma": "{year}{number:05}"})


# Groups and customers


def test_customer_goes_before_group_before_channel_before_default() -> None:
    own = rules(
        reservation_days=10,
        groups={"dealers": {"reservation_days": 20, "grace_days": 5}},
        customers={"1042": {"reservation_days": 30}},
    )

    def days(group: str | None, customer: str | None) -> tuple[int, int]:
        narrowed = own.for_customer(group=group, customer=customer)
        return narrowed.reservation_days, narrowed.grace_days

    assert days(None, None) == days("others", "1") == (10, 2)
    assert days("dealers", None) == (20, 5)
    assert days("others", "1042") == (30, 2)
    assert days("dealers", "1042") == (30, 5)


def test_differences_merge_field_by_field_and_a_list_is_replaced_whole() -> None:
    paid = {"template": "payment_received", "moment": "paid"}
    sent = {"template": "dispatch_prepared", "moment": "dispatch"}
    own = rules(
        scenarios={"card": {"status": "processing", "stock": "ignore", "messages": [paid, sent]}},
        groups={"dealers": {"scenarios": {"card": {"invoice": {"kind": "proforma"}, "messages": [sent]}}}},
        customers={
            "1042": {"scenarios": {"card": {"invoice": {"action": "update"}}, "bank_transfer": {"stock": "ignore"}}}
        },
    )
    card = own.for_customer(group="dealers", customer="1042").scenarios.card
    assert (card.status, card.stock) == ("processing", StockAction.IGNORE)
    assert (card.invoice.action, card.invoice.kind) == (InvoiceAction.UPDATE, DocumentKind.PROFORMA)
    assert [message.template for message in card.messages] == [Template.DISPATCH_PREPARED]


def test_a_difference_in_one_field_leaves_the_scenarios_own_defaults() -> None:
    own = rules(groups={"dealers": {"scenarios": {"cash_on_delivery": {"stock": "ignore"}}}})
    narrowed = own.for_customer(group="dealers", customer=None).scenarios.cash_on_delivery
    assert (narrowed.status, narrowed.stock) == (Status.COMPLETED, StockAction.IGNORE)


def test_narrowing_for_one_customer_changes_nothing_for_the_next() -> None:
    own = parse_rules(FULL)
    before = own.model_dump()
    own.for_customer(group="dealers", customer="1042")
    assert own.model_dump() == before


@pytest.mark.parametrize(("group", "customer"), [(None, None), ("dealers", None), ("dealers", "1042"), ("?", "?")])
def test_rules_for_one_customer_hold_nobody_elses_differences(group: str | None, customer: str | None) -> None:
    narrowed = parse_rules(FULL).for_customer(group=group, customer=customer)
    assert (narrowed.groups, narrowed.customers) == ({}, {})
    assert narrowed.for_customer(group="dealers", customer="1042") == narrowed


@pytest.mark.parametrize("kind", ["groups", "customers"])
@pytest.mark.parametrize(
    ("part", "mistake"),
    [
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"tolerance": {"percent": 50}}, "tolerance.percent: Input should be less than or equal to 10"),
        ({"tolerance": None}, "tolerance: Input should be a valid dictionary"),
        ({"scenarios": {"card": {"status": "payed"}}}, "scenarios.card.status: channel shop has no status “payed”"),
    ],
)
def test_a_mistake_in_a_difference_is_found_when_the_document_is_read(
    kind: str, part: dict[str, Any], mistake: str
) -> None:
    assert refusal(**{kind: {"x1": part}}).startswith(f"shop.yaml: {kind}.x1: {mistake}")


def test_mistakes_in_several_differences_are_all_told() -> None:
    wrong = {"colour": "red"}
    text = refusal(groups={"dealers": wrong, "staff": {}}, customers={"7": wrong, "8": {"channel": "other"}})
    assert [line.split(": ")[1] for line in text.splitlines()] == ["groups.dealers", "customers.7", "customers.8"]


@pytest.mark.parametrize(
    "part",
    [
        {"channel": "other"},
        {"currency": "USD"},
        {"accounts": []},
        {"groups": {}},
        {"customers": {}},
        {"statuses": {"to_pack": {"means": "new"}}},
        {"series": {"invoice": "V{year}{number:05}"}},
    ],
    ids=lambda part: next(iter(part)),
)
def test_what_makes_a_channel_one_can_not_differ_within_it(part: dict[str, Any]) -> None:
    assert refusal(groups={"dealers": part}) == (
        f"shop.yaml: groups.dealers: {next(iter(part))} can't differ within a channel"
    )


# Without messages

MESSAGES = [{"template": "payment_received", "moment": "paid"}, {"template": "proforma", "moment": "placed"}]
LOUD = rules(
    scenarios={method.value: {"messages": MESSAGES, "stock": "ignore"} for method in Method},
    groups={"dealers": {"scenarios": {"card": {"messages": MESSAGES, "status": "processing"}}, "grace_days": 9}},
    customers={
        "1042": {"scenarios": {method.value: {"messages": MESSAGES} for method in Method}},
        "7": {"grace_days": 8},
    },
)


def scenarios(of: ChannelRules) -> list[ScenarioRules]:
    return [of.scenarios.of(method) for method in Method]


@pytest.mark.parametrize("group", [None, "dealers"])
@pytest.mark.parametrize("customer", [None, "1042", "7"])
def test_without_messages_nobody_is_written_to_whether_narrowed_before_or_after(
    group: str | None, customer: str | None
) -> None:
    loud = LOUD.for_customer(group=group, customer=customer)
    silenced = loud.without_messages()
    assert all(scenario.messages for scenario in scenarios(loud))
    assert not any(scenario.messages for scenario in scenarios(silenced))
    assert LOUD.without_messages().for_customer(group=group, customer=customer) == silenced


def test_without_messages_all_else_stays() -> None:
    expected = [scenario.model_copy(update={"messages": ()}) for scenario in scenarios(LOUD)]
    assert scenarios(LOUD.without_messages()) == expected
    narrowed = LOUD.without_messages().for_customer(group="dealers", customer="7")
    assert (narrowed.scenarios.card.status, narrowed.grace_days) == ("processing", 8)
    assert all(scenario.messages for scenario in scenarios(LOUD))


def test_at_most_one_message_goes_out_at_a_moment() -> None:
    twice = [{"template": "payment_received", "moment": "paid"}, {"template": "status_changed", "moment": "paid"}]
    text = refusal(scenarios={"card": {"messages": twice}})
    assert text.startswith("shop.yaml: scenarios.card.messages: two messages go out by email at the moment “paid”")


def test_the_message_of_a_moment_is_found() -> None:
    card = LOUD.scenarios.card
    assert [message for moment in Moment if (message := card.message(moment))] == sorted(
        card.messages, key=lambda message: list(Moment).index(message.moment)
    )
    assert card.message(Moment.DISPATCH) is None


def test_messages_name_a_template_and_a_moment_that_exist() -> None:
    for template in Template:
        for moment in Moment:
            message = {"template": template.value, "moment": moment.value}
            (read,) = rules(scenarios={"card": {"messages": [message]}}).scenarios.card.messages
            assert (read.template, read.moment, read.by) == (template, moment, "email")


# The document


@pytest.mark.parametrize("written", [document(), FULL], ids=["shortest", "full"])
def test_a_document_written_out_is_read_back_as_the_same_rules(written: dict[str, Any]) -> None:
    read = parse_rules(written)
    assert parse_rules(read.model_dump(mode="json")) == read
    assert parse_rules(yaml.safe_load(yaml.safe_dump(read.model_dump(mode="json")))) == read
    assert parse_rules(yaml.safe_load(yaml.safe_dump(written))) == read
    assert parse_rules(read.model_dump(mode="json", exclude_unset=True)) == read


@given(st.frozensets(st.sampled_from(Wait)))
def test_the_same_rules_are_always_written_out_the_same(waits: frozenset[Wait]) -> None:
    dispatch = {"waits_for": [wait.value for wait in waits]}
    written = rules(scenarios={"card": {"dispatch": dispatch}}).model_dump(mode="json")
    assert written["scenarios"]["card"]["dispatch"]["waits_for"] == sorted(waits)


def test_amounts_written_as_yaml_numbers_are_read_exactly() -> None:
    read = parse_rules(document(**yaml.safe_load("tolerance: {absolute: 1.10, percent: 0.3}")))
    assert (read.tolerance.absolute, read.tolerance.percent) == (Decimal("1.10"), Decimal("0.3"))


def parts(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a model and those of all its parts, by whatever its fields hold them."""
    yield model
    for field in model.model_fields.values():
        held = [field.annotation]
        while held:
            one = held.pop()
            held.extend(get_args(one))
            if isinstance(one, type) and issubclass(one, BaseModel):
                yield from parts(one)


@pytest.mark.parametrize("part", dict.fromkeys(parts(ChannelRules)), ids=lambda part: part.__name__)
def test_each_field_has_a_title_a_help_text_and_an_example_that_it_would_take(part: type[BaseModel]) -> None:
    for name, field in part.model_fields.items():
        assert field.title, name
        assert field.title != name
        assert len(field.description or "") > 5, name
        kinds = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else [field.annotation]
        if any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
            continue  # its fields have their own
        assert field.examples, name
        alone: Any = create_model("Alone", **cast("dict[str, Any]", {name: (field.annotation, field)}))
        for example in field.examples:
            alone.model_validate({name: example})
