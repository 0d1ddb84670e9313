"""Messages by SMS in a channel's rules: beside those by e-mail, and only where somebody sends them."""

from __future__ import annotations

from typing import Any

import pytest

from domain.rules import Moment, RulesError, Template, parse_rules

SMS = {"template": "payment_received", "moment": "paid", "by": "sms"}
MAIL = {"template": "invoice_issued", "moment": "paid"}
SENDS = {"connectors": {"sms": "texts"}}


def document(**changed: Any) -> dict[str, Any]:
    return {"channel": "tea", "title": "Tea", "currency": "EUR", "seller": {"name": "T"}} | changed


def card(*messages: dict[str, str]) -> dict[str, Any]:
    return {"scenarios": {"card": {"messages": [*messages]}}}


def test_one_moment_can_have_a_message_by_each_way() -> None:
    rules = parse_rules(document(**SENDS, **card(MAIL, SMS))).scenarios.card
    by_mail, by_sms = rules.message(Moment.PAID), rules.message(Moment.PAID, "sms")
    assert by_mail is not None
    assert by_sms is not None
    assert (by_mail.by, by_mail.template) == ("email", Template.INVOICE_ISSUED)
    assert (by_sms.by, by_sms.template) == ("sms", Template.PAYMENT_RECEIVED)
    assert rules.message(Moment.DISPATCH, "sms") is None


def test_a_message_by_sms_is_none_by_email() -> None:
    rules = parse_rules(document(**SENDS, **card(SMS))).scenarios.card
    assert rules.message(Moment.PAID) is None


def test_two_messages_by_sms_at_one_moment_are_refused() -> None:
    with pytest.raises(RulesError, match="two messages go out by sms at the moment “paid”"):
        parse_rules(document(**SENDS, **card(SMS, SMS | {"template": "status_changed"})))


def test_sms_that_nobody_sends_are_refused_in_a_sentence_that_says_what_to_do() -> None:
    with pytest.raises(RulesError) as refused:
        parse_rules(document(**card(SMS)), where="tea.yaml")
    assert str(refused.value) == (
        "tea.yaml: scenarios.card.messages: “payment_received” is to go by SMS at the moment “paid”, and nobody sends "
        "SMS; name the connector that does in connectors.sms"
    )


@pytest.mark.parametrize("kind", ["groups", "customers"])
def test_a_group_or_a_customer_with_sms_that_nobody_sends_is_refused(kind: str) -> None:
    with pytest.raises(RulesError, match=rf"{kind}\.vip: .*name the connector that does in connectors\.sms"):
        parse_rules(document(**{kind: {"vip": card(SMS)}}))
    allowed = parse_rules(document(**{kind: {"vip": card(SMS) | SENDS}}))
    group, customer = ("vip", None) if kind == "groups" else (None, "vip")
    narrowed = allowed.for_customer(group=group, customer=customer)
    assert narrowed.connectors.sms == "texts"
    assert narrowed.scenarios.card.message(Moment.PAID, "sms")


def test_a_group_can_not_take_away_who_sends_what_its_customer_is_to_get() -> None:
    vip = {"vip": card() | {"connectors": {"sms": ""}}}
    with pytest.raises(RulesError, match=r"groups\.vip: connectors\.sms can't be emptied"):
        parse_rules(document(**SENDS, groups=vip, customers={"C1": card(SMS)}))


def test_a_backfill_without_messages_sends_none_by_sms_either() -> None:
    silent = parse_rules(document(**SENDS, **card(SMS, MAIL))).without_messages()
    assert not silent.scenarios.card.messages
