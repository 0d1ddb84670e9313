"""Preview on the command line and in a run: shown, counted, and nothing stored."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import yaml
from prefect import State, flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from shop_builders import DEPLOYMENTS, EMAIL, NAME, buy, carry_on, change_rules, pay, steps_of

from domain.rules import ChannelRules, parse_rules
from store import rules
from tasks.installation import Installation
from tasks.preview import preview_rules, show_preview

PROFORMA = {"scenarios": {"card": {"invoice": {"kind": "proforma"}, "dispatch": {"waits_for": ["payment"]}}}}


def changed(**fields: Any) -> dict[str, Any]:
    document = yaml.safe_load((DEPLOYMENTS / "rules" / "cz.yaml").read_text(encoding="utf-8"))
    document["scenarios"]["card"] |= PROFORMA["scenarios"]["card"]
    return document | fields


def kvit(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Give a command as an operator does."""
    return subprocess.run(
        [sys.executable, "-m", "deployments", "rules", "preview", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"KVIT_HOME": str(home), "PATH": "/usr/bin:/bin", "COLUMNS": "400", "HOME": str(home)},
    )


@flow(name="try rules")
async def try_rules(document: dict[str, Any]) -> str:
    from tasks.installation import installation

    return await show_preview(await preview_rules(await installation(), parse_rules(document)))


async def test_what_is_previewed_is_what_then_happens_to_the_next_order(opened: Installation, tmp_path: Path) -> None:
    order = await buy(opened)
    payment = await pay(opened)
    await carry_on("card", payment)
    assert (await steps_of(opened, order))["invoice"]["reference"].startswith("FV")
    file = tmp_path / "cz.yaml"
    file.write_text(yaml.safe_dump(changed(), allow_unicode=True), encoding="utf-8")

    told = await asyncio.to_thread(kvit, opened.home, str(file), "--json")
    printed = await asyncio.to_thread(kvit, opened.home, str(file))

    found = json.loads(told.stdout)
    assert (told.returncode, found["channel"], found["version"], found["orders"]) == (0, "cz", 1, 1)
    assert [one["said"] for one in found["counts"] if one["decision"] == "invoice"] == [
        "1 order would get a proforma instead of an invoice"
    ]
    assert "1 order would get a proforma instead of an invoice" in printed.stdout
    assert "order CZ5001" in printed.stdout
    assert {one["name"] for one in found["differences"]} == {"CZ5001"}
    async with opened.store.read() as connection:
        assert (await rules.current(connection))["cz"].version == 1

    await change_rules(opened, PROFORMA)
    other = await buy(opened, "CZ5002")
    await carry_on("card", await pay(opened, "CZ5002"))
    assert (await steps_of(opened, other))["invoice"]["reference"].startswith("ZF")


async def test_a_run_shows_it_as_a_table_that_says_nothing_personal(opened: Installation) -> None:
    await buy(opened)
    await carry_on("card", await pay(opened))

    state = cast("State[Any]", await cast("Any", try_rules)(changed(), return_state=True))

    said = await cast("Any", state).result()
    assert said == "Of the last 1 order and 1 payment of cz, 1 order would have gone otherwise."
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    async with get_client() as client:
        (artifact,) = await client.read_artifacts(artifact_filter=chosen)
    assert (artifact.key, said in (artifact.description or "")) == ("rules-preview", True)
    rows = json.loads(cast("str", artifact.data))
    assert {
        "what": "order CZ5001",
        "decision": "invoice",
        "now": "an invoice",
        "then": "a proforma",
        "when": "",
    } in rows
    assert not any(secret in f"{rows}{artifact.description}" for secret in (NAME, EMAIL))


async def test_what_cannot_be_previewed_is_refused_in_a_sentence(opened: Installation, tmp_path: Path) -> None:
    file = tmp_path / "cz.yaml"
    file.write_text(yaml.safe_dump(changed(currency="XXQ"), allow_unicode=True), encoding="utf-8")
    wrong = await asyncio.to_thread(kvit, opened.home, str(file))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith(f"kvit: {file}: currency: ")
    fresh = await preview_rules(opened, ChannelRules.model_validate(changed(channel="fresh")))
    assert fresh.said == "Channel fresh is new, so it has no history to preview the rules on."
