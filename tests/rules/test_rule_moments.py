"""Messages at moments that never come for a payment method: refused when saved, with the moments that there are."""

from __future__ import annotations

from typing import Any

import pytest
from rules_builders import rules

from domain.payments import Method
from domain.rules import Moment, moments_of, unreached_messages

AFTER_PAYMENT = {Moment.PAID, Moment.INCOMPLETE, Moment.DISPATCH, Moment.HELD}


def at(moment: str) -> list[dict[str, Any]]:
    return [{"template": "payment_received", "moment": moment}]


@pytest.mark.parametrize(
    ("method", "moments"),
    [
        (Method.CARD, AFTER_PAYMENT | {Moment.PLACED}),
        (Method.BANK_TRANSFER, set(Moment)),
        (Method.CASH_ON_DELIVERY, AFTER_PAYMENT | {Moment.STATUS}),
    ],
)
def test_a_message_is_taken_at_each_moment_of_its_method_and_refused_at_all_others(
    method: Method, moments: set[Moment]
) -> None:
    assert set(moments_of(method)) == moments
    for moment in Moment:
        wrong = unreached_messages(rules(scenarios={method.value: {"messages": at(moment.value)}}))
        assert bool(wrong) == (moment not in moments), moment


def test_the_refusal_says_where_the_message_stands_and_which_moments_there_are() -> None:
    own = rules(
        scenarios={"card": {"messages": at("status")}},
        groups={
            "dealers": {"scenarios": {"cash_on_delivery": {"messages": at("placed")}}},
            "others": {"grace_days": 8},
        },
    )
    said = "would never go out, as the scenario does not come to the moment"
    card, dealers = unreached_messages(own)
    assert card.startswith(f"scenarios.card.messages: “payment_received” {said} “status”; ")
    assert card.endswith("it has the moments placed, paid, incomplete, dispatch and held")
    assert dealers.startswith(
        f"groups.dealers: scenarios.cash_on_delivery.messages: “payment_received” {said} “placed”; "
    )
    assert dealers.endswith("it has the moments paid, status, incomplete, dispatch and held")


def test_a_case_may_name_a_moment_that_one_of_its_methods_has() -> None:
    def case(*methods: str) -> dict[str, Any]:
        return {"when": {"methods": methods, "amount_from": "10"}, "then": {"messages": at("overdue")}}

    assert unreached_messages(rules(cases=[case("card", "bank_transfer")])) == []
    assert unreached_messages(rules(cases=[{"when": {"amount_from": "10"}, "then": {"messages": at("overdue")}}])) == []
    (said,) = unreached_messages(rules(cases=[case("card", "cash_on_delivery")]))
    assert said.startswith("cases.0.then.messages: “payment_received” would never go out, as no scenario that the case")
    assert said.endswith("there are the moments placed, paid, status, incomplete, dispatch and held")
