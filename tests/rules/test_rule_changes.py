"""What differs between two versions of a document: each line once, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.rule_changes import rule_changes

leaves = st.integers(0, 3) | st.lists(st.integers(0, 2), min_size=1, max_size=2)
documents = st.dictionaries(
    st.sampled_from("abc"),
    leaves | st.dictionaries(st.sampled_from("xyz"), leaves, min_size=1, max_size=3),
    max_size=3,
)


def lines(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document's lines by their path."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            found |= {f"{key}.{below}": leaf for below, leaf in lines(value).items()}  # pyright: ignore[reportUnknownArgumentType]
        else:
            found[key] = value
    return found


@given(documents)
def test_a_document_does_not_differ_from_itself(document: dict[str, Any]) -> None:
    assert rule_changes(document, document) == []


@given(documents, documents)
def test_the_lines_that_differ_lead_from_one_document_to_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    old, new = lines(before), lines(after)
    for path, was, becomes in rule_changes(before, after):
        for known, value in ((old, was), (new, becomes)):
            # A part that takes the place of a single value is shown whole.
            said = lines({path: value}) if value is not None else {}
            assert {one: known.pop(one) for one in said} == said
    assert old == new


CHANGES: list[tuple[dict[str, Any], dict[str, Any], list[tuple[str, Any, Any]]]] = [
    ({"a": 1}, {"a": 2}, [("a", 1, 2)]),
    ({}, {"scenarios": {"card": {"status": "paid"}}}, [("scenarios.card.status", None, "paid")]),
    ({"groups": {"vip": {"grace_days": 9}}}, {}, [("groups.vip.grace_days", 9, None)]),
    ({"accounts": ["1", "2"]}, {"accounts": ["2", "1"]}, [("accounts", ["1", "2"], ["2", "1"])]),
    ({"a": {}}, {"a": {"x": 1}}, [("a", {}, {"x": 1})]),
]


@pytest.mark.parametrize(("before", "after", "changes"), CHANGES)
def test_a_change_names_its_line(
    before: dict[str, Any], after: dict[str, Any], changes: list[tuple[str, Any, Any]]
) -> None:
    assert rule_changes(before, after) == changes
