"""The chain of WooCommerce, YooKassa, Bitrix24, the bank, 1C and CDEK, played once from its first event to its last."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors import load
from domain.rules import ChannelRules, parse_rules

ROOT = Path(__file__).parents[2]
CHAIN = "woocommerce-yookassa"
RULES = ROOT / "deployments" / "rules" / "woocommerce-yookassa-bitrix24-1c-cdek.yaml"
PAGE = ROOT / "docs" / f"{CHAIN}.md"


@dataclass(frozen=True)
class Played:
    """What `kvit demo --chain` did."""

    exit_code: int
    report: dict[str, Any]

    def row(self, number: int, says: str) -> str:
        """Return what proved a row of the document, which must hold."""
        (row,) = (row for row in self.report["rows"] if row["row"] == number and says in row["says"])
        assert row["holds"] is True, row
        return str(row["proof"])


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Play the chain as a user does, with an environment that knows nothing of these tests' Prefect."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVIT_"))}
    ended = subprocess.run(
        [sys.executable, "-m", "deployments", "demo", "--chain", CHAIN, "--json"],
        cwd=tmp_path_factory.mktemp("chain"),
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.stdout, ended.stderr[-3000:]
    return Played(ended.returncode, json.loads(ended.stdout))


def test_every_row_of_the_document_is_proved_and_the_audit_finds_nothing(played: Played) -> None:
    report = played.report
    assert (report["stopped"], report["broken_invariants"]) == (None, [])
    assert {row["row"] for row in report["rows"]} == {18, 19, 20, 21, 22, 23, 24, 34, 38}
    assert [row for row in report["rows"] if row["holds"] is not True] == []
    assert (report["proved"], played.exit_code) == (True, 0)


def test_money_is_held_and_less_is_taken_of_an_order_that_shrank(played: Played) -> None:
    assert "YooKassa holds the money of 4 orders" in played.row(18, "is held")
    assert "W1001 was changed to 2750.00 RUB of 5150.00 held" in played.row(18, "edit the order")
    assert "take {'W1001': ['2750.00'], 'W1002': ['1000.00']}" in played.row(18, "Capture less")


def test_the_tracking_number_is_a_note_to_the_customer(played: Played) -> None:
    assert played.row(19, "tracking number").count("Номер отправления: ") == 2


def test_the_third_day_is_told_to_a_manager_who_puts_it_off(played: Played) -> None:
    assert "Реквизиты для оплаты заказа W1005" in played.row(20, "invoice by e-mail")
    assert "call the customer" in played.row(20, "On day 3")
    assert "nobody is asked to call any more" in played.row(20, "extend")


def test_a_status_follows_between_bitrix24_and_the_shop_without_an_echo(played: Played) -> None:
    proof = played.row(21, "follows in the other")
    assert "ready here and assembled in WooCommerce" in proof
    assert "completed here and WON in Bitrix24" in proof


def test_what_cdek_delivers_is_completed_and_what_it_pays_out_too_little_of_is_listed(played: Played) -> None:
    assert "processing → dispatched → completed" in played.row(23, "Completed")
    assert played.row(34, "discrepancies").endswith("450.00 RUB is still missing")


def test_the_second_receipt_follows_what_was_captured_once_the_goods_are_handed_over(played: Played) -> None:
    proof = played.row(23, "second fiscal receipt")
    assert "'W1001': ['2750.00'], 'W1002': ['1000.00'], 'W1003': [], 'W1004': []" in proof
    assert "W1010, whose delivery was not paid by card, over 650.00" in proof


def test_goods_are_paid_online_and_their_delivery_at_pick_up(played: Played) -> None:
    assert "to collect 350.00 for the delivery and 0.00 for the goods" in played.row(34, "paid for so far")
    assert "W1010 is paid with 1000.00 RUB and completed" in played.row(34, "registry pays the rest")


def test_nothing_is_sent_on_a_hold_that_has_died(played: Played) -> None:
    assert "it names W1004" in played.row(38, "warn")
    assert "CDEK has 0 parcels of it" in played.row(38, "dead hold")


def test_the_pages_kvit_yaml_can_be_loaded_and_has_what_the_rules_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (written,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for name in re.findall(r"\$([A-Z0-9_]+)", written):
        monkeypatch.setenv(name, "aSecretOfATest0123")
    loaded = {one["name"]: load(one, home=tmp_path, where="page") for one in yaml.safe_load(written)["connectors"]}
    rules: ChannelRules = parse_rules(yaml.safe_load(RULES.read_text(encoding="utf-8")))
    used = {rules.connectors.carrier, rules.connectors.shop, rules.connectors.crm, *rules.tells, *rules.follows}
    assert used <= set(loaded)
