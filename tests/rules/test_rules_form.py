"""The form of a channel's rules: all fields are in it, and what was filled in comes into the document, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rules_builders import document

from domain.rules import ChannelRules, RulesError, parse_rules
from tasks.rules_form import Schema, put_in, rules_schema, take_out


def shown(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every field of the form with its path, those of parts and of entries of lists included."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}{name}", field
        for inner in (field, field.get("items", {}), *field.get("anyOf", ())):
            yield from shown(inner, f"{path}{name}.")


FIELDS = dict(shown(rules_schema()))


def at(path: str) -> Schema:
    return FIELDS[path]


def test_each_field_has_a_title_and_a_help_text() -> None:
    assert len(FIELDS) > 100
    for path, field in FIELDS.items():
        assert field["title"].rpartition(" · ")[2] not in ("", path.rpartition(".")[2]), path
        assert len(field["description"]) > 5, path


def test_the_help_text_of_what_is_written_freely_ends_with_an_example() -> None:
    assert at("seller.iban")["description"].endswith(". For example CZ65 0800 0000 1920 0014 5399")
    assert at("conversion.rates")["description"].endswith('. Written as JSON, for example {"EUR": "25.10"}')
    assert ". For example ready. What is listed here takes the place" in at("holds.capture_on")["description"]
    assert "example" not in at("holds.capture")["description"]


def test_only_what_can_be_emptied_and_is_not_empty_by_itself_asks_whether_it_is_to_be() -> None:
    assert [one["title"] for one in at("holds.released_status")["anyOf"]] == ["Write", "Empty"]
    assert at("placed.card.status")["type"] == "string"
    assert at("cases.when.amount_from")["type"] == "number"
    assert at("cases.then.invoice.kind")["enum"] == ["proforma", "invoice"]
    assert at("cases.then.change_status")["enum"] == ["yes", "no"]


def test_all_of_the_document_is_in_it_but_what_the_form_asks_for_by_itself() -> None:
    assert set(rules_schema()["properties"]) == set(ChannelRules.model_fields) - {
        "channel",
        "groups",
        "customers",
        "templates",
    }


def test_enumerations_are_choices_and_parts_are_shut_until_somebody_opens_them() -> None:
    assert at("scenarios.card.invoice.action")["enum"] == ["issue", "update", "ignore"]
    assert at("scenarios.card.dispatch.waits_for")["items"]["enum"] == ["payment", "invoice", "stock"]
    assert at("outcomes.surplus")["enum"] == ["operator", "balance", "refund"]
    assert at("scenarios.card.change_status")["enum"] == ["yes", "no"]
    assert at("scenarios.card")["anyOf"][1]["type"] == "null"
    assert at("scenarios.card")["default"] is None
    assert at("scenarios.card.invoice.action")["title"] == "Scenarios · Card · Invoice · Action"


def test_nothing_that_stays_untouched_is_sent() -> None:
    assert not [path for path, field in FIELDS.items() if field.get("default") is not None]
    assert not rules_schema().get("required")


def test_what_is_filled_in_is_merged_and_all_else_stays_as_it_was() -> None:
    before = document(scenarios={"card": {"status": "paid", "stock": "ignore"}}, reservation_days=5)
    made = put_in(
        before,
        {"scenarios": {"card": {"status": "processing", "change_status": "no", "invoice": None, "dispatch": {}}}},
    )
    assert made["scenarios"] == {"card": {"status": "processing", "stock": "ignore", "change_status": False}}
    assert {**made, "scenarios": None} == {**before, "scenarios": None}
    assert parse_rules(made).scenarios.card.change_status is False
    assert put_in(before, {}) == before


def test_a_list_takes_the_place_of_the_one_before() -> None:
    message = {"template": "payment_received", "moment": "paid"}
    before = document(scenarios={"card": {"messages": [message, {"template": "proforma", "moment": "placed"}]}})
    made = put_in(before, {"scenarios": {"card": {"messages": [message]}}})
    assert made["scenarios"]["card"]["messages"] == [message]


def test_a_value_that_may_be_empty_can_be_emptied_and_a_part_can_not() -> None:
    before = document(holds={"status": "on_hold"})
    assert put_in(before, {"holds": {"status": None}, "tolerance": None})["holds"] == {"status": None}


def test_what_is_for_a_group_or_a_customer_comes_under_its_name() -> None:
    made = put_in(document(), {"reservation_days": 9}, group="wholesale")
    made = put_in(made, {"balance": {"use": "yes"}}, customer="C7")
    assert made["groups"]["wholesale"] == {"reservation_days": 9}
    assert made["customers"] == {"C7": {"balance": {"use": True}}}
    with pytest.raises(RulesError, match="one of them at a time"):
        put_in(document(), {}, group="wholesale", customer="C7")


def test_a_line_is_taken_out_and_a_part_without_lines_with_it() -> None:
    before = document(placed={"card": {"status": "new"}}, groups={"wholesale": {"grace_days": 1}})
    made = take_out(before, ["placed.card.status", " "])
    assert "placed" not in made
    assert "groups" not in take_out(made, ["grace_days"], group="wholesale")
    with pytest.raises(RulesError, match=r"“placed\.card\.statuss” is not written"):
        take_out(before, ["placed.card.statuss"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scenarios": {"card": {"invoice": {"action": "print"}}}}, "scenarios.card.invoice.action"),
        ({"scenarios": {"cards": {}}}, ""),
        ({"scenarios": "card"}, "scenarios"),
        ({"reservation_days": "many"}, "reservation_days"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_can_not_be_read_is_left_to_be_refused_by_the_rules(given: dict[str, Any], said: str) -> None:
    made = put_in(document(), given)
    if said:
        with pytest.raises(RulesError, match=said):
            parse_rules(made)
    else:
        assert made == document()
