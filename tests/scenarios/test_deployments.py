"""What an operator starts by hand or by schedule: every deployment loads, and its form says what each field is."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from prefect import State, get_client
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from shop_builders import buy

from deployments.serve import deployments
from flows.scenarios import SCENARIOS
from tasks.installation import Installation

ROOT = Path(__file__).parents[2]
STANZAS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
NAMES = [str(stanza["name"]) for stanza in STANZAS]
FLOW_FILES = sorted(path for path in (ROOT / "flows").glob("*.py") if path.name != "__init__.py")


def stanza_of(name: str) -> dict[str, Any]:
    return next(stanza for stanza in STANZAS if stanza["name"] == name)


def load(name: str) -> Flow[..., Any]:
    """Load a deployment's flow as a worker does; `prefect deploy` itself would accept one that can't be imported."""
    path, _, function = str(stanza_of(name)["entrypoint"]).partition(":")
    return load_flow_from_entrypoint(f"{ROOT / path}:{function}", use_placeholder_flow=False)


@pytest.fixture(scope="module")
def served() -> dict[str, RunnerDeployment]:
    return {deployment.name: deployment for deployment in deployments()}


@pytest.mark.parametrize("name", NAMES)
def test_the_entrypoint_of_a_deployment_loads(name: str) -> None:
    loaded = load(name)
    assert loaded.name == name
    assert loaded.description


def fields(schema: dict[str, Any], path: str, definitions: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every field of a form with its path, those of nested models and lists included."""
    for name, property_ in cast("dict[str, dict[str, Any]]", schema.get("properties", {})).items():
        yield f"{path}{name}", property_
        inner = [property_, property_.get("items", {}), *property_.get("allOf", []), *property_.get("anyOf", [])]
        for part in inner:
            if "$ref" in part:
                yield from fields(definitions[part["$ref"].rpartition("/")[2]], f"{path}{name}.", definitions)


@pytest.mark.parametrize("name", NAMES)
def test_each_field_of_a_deployments_form_has_a_title_and_says_what_it_is_for(name: str) -> None:
    schema = parameter_schema(load(name)).model_dump()
    found = dict(fields(schema, "", schema["definitions"]))
    for path, field in found.items():
        last = path.rpartition(".")[2]
        assert field.get("title"), path
        assert field["title"] != last, path
        assert len(field.get("description", "")) > 10, path
    # Whatever is started by hand can be started as its form stands.
    assert not schema["required"]
    if name == "backfill":
        inner = {"channel", "status", "scenario", "placed_from", "placed_to", "numbers"}
        own = {"selection", "dry_run", "notify", "author", "because", "resume", "shards", "rates"}
        assert set(found) == own | {f"selection.{field}" for field in inner}


def test_reconciliation_and_pulling_of_payments_are_scheduled(served: dict[str, RunnerDeployment]) -> None:
    (daily,) = served["reconcile"].schedules or []
    (often,) = served["pull payments"].schedules or []
    assert isinstance(daily.schedule, CronSchedule)
    assert (daily.schedule.cron, daily.schedule.timezone) == ("0 6 * * *", "UTC")
    assert isinstance(often.schedule, IntervalSchedule)
    assert timedelta(minutes=1) <= often.schedule.interval <= timedelta(minutes=15)
    assert daily.active
    assert often.active


def test_the_operators_queue_is_looked_at_every_hour_and_payments_are_resolved_by_hand(
    served: dict[str, RunnerDeployment],
) -> None:
    (hourly,) = served["unmatched payments"].schedules or []
    assert isinstance(hourly.schedule, CronSchedule)
    assert (hourly.schedule.cron, hourly.schedule.timezone, hourly.active) == ("0 * * * *", "UTC", True)
    assert not served["resolve payment"].schedules
    schema = parameter_schema(load("resolve payment")).model_dump()
    assert schema["definitions"]["Decision"]["enum"] == ["to orders", "balance", "refund", "ignore", "match again"]


def test_a_backfill_is_started_by_hand_and_begins_as_a_dry_run_without_messages(
    served: dict[str, RunnerDeployment],
) -> None:
    assert not served["backfill"].schedules
    schema = parameter_schema(load("backfill")).model_dump()
    assert schema["properties"]["dry_run"]["default"] is True
    assert schema["properties"]["notify"]["default"] is False


def test_what_is_served_on_one_machine_is_what_prefect_yaml_declares(served: dict[str, RunnerDeployment]) -> None:
    assert list(served) == NAMES
    for stanza in STANZAS:
        deployment = served[stanza["name"]]
        path, _, function = stanza["entrypoint"].partition(":")
        assert deployment.entrypoint == f"{ROOT / path}:{function}"
        assert deployment.description == stanza["description"].strip()
        assert deployment.tags == stanza["tags"]
        assert len(deployment.schedules or []) == len(stanza.get("schedules", []))


# Flow files.


@pytest.mark.parametrize("file", FLOW_FILES, ids=lambda file: file.stem)
def test_a_flow_file_is_named_like_no_standard_module_and_defines_no_class(file: Path) -> None:
    assert file.stem not in sys.stdlib_module_names
    # Prefect can load a file twice under two names; two classes of one name then are not the same.
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert ast.get_docstring(tree)


def _flows_in(file: Path) -> list[ast.AsyncFunctionDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        node
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef)
        and any(isinstance(d, ast.Call) and ast.unparse(d.func) == "flow" for d in node.decorator_list)
    ]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_docstring_of_a_scenario_is_its_line_of_arrows(scenario: str) -> None:
    flow, _ = SCENARIOS[scenario]
    said = (flow.description or "").partition("\n")[0]
    assert said.count("→") >= 2
    assert said.endswith(".")


def test_a_flow_says_what_it_is_and_has_a_name_that_operators_read() -> None:
    found = [node for file in FLOW_FILES for node in _flows_in(file)]
    assert len(found) >= len(SCENARIOS) + len(STANZAS)
    for node in found:
        assert ast.get_docstring(node), node.name


@pytest.mark.parametrize(
    ("name", "form", "run"),
    [
        ("revert", {"orders": ["CZ5001"]}, "revert · CZ5001"),
        ("revert", {"orders": ["CZ5001", "CZ5002"]}, "revert · 2 orders"),
        ("resolve step", {"order": "CZ5001", "step": "dispatch"}, "resolve step · CZ5001"),
        ("resolve payment", {"payment": 17, "orders": ["CZ5001"]}, "resolve payment · 17"),
        ("resolve payment", {}, "resolve payment · no payment"),
        ("unmatched payments", {}, "unmatched payments"),
        ("audit", {}, "audit"),
        ("reconcile", {"days": 7}, "reconcile · 7 days"),
    ],
)
async def test_a_run_is_named_by_what_the_operator_asked_for(
    opened: Installation, name: str, form: dict[str, Any], run: str
) -> None:
    for number in ("CZ5001", "CZ5002"):
        await buy(opened, number)
    state: State[Any] = await cast("Any", load(name))(**form, return_state=True)
    assert state.state_details.flow_run_id is not None
    async with get_client() as client:
        assert (await client.read_flow_run(state.state_details.flow_run_id)).name == run
