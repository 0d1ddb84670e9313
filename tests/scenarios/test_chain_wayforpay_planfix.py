"""The chain WayForPay → Planfix, played once as a user plays it; and the page that tells how to set it up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from connectors import load
from connectors.notices import Notices
from deployments.chain import CHAINS, play_chain
from deployments.command import Wrong
from deployments.sandbox.mailbox import MailServer, NoDovecot
from domain.rules import ChannelRules, parse_rules

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "planfix-wayforpay.md"
RULES = ROOT / "deployments" / "rules" / "planfix-wayforpay.yaml"


@dataclass(frozen=True)
class Played:
    """What `kvit demo --chain wayforpay-planfix --json` did."""

    exit_code: int
    report: dict[str, Any]

    def proofs(self, row: int, says: str = "") -> list[str]:
        """Return what proves a row, of those that say something; all of it must hold."""
        found = [one for one in self.report["rows"] if one["row"] == row and says in one["says"]]
        assert all(one["holds"] for one in found), found
        return [one["proof"] for one in found]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVIT_"))}
    ended = subprocess.run(
        [sys.executable, "-m", "deployments", "demo", "--chain", "wayforpay-planfix", "--json"],
        cwd=tmp_path_factory.mktemp("chain"),
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.stdout, ended.stderr[-3000:]
    return Played(ended.returncode, json.loads(ended.stdout))


def no_dovecot() -> str:
    """Say why no mail server runs here, if none does."""
    try:
        with MailServer():
            return ""
    except NoDovecot as error:
        return str(error)


def test_it_comes_to_its_end_and_the_audit_finds_nothing(played: Played) -> None:
    assert played.report["stopped"] is None
    assert played.report["broken_invariants"] == []
    assert {one["row"] for one in played.report["rows"]} == {13, 14, 15, 16, 17}
    failed = [one for one in played.report["rows"] if one["holds"] is False]
    assert failed == []
    left_out = [one for one in played.report["rows"] if one["holds"] is None]
    assert played.report["proved"] is not bool(left_out)
    assert played.exit_code == bool(left_out)


def test_a_notice_by_e_mail_is_read_and_asked_about_and_a_forged_one_moves_nothing(played: Played) -> None:
    if why := no_dovecot():
        pytest.skip(why)
    notice, forged = played.proofs(13)
    for read in ("amount 5000.00", "order PF1001_1", "payment 541963001", "date 2"):
        assert read in notice
    assert "answered 401" in forged
    assert "dkim=pass" in forged
    assert "paid 0.00, difference 9900.00; incomes none" in forged


def test_part_payments_add_up_and_nothing_is_counted_twice(played: Played) -> None:
    sums, late = played.proofs(14)
    assert "5000.00 and 7500.00, 9000.00 and 3500.00, 12500.00 and 0.00" in sums
    assert "incomes 5000.00 + 4000.00 + 3500.00" in late
    repeated, lost = played.proofs(15, "doubles nothing")
    assert "0 times since" in repeated
    assert "polling found the payment" in lost


def test_a_paid_order_goes_into_production_by_itself_and_an_unpaid_one_never(played: Played) -> None:
    (parts,) = played.proofs(15, "nobody confirms")
    assert "new → awaiting_payment → in_production" in parts
    (unpaid,) = played.proofs(15, "without payment")
    assert "task PF1002: Awaiting payment" in unpaid
    (times,) = played.proofs(15, "about a second")
    assert re.search(r"In production in Planfix after \d+\.\d\d s; the same calls made bare take \d+\.\d\d s", times)


def test_planfix_has_comment_entry_and_status_and_what_went_back(played: Played) -> None:
    told, back = played.proofs(16)
    assert "+8400.00 UAH" in told
    assert "payment PF1003, known again by payment:" in told
    assert "paid 12000.00, difference 500.00" in back
    assert "task PF1003: Cancelled" in back


def test_the_report_shows_where_the_delay_is(played: Played) -> None:
    (report,) = played.proofs(17)
    assert "in production → completed: 1, median 2 d, longest PF1005 (2 d)" in report
    assert "longest PF1005 (6 h)" in report


async def test_a_chain_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(Wrong, match=f"there is {', '.join(CHAINS)}"):
        await play_chain("nothing", as_json=False)


# The page


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def ready() -> Any:
    return yaml.safe_load(RULES.read_text(encoding="utf-8"))


def test_the_pages_kvit_yaml_can_be_loaded_and_names_what_the_rules_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load(blocks("yaml")[0])
    for name in re.findall(r"\$([A-Z_]+)", blocks("yaml")[0]):
        monkeypatch.setenv(name, "a-secret-of-a-test")
    made = {stanza["name"]: load(stanza, home=tmp_path, where="the page") for stanza in settings["connectors"]}
    rules = parse_rules(ready())
    assert {rules.connectors.crm, *rules.tells, *rules.follows} <= made.keys()
    account = next(one["account"] for one in settings["connectors"] if one["name"] == "bank")
    assert account.replace(" ", "") in rules.accounts
    letter = (
        "Authentication-Results: mx.shop.example; dkim=pass header.d=wayforpay.com\nFrom: info@wayforpay.com\n"
        "Subject: =?utf-8?b?0KPRgdC/0ZbRiNC90LAg0L7Qv9C70LDRgtCw?=\nContent-Type: text/plain; charset=utf-8\n\n"
        "Замовлення: PF1042_2\nСума: 1 250,00 грн\nДата: 26.11.2026 12:24\nНомер платежу: 541963001\n"
    )
    notices = made["payment-mails"]
    assert isinstance(notices, Notices)
    reading = notices.examine(letter.encode())
    assert {one.field: one.value for one in reading.fields} == {
        "currency": "UAH",
        "amount": "1250.00",
        "date": "2026-11-26",
        "order": "PF1042_2",
        "payment": "541963001",
    }
    assert reading.problems == ()


def test_the_rules_that_the_page_shows_are_those_that_are_ready() -> None:
    assert _is_in(yaml.safe_load(blocks("yaml")[1]), ready())


def _is_in(part: Any, whole: Any) -> bool:
    if isinstance(part, Mapping) and isinstance(whole, Mapping):
        parts, all_ = cast("Mapping[Any, Any]", part), cast("Mapping[Any, Any]", whole)
        return all(name in all_ and _is_in(value, all_[name]) for name, value in parts.items())
    return part == whole


def test_every_way_to_pay_ends_in_production_and_none_begins_there() -> None:
    rules: ChannelRules = parse_rules(ready())
    for scenario in rules.scenarios.all():
        assert (scenario.status, scenario.dispatch.start) == ("in_production", False)
    for placed in (rules.placed.card, rules.placed.bank_transfer, rules.placed.cash_on_delivery):
        assert placed.status == "awaiting_payment"
    assert rules.placed.bank_transfer.deferred_status == "awaiting_payment"
    # Whatever a person does in Planfix, there is a status there to put the task back to.
    assert set(rules.follows["planfix"].values()) <= set(rules.tells["planfix"])
