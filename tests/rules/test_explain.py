"""Explaining rules: each decision with the value that the steps use, and the line that it comes from."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_builders import document, eur, rules

from domain.explain import Explained, Level, cases_for, explain
from domain.payments import Method
from domain.rules import CaseFacts, ChannelRules, Moment, Template, parse_rules

PAID = {"template": "payment_received", "moment": "paid", "by": "email"}
SENT = {"template": "dispatch_prepared", "moment": "dispatch", "by": "email"}


def by_path(
    channel: ChannelRules, *, group: str | None = None, customer: str | None = None, method: Method = Method.CARD
) -> dict[str, Explained]:
    found = explain(channel, group=group, customer=customer, method=method)
    paths = [one.path for one in found]
    assert len(set(paths)) == len(paths)
    return {one.path: one for one in found}


def test_the_narrowest_line_decides_and_the_others_are_named_after_it() -> None:
    own = rules(
        scenarios={"card": {"status": "processing"}},
        groups={"dealers": {"scenarios": {"card": {"status": "paid"}}}},
        customers={"1042": {"scenarios": {"card": {"status": "ready"}}}},
    )
    line = "scenarios.card.status"

    def told(group: str | None, customer: str | None) -> tuple[Any, list[str]]:
        one = by_path(own, group=group, customer=customer)[line]
        return one.value, [above.path for above in one.lines]

    assert told("dealers", "1042") == ("ready", [f"customers.1042.{line}", f"groups.dealers.{line}", line])
    assert told("dealers", "7") == ("paid", [f"groups.dealers.{line}", line])
    assert told(None, None) == ("processing", [line])


def test_the_line_of_a_case_comes_before_the_other_lines_of_its_level() -> None:
    own = rules(
        scenarios={"card": {"status": "processing"}},
        cases=[
            {"when": {"methods": ["bank_transfer"]}, "then": {"status": "paid"}},
            {"name": "large", "when": {"amount_from": 100}, "then": {"status": "ready", "stock": "ignore"}},
        ],
        groups={"dealers": {"scenarios": {"card": {"status": "on_hold"}}}},
    )
    line = "scenarios.card.status"
    facts = CaseFacts(Method.CARD, None, "new", eur("100.00"))

    def told(group: str | None, facts: CaseFacts | None) -> tuple[Any, Level, list[str]]:
        found = explain(own, group=group, customer=None, method=Method.CARD, facts=facts)
        (one,) = (one for one in found if one.path == line)
        return one.value, one.level, [above.path for above in one.lines]

    of_case = "cases.1.then.status"
    assert told(None, facts) == ("ready", Level.CHANNEL, [of_case, line])
    assert told("dealers", facts) == ("on_hold", Level.GROUP, [f"groups.dealers.{line}", of_case, line])
    assert told(None, facts._replace(total=eur("99.99"))) == ("processing", Level.CHANNEL, [line])
    fitting = cases_for(own, group=None, customer=None, facts=facts)
    assert [(one.path, one.case.name) for one in fitting] == [("cases.1", "large")]


def test_what_no_line_says_is_the_default_and_a_line_that_repeats_it_decides() -> None:
    silent = by_path(rules())["balance.use"]
    assert (silent.value, silent.level, silent.line) == (False, Level.DEFAULT, None)
    repeated = by_path(rules(balance={"use": False}))["balance.use"]
    assert (repeated.value, repeated.level, repeated.line) == (False, Level.CHANNEL, "balance.use")


def test_each_message_is_told_by_moment_and_way_with_the_line_of_all_of_them() -> None:
    own = rules(
        scenarios={"card": {"messages": [PAID, SENT]}},
        groups={
            "dealers": {"scenarios": {"card": {"messages": [SENT]}}},
            "quiet": {"scenarios": {"card": {"messages": []}}},
        },
    )

    def messages(group: str | None) -> list[tuple[str, Any, str | None]]:
        found = by_path(own, group=group).values()
        return [(one.path, one.value, one.line) for one in found if one.path.startswith("scenarios.card.messages")]

    line = "scenarios.card.messages"
    assert messages(None) == [
        (f"{line}.paid.email", "payment_received", line),
        (f"{line}.dispatch.email", "dispatch_prepared", line),
    ]
    assert messages("dealers") == [(f"{line}.dispatch.email", "dispatch_prepared", f"groups.dealers.{line}")]
    assert messages("quiet") == [(line, [], f"groups.quiet.{line}")]


def test_a_channels_own_texts_are_told_part_by_part() -> None:
    own = rules(
        templates={"payment_received": {"cs": {"subject": "Díky", "text": "Zaplaceno."}}},
        customers={"1042": {"templates": {"payment_received": {"cs": {"subject": "Děkujeme"}}}}},
    )
    found = by_path(own, customer="1042")
    line = "templates.payment_received.cs"
    texts = {path: (one.value, one.line) for path, one in found.items() if path.startswith("templates.")}
    assert texts == {
        f"{line}.subject": ("Děkujeme", f"customers.1042.{line}.subject"),
        f"{line}.text": ("Zaplaceno.", f"{line}.text"),
    }


@pytest.mark.parametrize("method", list(Method))
def test_an_order_is_told_of_its_own_payment_method_alone(method: Method) -> None:
    found = by_path(rules(), method=method)
    named = {path.split(".")[1] for path in found if path.startswith(("placed.", "scenarios."))}
    assert named == {method.value}
    for decision in ("status", "invoice.kind", "messages", "stock", "dispatch.start", "dispatch.waits_for"):
        assert f"scenarios.{method.value}.{decision}" in found


# What groups, customers and the channel may say, each value written as it is told
FLAG = st.booleans()
STATUS = st.sampled_from(["processing", "paid", "ready", "on_hold"])
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "template": st.sampled_from([one.value for one in Template]),
            "moment": st.sampled_from([one.value for one in Moment]),
            "by": st.just("email"),
        }
    ),
    max_size=3,
    unique_by=lambda one: one["moment"],
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


SCENARIO = some(
    change_status=FLAG,
    status=STATUS,
    invoice=some(action=st.sampled_from(["issue", "update", "ignore"]), kind=st.sampled_from(["proforma", "invoice"])),
    messages=MESSAGES,
    stock=st.sampled_from(["deduct", "ignore"]),
    dispatch=some(start=FLAG, waits_for=st.sampled_from([[], ["stock"]]), note=FLAG),
)
PLACED = some(reserve_stock=FLAG, status=st.none() | STATUS, credit_limit=st.sampled_from([None, "0", "25.50"]))
TEXTS = some(subject=st.sampled_from(["", "Thanks"]), sms=st.sampled_from(["", "Paid"]))
PARTS = some(
    placed=some(card=PLACED, bank_transfer=PLACED, cash_on_delivery=PLACED),
    scenarios=some(card=SCENARIO, bank_transfer=SCENARIO, cash_on_delivery=SCENARIO),
    outcomes=some(short=st.sampled_from(["wait", "operator"]), surplus=st.sampled_from(["operator", "refund"])),
    tolerance=some(absolute=st.sampled_from(["0", "1.00"]), percent=st.sampled_from(["0", "2"])),
    conversion=some(rates=st.dictionaries(st.sampled_from(["CZK", "RON"]), st.sampled_from(["2", "0.04"]))),
    money_back=some(refund=some(stop=FLAG, restock=FLAG)),
    holds=some(warn_hours=st.integers(0, 720), capture=st.sampled_from(["operator", "at_once"])),
    balance=some(use=FLAG, credit_limit=st.sampled_from(["0", "100"])),
    connectors=some(carrier=st.sampled_from(["labels", "packeta"])),
    templates=some(payment_received=some(cs=TEXTS, any=TEXTS)),
    reservation_days=st.integers(0, 90),
)


def at(plain: Any, path: str) -> Any:
    """Return what stands at a path. Raises KeyError where nothing does."""
    for name in path.split("."):
        if not isinstance(plain, dict):
            raise KeyError(path)
        plain = cast("dict[str, Any]", plain)[name]
    return plain


def stands(plain: Any, path: str) -> bool:
    try:
        at(plain, path)
    except KeyError:
        return False
    return True


@given(
    whole=PARTS,
    dealers=PARTS,
    single=PARTS,
    group=st.sampled_from([None, "dealers", "others"]),
    customer=st.sampled_from([None, "1042", "7"]),
    method=st.sampled_from(list(Method)),
)
def test_the_value_is_the_one_that_the_steps_use_and_the_line_named_says_it(
    whole: dict[str, Any],
    dealers: dict[str, Any],
    single: dict[str, Any],
    group: str | None,
    customer: str | None,
    method: Method,
) -> None:
    written = document(**whole, groups={"dealers": dealers}, customers={"1042": single})
    channel = parse_rules(written)
    own = channel.for_customer(group=group, customer=customer)
    used, defaults = own.model_dump(mode="json"), rules().model_dump(mode="json")
    narrower = [f"customers.{customer}", f"groups.{group}"]

    messages = f"scenarios.{method.value}.messages"
    found = explain(channel, group=group, customer=customer, method=method)
    for one in found:
        path, value = one.path, one.value
        if path.startswith(f"{messages}."):
            moment, by = path.removeprefix(f"{messages}.").split(".")
            assert {"template": value, "moment": moment, "by": by} in at(used, messages)
            path, value = messages, at(used, messages)
        assert value == at(used, path)

        places = [place for place in [*(f"{above}.{path}" for above in narrower), path] if stands(written, place)]
        assert [line.path for line in one.lines] == places
        if places:
            said = at(written, places[0])
            assert one.line == places[0]
            assert said == value
            assert one.lines[0].said == said
        else:
            assert one.level is Level.DEFAULT
            assert value == at(defaults, path)

    told = {one.path for one in found if one.path.startswith(f"{messages}.")}
    assert told == {f"{messages}.{one['moment']}.{one['by']}" for one in at(used, messages)}
