"""What customers, senders and files say, printed on an operator's terminal: shown, and never obeyed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments import shown
from deployments.cli import app

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deployments" / "rules" / "cz.yaml"
ESCAPE, CSI, OVERRIDE = "\x1b[2J", "\x9b2J", "\u202egnp.exe"
STEERING = [ESCAPE, CSI, OVERRIDE, "\x07", "\x08", "\r", "\u2066", "\u200f", "\ufeff", "\u2028", "\U000e0041", "\x7f"]
RICH = "[link=https://evil.example]click[/link][bold red]:smile:"

Kvit = Callable[..., str]


def steers(text: str) -> list[str]:
    return [ascii(letter) for letter in text if not letter.isprintable() and letter != "\n"]


@pytest.fixture
def kvit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kvit:
    """Return a function that calls kvit in a folder of its own, with rules, and returns what it printed."""
    monkeypatch.setenv("KVIT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        app([*arguments], exit_on_error=False, print_error=False, result_action="return_value")
        return capsys.readouterr().out

    call("rules", "apply", str(RULES))
    return call


def order(**fields: Any) -> dict[str, Any]:
    return {
        "number": "CZ1",
        "channel": "cz",
        "method": "card",
        "placed_at": "2026-11-02T08:00:00Z",
        "currency": "CZK",
        "total": "100.00",
        "customer": {"number": "C1", "name": "Jana"},
        "lines": [{"title": "Čaj", "quantity": 1, "unit_price": "100.00"}],
        **fields,
    }


def test_an_order_is_shown_as_text_whatever_is_in_it(kvit: Kvit, tmp_path: Path) -> None:
    # Control characters are refused when an order is taken in; direction characters belong to some scripts.
    hostile = f"{OVERRIDE}{RICH}\u2066"
    line = {"title": hostile, "sku": RICH, "quantity": 1, "unit_price": "100.00"}
    document = order(customer={"number": hostile, "name": hostile}, lines=[line])
    (tmp_path / "orders.json").write_text(json.dumps([document]), encoding="utf-8")
    assert "1 new" in kvit("orders", "import", "orders.json")

    for said in (kvit("orders", "show", "CZ1"), kvit("orders", "list")):
        assert "CZ1" in said
        assert steers(said) == []
    assert RICH in kvit("orders", "show", "CZ1")

    printed = kvit("orders", "show", "CZ1", "--json")
    assert steers(printed) == []
    assert json.loads(printed)["lines"][0]["title"] == hostile


def test_an_article_is_not_counted_under_a_number_with_unseen_letters(kvit: Kvit, tmp_path: Path) -> None:
    (tmp_path / "stock.csv").write_text("sku,title,on_hand\nTEA\u200b1,x,5\nTEA1,x,5\n", encoding="utf-8")
    said = kvit("stock", "import", "stock.csv", "--json")
    assert json.loads(said)["new"] == 1
    assert "can't be seen" in json.loads(said)["refused"][0]["reason"]


def test_a_payment_is_shown_as_text_whatever_the_payer_wrote(kvit: Kvit, tmp_path: Path) -> None:
    for place, letter in enumerate(STEERING):
        text = f"{letter}{RICH}".replace("\r", "\x0b")  # a carriage return ends a row of CSV
        row = f"2026-11-21,1{place:02}.00,CZK,B-{place},{text},{text}\n"
        (tmp_path / "bank.csv").write_text(
            f"booked_on,amount,currency,bank_reference,payer_name,remittance\n{row}", encoding="utf-8", newline=""
        )
        for command in (("read",), ("read", "--json"), ("import",)):
            assert steers(kvit("payments", command[0], "bank.csv", *command[1:])) == [], ascii(letter)
    for identifier in range(1, 1 + len(STEERING)):
        for arguments in (("show", str(identifier)), ("show", str(identifier), "--json")):
            said = kvit("payments", *arguments)
            assert steers(said) == []
            assert RICH in said
    assert steers(kvit("payments", "list")) == []
    assert steers(kvit("payments", "list", "--json")) == []


def test_a_second_line_of_a_message_can_not_pass_for_a_line_of_ours(
    kvit: Kvit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del kvit, tmp_path
    shown.pairs([("Outcome", "unknown"), ("Message", "tea\nOutcome  exact\nPolicy   none")])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Outcome")] == ["Outcome  unknown"]
    assert lines[-1] == "         Policy   none"


@pytest.mark.parametrize("letter", STEERING, ids=ascii)
def test_json_has_the_same_content_and_nothing_that_steers(letter: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = {f"key{letter}": [f"a{letter}b", "é\u00a0 “x” \U0001f600"]}
    shown.as_json(document)
    printed = capsys.readouterr().out
    assert steers(printed) == []
    assert json.loads(printed) == document
    assert "é" in printed


def test_a_defect_of_ours_is_told_by_its_place_and_quotes_nobody(kvit: Kvit, tmp_path: Path) -> None:
    (tmp_path / "orders.json").write_text(json.dumps([order()]), encoding="utf-8")
    kvit("orders", "import", "orders.json")
    with sqlite3.connect(tmp_path / "home" / "kvit.sqlite") as damaged:
        damaged.execute("UPDATE orders SET method = 'Alena Dvořáková'")
    told = run(tmp_path, "orders", "show", "CZ1")
    assert told.returncode == 70
    assert "unexpected ValueError: a defect of Kvit, at" in told.stderr.decode()
    assert "store/orders.py" in told.stderr.decode()
    assert "Alena" not in (told.stderr + told.stdout).decode()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVIT_"))}
    return subprocess.run(
        [sys.executable, "-m", "deployments", *arguments],
        env=environment | {"PYTHONPATH": str(ROOT), "KVIT_HOME": str(folder / "home"), "PYTHONUTF8": "1"},
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=120,
    )


def test_what_is_told_on_standard_error_steers_nothing_either(tmp_path: Path) -> None:
    for arguments in (["orders", "show", f"CZ{ESCAPE}{OVERRIDE}"], ["orders", "import", f"{ESCAPE}.json"]):
        told = run(tmp_path, *arguments)
        assert told.returncode == 2
        said = told.stderr.decode()
        assert "[2J" in said
        assert steers(said) == []
