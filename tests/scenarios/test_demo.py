"""The demonstration: the whole product from nothing, real files through every scenario, and what it reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from domain.scenarios import STEPS

ROOT = Path(__file__).parents[2]
EXPECTED: list[dict[str, Any]] = json.loads(
    (ROOT / "deployments" / "sample" / "expected.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Played:
    """What `kvit demo --json` did."""

    exit_code: int
    report: dict[str, Any]
    errors: str

    @property
    def payments(self) -> list[dict[str, Any]]:
        return self.report["payments"]

    @property
    def orders(self) -> dict[str, dict[str, Any]]:
        return {order["number"]: order for order in self.report["orders"]}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Run the demonstration as a user does, with an environment that knows nothing of these tests' Prefect."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVIT_"))}
    ended = subprocess.run(
        [sys.executable, "-m", "deployments", "demo", "--json"],
        cwd=tmp_path_factory.mktemp("demo"),
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.stdout, ended.stderr[-3000:]
    return Played(ended.returncode, json.loads(ended.stdout), ended.stderr)


def test_the_demonstration_ends_well(played: Played) -> None:
    assert played.exit_code == 0
    assert played.report["as_expected"] is True


def test_what_is_left_to_a_person_is_no_error_in_the_terminal(played: Played) -> None:
    assert any(payment["outcome"] == "unknown" for payment in played.payments)
    assert "Flow run" not in played.errors


def test_every_payment_of_the_sample_ends_as_its_file_says(played: Played) -> None:
    told = [
        (
            payment["source"],
            payment["amount"],
            payment["outcome"],
            sorted((part["order"], part["amount"]) for part in payment["allocations"]),
        )
        for payment in played.payments
    ]
    assert told == [
        (
            line["file"],
            line["amount"],
            line["outcome"],
            sorted(zip(line["orders"], line["allocated"], strict=True)),
        )
        for line in EXPECTED
    ]
    assert len({payment["id"] for payment in played.payments}) == len(EXPECTED)


def test_every_outcome_that_a_payment_can_have_by_itself_is_shown(played: Played) -> None:
    outcomes = Counter(payment["outcome"] for payment in played.payments)
    shown = {"exact", "within_tolerance", "short", "over", "duplicate", "late", "wrong_currency", "ambiguous"}
    assert shown | {"unknown", "refund", "outgoing"} <= set(outcomes)


def test_each_allocation_says_by_what_evidence_it_was_made(played: Played) -> None:
    for payment in played.payments:
        for part in payment["allocations"]:
            assert part["evidence"], payment
            assert all(isinstance(said, str) and said for said in part["evidence"])
    reasons = [payment["why"] for payment in played.payments]
    assert all(reasons)


def test_each_order_is_told_with_its_channel_scenario_status_and_steps(played: Played) -> None:
    orders = played.orders
    assert len(orders) == 69
    assert Counter(order["channel"] for order in orders.values()) == {"cz": 33, "ro": 18, "market": 18}
    steps = {step for known in STEPS.values() for step in known} | {"message incomplete"}
    for order in orders.values():
        assert order["scenario"] in ("card", "bank_transfer", "cash_on_delivery")
        assert order["status"]
        assert set(order["steps_done"]) <= steps
        assert order["steps_done"] == [step["step"] for step in order["steps"] if step["result"] == "done"]


@pytest.mark.parametrize(
    ("number", "document"),
    [
        # match → paid → invoice → message → stock → dispatch
        ("CZ1021", ["match", "status", "invoice", "message", "stock", "dispatch"]),
        # match → message → invoice → status / dispatch
        ("CZ1001", ["match", "message", "invoice", "status", "dispatch"]),
        # delivered unpaid; match → message → invoice
        ("CZ1025", ["dispatch", "match", "message", "invoice"]),
    ],
)
def test_the_steps_of_an_order_are_told_in_the_documents_order(
    played: Played, number: str, document: list[str]
) -> None:
    done = played.orders[number]["steps_done"]
    assert [step for step in done if step in document] == document


def test_what_was_not_paid_was_not_invoiced_and_not_sent_without_collecting(played: Played) -> None:
    paid = {part["order"] for payment in played.payments for part in payment["allocations"]}
    for number, order in played.orders.items():
        if number not in paid:
            assert "invoice" not in order["steps_done"], number
            assert "dispatch" not in order["steps_done"] or order["scenario"] == "cash_on_delivery", number
