"""The task log: what an operator reads of a run in Prefect, and what must never be in it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
import yaml
from prefect import State, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL
from shop_builders import EMAIL, NAME, PAYER, PHONE, STREET, buy, carry_on, pay, shop

from deployments.sandbox.standin import Misbehavior
from deployments.sandbox.stripe import StripeStandIn
from flows.pull_payments import pull_payments
from tasks.installation import Installation

MARKUP = "[pay](javascript:alert(1))<img src=x>"
"""Prefect's UI reads the cells of a table as Markdown."""
MESSAGE = "za čaj pro tetičku Hedviku"
API_KEY, WEBHOOK_SECRET, ORDERS_SECRET = "sk_test_never_shown", "whsec_never_shown", "orders_never_shown_anywhere"


@dataclass(frozen=True)
class Run:
    """A flow run as Prefect's API has it."""

    run: FlowRun
    tasks: list[str]
    lines: list[str]
    persons: list[str]
    table: list[dict[str, str]]

    @property
    def state(self) -> tuple[str, str | None, str | None]:
        """Type, name and message of the state it ended in."""
        state = self.run.state
        assert state is not None
        return state.type.value, state.name, state.message


async def _flushed() -> None:
    flushing: Any = APILogHandler.aflush()
    await flushing


async def _read(run_id: UUID, *, tasks: int, lines: int) -> Run:
    """Read a run; its tasks and lines reach the API with a delay, so wait until as many as expected are there."""
    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    artifacts = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    await _flushed()
    async with get_client() as client, asyncio.timeout(120):
        run = await client.read_flow_run(run_id)
        wanted = run.state_name == "Needs a person"
        while True:
            found = await client.read_task_runs(flow_run_filter=chosen)
            entries = await client.read_logs(of_run, limit=200)
            of_tasks = [entry.message for entry in entries if entry.name == "prefect.task_runs"]
            of_run_itself = [entry.message for entry in entries if entry.name == "prefect.flow_runs"]
            told = [line for entry in of_tasks for line in entry.splitlines() if " · " in line]
            persons = [line for entry in of_run_itself for line in entry.splitlines() if "needs a person" in line]
            ended = len(found) >= tasks and all(task.state and task.state.is_final() for task in found)
            if ended and len(told) >= lines and len(persons) >= wanted:
                break
            await asyncio.sleep(0.1)
        tables = await client.read_artifacts(artifact_filter=artifacts)
    rows = [json.loads(cast("str", table.data)) for table in tables if table.key == "orders-and-steps"]
    return Run(run, sorted(task.name for task in found), sorted(told), persons, rows[0] if rows else [])


def _id(state: State[Any]) -> UUID:
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


CASES = {
    "one": (7, 7),
    "two": (7, 14),
    "short": (2, 2),
    "unknown": (1, 1),
    "outgoing": (1, 1),
    "no address": (6, 6),
    "no stock": (5, 5),
    "markup": (5, 5),
}
"""How many task runs each case has, and how many lines of orders and payments."""


async def _all(opened: Installation) -> dict[str, Run]:
    for number in ("CZ5001", "CZ5002", "CZ5003", "CZ5004"):
        await buy(opened, number)
    await buy(opened, "CZ5005", delivery={}, customer={"number": "C0901", "name": NAME, "email": EMAIL})
    grinders = {"sku": "GRD-HND-01", "title": "Mlýnek", "quantity": 6, "unit_price": "63.00"}
    await buy(opened, "CZ5006", lines=[grinders])
    packets = {"sku": MARKUP, "title": "Čaj", "quantity": 1, "unit_price": "378.00"}
    await buy(opened, "CZ5007", lines=[packets])
    paid = {
        "one": [await pay(opened, "CZ5001", text=MESSAGE)],
        "two": [await pay(opened, "CZ5002"), await pay(opened, "CZ5003")],
        "short": [await pay(opened, "CZ5004", "100.00")],
        "unknown": [await pay(opened, None, text=MESSAGE)],
        "outgoing": [await pay(opened, None, "-12.00", text=MESSAGE)],
        "no address": [await pay(opened, "CZ5005")],
        "no stock": [await pay(opened, "CZ5006")],
        "markup": [await pay(opened, "CZ5007")],
    }
    ids = {case: _id(await carry_on("card", *paid[case])) for case in CASES}
    return {case: await _read(ids[case], tasks=tasks, lines=lines) for case, (tasks, lines) in CASES.items()}


async def _with_secrets(home: Path) -> dict[str, Run]:
    """Carry on every case, and poll a provider that refuses us, in a shop whose kvit.yaml has secrets in it."""
    async with StripeStandIn(api_key=API_KEY, webhook_secret=WEBHOOK_SECRET) as stripe:
        connector = {
            "name": "stripe",
            "type": "stripe",
            "base_url": stripe.base_url,
            "api_key": API_KEY,
            "webhook_secret": WEBHOOK_SECRET,
        }
        settings = {"orders_secret": ORDERS_SECRET, "connectors": [connector]}
        (home / "kvit.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        stripe.misbehave(Misbehavior.STATUS_BEFORE, status=401, times=None)
        async with shop(home) as opened:
            polled: Any = pull_payments(return_state=True)
            state = cast("State[Any]", await polled)
            assert state.name == "Needs a person"
            return await _all(opened)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, stocked: Path) -> dict[str, Run]:
    """Return what Prefect's API has of a run of each case."""
    home = tmp_path_factory.mktemp("log") / "shop"
    shutil.copytree(stocked, home)
    return asyncio.run(_with_secrets(home))


def test_a_run_is_named_by_what_it_carried_on(log: dict[str, Run]) -> None:
    assert log["one"].run.name == "card · CZ5001"
    assert log["two"].run.name == "card · 2 payments"
    assert log["short"].run.name == "card · CZ5004"
    (payment,) = log["unknown"].run.parameters["payments"]
    assert log["unknown"].run.name == f"card · payment {payment} · unknown"
    assert log["no stock"].run.name == "card · CZ5006 · stock"


def test_a_task_run_is_named_by_its_step_and_its_orders(log: dict[str, Run]) -> None:
    (payment,) = log["one"].run.parameters["payments"]
    steps = ("status", "invoice", "message", "stock", "dispatch", "message dispatch")
    assert log["one"].tasks == sorted([f"match · payment {payment}", *(f"{step} · CZ5001" for step in steps)])
    assert log["two"].tasks == sorted(["match · 2 payments", *(f"{step} · 2 orders" for step in steps)])


WHY = "CZ5001 is named by the order number CZ5001 and the payer's name with the exact amount, and the amount is exact"


def test_each_order_has_a_line_per_step_with_its_reference(log: dict[str, Run]) -> None:
    (payment,) = log["one"].run.parameters["payments"]
    references = {row["Step"]: row["Reference"] for row in log["one"].table}
    assert references["dispatch"].startswith("KV")
    assert log["one"].lines == sorted(
        [
            f"payment {payment} · match · exact · {WHY}",
            "CZ5001 · status · done · new → paid",
            "CZ5001 · invoice · done · FV202600001",
            "CZ5001 · message · done · payment received (cs)",
            "CZ5001 · stock · done · 2 × TEA-SEN-100",
            f"CZ5001 · dispatch · done · {references['dispatch']}",
            "CZ5001 · message dispatch · done · dispatch prepared (cs)",
        ]
    )
    for number in ("CZ5002", "CZ5003"):
        assert len([line for line in log["two"].lines if line.startswith(f"{number} · ")]) == 6


def test_a_table_shows_order_step_result_and_reference(log: dict[str, Run]) -> None:
    (payment,) = log["one"].run.parameters["payments"]
    table = log["one"].table
    assert table[0] == {
        "Order": "CZ5001",
        "Step": f"match payment {payment}",
        "Result": "exact",
        "Reference": f"payment {payment}",
        "Why": WHY,
    }
    assert {(row["Order"], row["Result"]) for row in table[1:]} == {("CZ5001", "done")}
    assert {row["Step"]: row["Reference"] for row in table}["invoice"] == "FV202600001"
    assert len(log["two"].table) == 2 + 2 * 6


def test_the_table_says_why_a_step_needs_a_person(log: dict[str, Run]) -> None:
    (parked,) = [row for row in log["no stock"].table if row["Result"] == "needs a person"]
    assert (parked["Order"], parked["Step"]) == ("CZ5006", "stock")
    assert parked["Why"] == "article GRD-HND-01: 6 needed, 5 free"


def test_markup_in_what_a_shop_wrote_is_taken_for_text_in_the_table(log: dict[str, Run]) -> None:
    (parked,) = [row for row in log["markup"].table if row["Result"] == "needs a person"]
    said = MARKUP.replace("[", "\\[").replace("<", "\\<")
    assert parked["Why"] == f"article {said} is not in stock's list; add it with `kvit stock import`"


def test_the_state_of_a_run_says_in_words_how_it_ended(log: dict[str, Run]) -> None:
    assert log["one"].state == ("COMPLETED", "Done", "1 exact")
    assert log["two"].state == ("COMPLETED", "Done", "2 exact")
    assert log["short"].state == ("COMPLETED", "Waits for the rest", "1 short")
    assert log["outgoing"].state == ("COMPLETED", "Nothing to do", "1 outgoing")
    unknown = (
        "unknown: no reference in the payment names an order that is known; the payer's name and the amount are those "
        "of CZ5004, CZ5005, CZ5006 and CZ5007, which only a person may take"
    )
    assert log["unknown"].state == ("FAILED", "Needs a person", unknown)
    no_stock = "CZ5006 · stock: article GRD-HND-01: 6 needed, 5 free"
    assert log["no stock"].state == ("FAILED", "Needs a person", no_stock)
    kind, name, message = log["no address"].state
    assert (kind, name) == ("FAILED", "Needs a person")
    assert (message or "").startswith("CZ5005 · dispatch: labels: order CZ5005: the delivery address has no name")


def test_the_log_of_a_run_says_what_needs_a_person_and_how_it_is_settled(log: dict[str, Run]) -> None:
    assert log["one"].persons == []
    (payment,) = log["unknown"].run.parameters["payments"]
    (line,) = log["unknown"].persons
    assert line.startswith(f"payment {payment} needs a person · unknown: no reference in the payment names an order")
    assert line.endswith(f" · to do: kvit resolve {payment}, or the form “resolve payment”")
    (payment,) = log["no stock"].run.parameters["payments"]
    (line,) = log["no stock"].persons
    assert line == (
        f"payment {payment} needs a person · CZ5006 · stock: article GRD-HND-01: 6 needed, 5 free"
        " · to do: kvit resolve step CZ5006 stock, or the form “resolve step”"
    )


def test_parameters_are_ids_and_nothing_else(log: dict[str, Run]) -> None:
    for case in log.values():
        assert set(case.run.parameters) == {"payments"}
        assert all(type(id_) is int for id_ in case.run.parameters["payments"])


# What must never be there.


def everything() -> str:
    """Return all that Prefect's database holds, whatever table it is in."""
    file = (PREFECT_SERVER_DATABASE_CONNECTION_URL.value() or "").partition("///")[2]
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [row for table in tables for row in database.execute(f'SELECT * FROM "{table}"')]  # noqa: S608 - its own
    return "\n".join(_text(value) for row in rows for value in row if value is not None)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def written(secret: str) -> Sequence[str]:
    """Return how a text can stand in a database: as it is, as JSON, and as a Python's bytes."""
    return (secret, json.dumps(secret)[1:-1], repr(secret.encode())[2:-1])


@pytest.mark.usefixtures("log")
def test_nothing_personal_and_no_secret_is_anywhere_in_prefect() -> None:
    held = everything()
    for known in ("CZ5001", "FV202600001", "GRD-HND-01: 6 needed", "stripe: answered 401", "payment received (cs)"):
        assert known in held  # else the rest of this test would prove nothing
    personal = [NAME, *NAME.split(), EMAIL, STREET, PHONE, PAYER, MESSAGE, "Hedvik", "602 00"]
    for secret in (*personal, API_KEY, WEBHOOK_SECRET, ORDERS_SECRET, "never_shown"):
        for form in written(secret):
            assert form not in held, secret
