"""`kvit rules explain`: what the rules in force decide for a stored order, and by which line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rules_builders import document
from store_builders import NOW, WORKER, place

from deployments.cli_rules import rules_explain
from deployments.command import DONE, Wrong
from store import journal
from tasks.installation import close_installation, open_installation
from tasks.rules import save_rules


@pytest.fixture
async def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an installation with two versions of a channel's rules, and an order of a dealer in two channels."""
    monkeypatch.delenv("KVIT_DATABASE_URL", raising=False)
    monkeypatch.setenv("KVIT_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "400")
    opened = await open_installation(tmp_path)
    try:
        for channel, status in (("shop", "paid"), ("shop", "ready"), ("other", "paid")):
            told = document(
                scenarios={"bank_transfer": {"status": "paid"}},
                groups={"dealers": {"scenarios": {"bank_transfer": {"status": status}}}},
            )
            async with opened.store.write() as connection:
                await save_rules(connection, {**told, "channel": channel}, author="eva", reason="asked", now=NOW)
        order_id = await place(opened.store, "A1", group="dealers", customer_number="7")
        async with opened.store.write() as connection:
            for version in (1, 2):
                done = journal.entry(
                    WORKER, at=NOW, step="invoice", move="done", order_id=order_id, rule_version=version
                )
                await journal.append(connection, [done])
        await place(opened.store, "A2", group="dealers", customer_number="7")
        await place(opened.store, "A2", group="dealers", customer_number="7", channel="other")
    finally:
        await close_installation(opened)


@pytest.mark.usefixtures("home")
async def test_an_order_is_explained_by_the_rules_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    assert await rules_explain("A1", as_json=True) == DONE
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["order"], told["channel"], told["method"]) == ("A1", "shop", "bank_transfer")
    assert (told["group"], told["customer"]) == ("dealers", "7")
    assert (told["goes_by_version"], told["version_in_force"], told["steps_by_earlier_versions"]) == (2, 2, [1])
    decisions = {one["decision"]: one for one in told["decisions"]}
    assert decisions["scenarios.bank_transfer.status"] == {
        "decision": "scenarios.bank_transfer.status",
        "title": "Status after payment",
        "value": "ready",
        "decided_by": "group",
        "line": "groups.dealers.scenarios.bank_transfer.status",
        "instead_of": [{"level": "channel", "path": "scenarios.bank_transfer.status", "said": "paid"}],
    }
    assert (decisions["outcomes.short"]["decided_by"], decisions["outcomes.short"]["line"]) == ("default", None)

    assert await rules_explain("A1") == DONE
    table = capsys.readouterr().out.splitlines()
    (row,) = [one.split() for one in table if one.startswith("scenarios.bank_transfer.status ")]
    assert row == [
        "scenarios.bank_transfer.status",
        "ready",
        "group",
        "groups.dealers.scenarios.bank_transfer.status",
        "channel:",
        "paid",
    ]


@pytest.mark.usefixtures("home")
async def test_a_number_of_several_channels_or_none_is_refused_in_a_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(Wrong, match=r"order A2 is in several channels \(shop, other\); choose one with --channel"):
        await rules_explain("A2")
    with pytest.raises(Wrong, match="there is no order A1 in channel other"):
        await rules_explain("A1", channel="other")
    with pytest.raises(Wrong, match="channel “us” is not known; there is other, shop"):
        await rules_explain("A1", channel="us")

    assert await rules_explain("A2", channel="other", as_json=True) == DONE
    assert json.loads(capsys.readouterr().out)["channel"] == "other"
