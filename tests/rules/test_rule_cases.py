"""Cases: a scenario goes otherwise by payment and delivery method, status and amount; the first that fits wins."""

from __future__ import annotations

from typing import Any

import pytest
from rules_builders import document, eur, rules

from domain.payments import Method
from domain.rules import (
    CaseFacts,
    ChannelRules,
    DocumentKind,
    Moment,
    RulesError,
    ScenarioRules,
    StockAction,
    parse_rules,
)

TRANSFER = {"when": {"methods": ["bank_transfer"]}, "then": {"status": "processing"}}


def case(when: dict[str, Any], **then: Any) -> dict[str, Any]:
    return {"when": when, "then": then or {"stock": "ignore"}}


def goes(
    own: ChannelRules,
    amount: str = "100.00",
    *,
    method: Method = Method.CARD,
    delivery: str | None = None,
    status: str = "new",
) -> ScenarioRules:
    return own.scenario_by(CaseFacts(method, delivery, status, eur(amount)))


def fits(when: dict[str, Any], amount: str = "100.00", **facts: Any) -> bool:
    return goes(rules(cases=[case(when)]), amount, **facts).stock is StockAction.IGNORE


def test_each_condition_is_met_by_what_it_names_and_by_nothing_else() -> None:
    assert fits({"methods": ["card"]})
    assert not fits({"methods": ["bank_transfer", "cash_on_delivery"]})
    assert fits({"delivery": ["PPL", " zásilkovna"]}, delivery="Zásilkovna")
    assert not fits({"delivery": ["PPL"]}, delivery="PPL Parcel")
    assert not fits({"delivery": ["PPL"]})
    assert fits({"statuses": ["awaiting_payment", "new"]})
    assert not fits({"statuses": ["awaiting_payment"]})


@pytest.mark.parametrize(("amount", "met"), [("99.99", False), ("100.00", True), ("200.00", True), ("200.01", False)])
def test_both_amounts_belong_to_the_range(amount: str, met: bool) -> None:
    assert fits({"amount_from": "100.00", "amount_to": "200"}, amount) is met


def test_all_conditions_have_to_be_met() -> None:
    when = {"methods": ["card"], "delivery": ["PPL"], "statuses": ["new"], "amount_from": 50}
    assert fits(when, delivery="PPL")
    assert not fits(when, "49.99", delivery="PPL")
    assert not fits(when, delivery="PPL", status="on_hold")
    assert not fits(when, delivery="PPL", method=Method.BANK_TRANSFER)


def test_a_standard_status_is_met_by_the_channels_own_that_stand_for_it() -> None:
    own = rules(statuses={"checked": {"means": "processing"}}, cases=[case({"statuses": ["processing"]})])
    assert goes(own, status="checked").stock is StockAction.IGNORE
    assert goes(own, status="one that it had before").stock is StockAction.DEDUCT


def test_the_first_case_that_fits_wins_alone() -> None:
    own = rules(
        cases=[
            case({"amount_from": 100}, status="ready"),
            case({"methods": ["card"]}, status="processing", stock="ignore"),
        ]
    )
    assert (goes(own).status, goes(own).stock) == ("ready", StockAction.DEDUCT)
    assert goes(own, "5.00").status == "processing"
    assert goes(own, "5.00", method=Method.BANK_TRANSFER).status == "paid"


def test_a_case_changes_what_it_says_and_no_more() -> None:
    message = {"template": "payment_received", "moment": "paid"}
    card = {"status": "processing", "messages": [message], "dispatch": {"waits_for": ["payment", "stock"]}}
    then = {"change_status": False, "invoice": {"kind": "proforma"}, "dispatch": {"start": False}}
    own = rules(scenarios={"card": card}, cases=[case({"amount_from": 100}, **then)])
    made = goes(own)
    assert (made.change_status, made.status) == (False, "processing")
    assert (made.invoice.action, made.invoice.kind) == ("issue", DocumentKind.PROFORMA)
    assert (made.dispatch.start, sorted(made.dispatch.waits_for)) == (False, ["payment", "stock"])
    assert made.messages == own.scenarios.card.messages
    assert goes(own, "5.00") == own.scenarios.card


def test_what_is_narrower_wins_and_on_one_level_the_case_does() -> None:
    large = {"amount_from": 100}
    own = rules(
        scenarios={"card": {"status": "ready", "stock": "ignore"}},
        cases=[case(large, status="processing", invoice={"action": "ignore"})],
        groups={"wholesale": {"scenarios": {"card": {"status": "on_hold"}}}},
        customers={"C7": {"cases": [case(large, status="in_production")], "scenarios": {"card": {"status": "paid"}}}},
    )

    def status(amount: str, group: str | None = None, customer: str | None = None) -> tuple[str, str, str]:
        narrowed = own.for_customer(group=group, customer=customer)
        made = goes(narrowed, amount)
        assert goes(narrowed.for_customer(group=group, customer=customer), amount) == made
        return made.status, made.stock, made.invoice.action

    assert status("100.00") == ("processing", "ignore", "ignore")
    assert status("99.00") == ("ready", "ignore", "issue")
    # The group's own line is narrower than the channel's case, which still decides what the group doesn't speak of.
    assert status("100.00", "wholesale") == ("on_hold", "ignore", "ignore")
    assert status("100.00", "wholesale", "C7") == ("in_production", "ignore", "ignore")
    assert status("99.00", "wholesale", "C7") == ("paid", "ignore", "issue")


def test_without_messages_a_case_sends_none_either() -> None:
    then = {"messages": [{"template": "payment_received", "moment": "paid"}]}
    cases = [case({"amount_from": 100}, **then)]
    of_channel = rules(cases=cases)
    of_group = rules(groups={"wholesale": {"cases": cases}})
    for own in (
        of_channel.for_customer(group=None, customer=None),
        of_group.for_customer(group="wholesale", customer=None),
    ):
        assert goes(own).message(Moment.PAID)
        assert not goes(own.without_messages()).messages
    quiet = of_group.without_messages().for_customer(group="wholesale", customer=None)
    assert not goes(quiet).messages
    assert not any(one.messages for one in quiet.possible_scenarios())


def test_what_a_case_may_bring_is_among_what_can_happen() -> None:
    own = rules(cases=[case({"amount_from": 100}, dispatch={"note": True})])
    assert any(one.dispatch.note for one in own.possible_scenarios())
    assert not any(one.dispatch.note for one in rules().possible_scenarios())


def test_whether_the_status_matters_is_known_also_of_groups_and_customers() -> None:
    of_status = [case({"statuses": ["new"]})]
    assert rules(cases=of_status).ask_status
    assert rules(groups={"wholesale": {"cases": of_status}}).ask_status
    assert rules(customers={"C7": {"cases": of_status}}).ask_status
    assert not rules(cases=[case({"methods": ["card"]})], groups={"wholesale": {"grace_days": 1}}).ask_status


def test_what_is_written_is_kept_as_it_was_written() -> None:
    written = parse_rules(document(cases=[TRANSFER])).model_dump(mode="json", exclude_unset=True)
    assert written["cases"] == [TRANSFER]


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        (
            [case({"amount_from": 200, "amount_to": 100})],
            "cases.0.when: no order has a total of 200 or more and of 100",
        ),
        ([case({"statuses": ["payed"]})], "cases.0.when.statuses: channel shop has no status “payed”; it has new"),
        ([case({"amount_to": "1.001"})], "cases.0.when: "),
        ([case({})], "cases.0: it has no condition"),
        ([{"when": {"methods": ["card"]}, "then": {}}], "cases.0: it changes nothing"),
        ([case({"methods": ["card"]}, invoice={})], "cases.0: it changes nothing"),
        ([case({"methods": ["cheque"]})], "cases.0.when.methods.0: "),
        ([case({"methods": ["card"]}, status="gone")], "cases.0.then.status: channel shop has no status “gone”"),
        ([case({"methods": ["card"]}, status="cancelled")], "cases.0.then.status: “cancelled” closes an order"),
        ([case({"amount_from": 1}, dispatch={"waits_for": ["payment"]})], "cases.0.then, paid by cash on delivery: "),
        (
            [case({"methods": ["card"]}, messages=[{"template": "payment_received", "moment": "paid", "by": "sms"}])],
            "cases.0.then.messages: one is to go by SMS, and nobody sends SMS",
        ),
        (
            [TRANSFER, case({"amount_from": 5}), case({"amount_from": 10})],
            "cases.2: it never applies, as all that fits",
        ),
        ([TRANSFER, {**TRANSFER, "then": {"stock": "ignore"}}], "cases.1: it never applies"),
    ],
)
def test_a_case_that_can_not_apply_or_says_nothing_is_refused_in_a_sentence(cases: list[Any], said: str) -> None:
    with pytest.raises(RulesError) as refused:
        rules(cases=cases)
    assert str(refused.value).startswith(f"rules: {said}")
    with pytest.raises(RulesError) as refused:
        rules(groups={"wholesale": {"cases": cases}})
    assert str(refused.value).startswith(f"rules: groups.wholesale: {said}")


def test_a_case_after_one_that_takes_less_is_taken() -> None:
    assert rules(cases=[case({"amount_from": 10}), case({"amount_from": 5}), case({"delivery": ["PPL"]})]).cases
    assert rules(cases=[case({"methods": ["card"], "amount_to": 5}), case({"methods": ["card"]})]).cases
