"""`kvit match`, as a person runs it: files in, a line of JSON for each payment out, and nothing stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ACCOUNT = "CZ2799100000001900260111"
RULES = f"""
channel: cz
title: Tea
currency: CZK
seller: {{name: Tea}}
accounts: [{ACCOUNT}]
references: {{order_number: "CZ[0-9]{{4}}"}}
tolerance: {{absolute: 1}}
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


def order(number: str = "CZ1042", total: str = "450.00", **told: Any) -> dict[str, Any]:
    base = {"number": number, "channel": "cz", "currency": "CZK", "total": total, "placed_at": "2026-11-01"}
    return base | {"variable_symbol": number[2:]} | told


def payment(id_: str = "1", amount: str = "450.00", **told: Any) -> dict[str, Any]:
    base = {"id": id_, "source": "bank", "account": ACCOUNT, "amount": amount, "currency": "CZK"}
    return base | {"booked_on": "2026-11-03"} | told


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(orders: list[Any], payments: list[Any], *options: str, as_json: bool = True, piped: bool = False) -> Any:
        for name, rows in (("orders", orders), ("payments", payments)):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            (tmp_path / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        named = [] if "--orders" in options else ["--orders", "orders.jsonl"]
        return subprocess.run(
            [
                *(sys.executable, "-m", "deployments", "match", *named),
                *("--payments", "-" if piped else "payments.jsonl", *options, *(["--json"] if as_json else [])),
            ],
            cwd=tmp_path,
            input=(tmp_path / "payments.jsonl").read_text(encoding="utf-8") if piped else "",
            env={**os.environ, "KVIT_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def answers(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_answer_says_what_was_settled_by_what_evidence_and_why(run: Run) -> None:
    done = run([order()], [payment(variable_symbol="0000001042")])
    assert (done.returncode, done.stderr) == (0, "")
    assert answers(done) == [
        {
            "payment": "1",
            "outcome": "exact",
            "allocations": [{"order": "CZ1042", "amount": "450.00"}],
            "evidence": [
                {"order": "CZ1042", "kind": "variable_symbol", "said": "the variable symbol 1042", "sure": True}
            ],
            "reason": "CZ1042 is named by the variable symbol 1042, and the amount is exact",
        }
    ]


def test_payments_are_decided_in_the_order_of_booking_and_answered_in_the_order_given(run: Run) -> None:
    late = payment("late", variable_symbol="1042", booked_on="2026-11-05")
    early = payment("early", variable_symbol="1042", booked_on="2026-11-04")
    found = answers(run([order()], [late, early]))
    assert [(each["payment"], each["outcome"]) for each in found] == [("late", "duplicate"), ("early", "exact")]


def test_what_is_paid_already_is_no_longer_open(run: Run) -> None:
    found = answers(run([order(paid="200.00")], [payment(amount="250.00", variable_symbol=1042)]))
    assert [each["outcome"] for each in found] == ["exact"]


def test_lines_that_cannot_be_taken_are_told_with_their_place_and_stop_no_other(run: Run) -> None:
    bad = [order("CZ1", total="x"), "{", order(), order(), order("CZ7", variable_symbol="a")]
    done = run(bad, [payment(currency="XXQ"), payment("2", variable_symbol="1042"), payment("3", amout="1.00")])
    assert done.returncode == 1
    assert [each["payment"] for each in answers(done)] == ["2"]
    said = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in said] == [
        *("orders.jsonl, line 1", "orders.jsonl, line 2", "orders.jsonl, line 4", "orders.jsonl, line 5"),
        *("payments.jsonl, line 1", "payments.jsonl, line 3"),
    ]
    assert "total: “x” is not an amount" in said[0]
    assert "CZ1042 is there twice" in said[2]
    assert "variable_symbol: a is not 1 to 10 digits" in said[3]
    assert "“XXQ” is not an ISO 4217 currency code" in said[4]
    assert "amout" in said[5]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [["--rules", "cz.yaml"], ["--rules", "rules"]])
def test_rules_are_a_file_or_a_folder_of_them(run: Run, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "rules").mkdir()
    for file in (tmp_path / "cz.yaml", tmp_path / "rules" / "cz.yaml"):
        file.write_text(RULES, encoding="utf-8")
    found = answers(run([order()], [payment(amount="449.50", message="CZ 1042")], *options))
    assert [(each["outcome"], each["allocations"]) for each in found] == [
        ("within_tolerance", [{"order": "CZ1042", "amount": "449.50"}])
    ]
    elsewhere = payment(account="CZ6508000000192000145399", variable_symbol="1042")
    assert answers(run([order()], [elsewhere], *options))[0]["outcome"] == "unknown"


def test_without_rules_what_looks_like_the_orders_numbers_is_looked_for(run: Run) -> None:
    told = [payment("1", message="obj. cz-1042 z 2.11.2026"), payment("2", message="CZ99", account=None)]
    found = answers(run([order(variable_symbol=None), order("CZ1043")], told))
    assert [each["outcome"] for each in found] == ["exact", "unknown"]


def test_a_payment_that_does_not_say_where_it_arrived_can_have_arrived_anywhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cz.yaml").write_text(RULES, encoding="utf-8")
    told = payment(variable_symbol="1042")
    del told["account"]
    assert answers(run([order()], [told], "--rules", "cz.yaml"))[0]["outcome"] == "exact"


def test_what_can_not_be_read_at_all_is_wrong_use_in_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cz.yaml").write_text("channel: [", encoding="utf-8")
    for options, said in ((["--rules", "cz.yaml"], "cz.yaml, line"), (["--rules", "no.yaml"], "no.yaml: there is no")):
        done = run([order()], [payment()], *options, as_json=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_nothing_is_stored_and_a_table_is_for_people(run: Run, tmp_path: Path) -> None:
    done = run([order()], [payment(variable_symbol="1042"), payment("2")], as_json=False)
    assert done.returncode == 0
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["Outcome", "Payments"],
        ["exact", "1"],
        ["unknown", "1"],
    ]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["orders.jsonl", "payments.jsonl"]


def test_payments_may_come_from_standard_input(run: Run) -> None:
    done = run([order()], [payment(variable_symbol="1042"), "{"], piped=True)
    assert [each["outcome"] for each in answers(done)] == ["exact"]
    assert done.stderr.startswith("standard input, line 2: the line: ")


def test_parts_add_up_and_what_comes_too_late_is_too_much(run: Run) -> None:
    told = [payment(str(day), "150.00", message="CZ1042", booked_on=f"2026-11-0{day}") for day in (4, 3, 2, 1)]
    found = answers(run([order()], told))
    assert [(each["payment"], each["outcome"]) for each in found] == [
        *(("4", "duplicate"), ("3", "exact"), ("2", "short"), ("1", "short")),
    ]
    assert [each["allocations"] for each in found] == [[], *[[{"order": "CZ1042", "amount": "150.00"}]] * 3]


def test_amounts_are_written_with_the_decimals_of_their_currency(run: Run) -> None:
    orders = [order(total="450", currency="JPY"), order("CZ1043", "450.125", currency="KWD")]
    told = [
        payment("1", "200", currency="JPY", message="CZ1042"),
        payment("2", "450.125", currency="KWD", message="CZ1043"),
    ]
    assert [(each["outcome"], each["allocations"]) for each in answers(run(orders, told))] == [
        ("short", [{"order": "CZ1042", "amount": "200"}]),
        ("exact", [{"order": "CZ1043", "amount": "450.125"}]),
    ]


def test_who_paid_is_known_by_the_accounts_that_the_orders_tell_and_never_shown(run: Run) -> None:
    own, shared, company = "CZ6508000000192000145399", "CZ6508000000192000145400", "CZ6508000000192000145401"
    orders = [
        order("CZ1", "100.00", customer={"id": 1, "name": "Jana Nováková", "accounts": [own]}),
        order("CZ2", "200.00", customer={"id": 2, "accounts": [shared]}),
        order("CZ3", "300.00", customer={"id": 3, "accounts": [shared]}),
        order("CZ4", "400.00", customer={"id": 4, "accounts": [company], "group": "lipa"}),
        order("CZ5", "500.00", customer={"id": 5, "group": "lipa"}),
        order("CZ6", "600.00", customer={"id": "", "group": ""}),
        order("CZ7", "700.00", customer={"id": "", "group": "", "accounts": [company]}),
    ]
    told = [
        payment("1", "100.00", payer_account="CZ65 0800 0000 1920 0014 5399", payer_name="Jana Nováková"),
        payment("2", "200.00", payer_account=shared),
        payment("5", "500.00", payer_account=company),
        payment("6", "600.00", payer_account=company),
    ]
    done = run(orders, told)
    assert [(each["outcome"], [part["order"] for part in each["allocations"]]) for each in answers(done)] == [
        *(("exact", ["CZ1"]), ("unknown", []), ("exact", ["CZ5"]), ("unknown", [])),
    ]
    assert not any(personal in done.stdout for personal in ("Nov", own, shared, company, "CZ65"))


def test_several_rules_each_decide_for_their_channel(run: Run, tmp_path: Path) -> None:
    for name in ("cz", "sk"):
        text = RULES.replace("channel: cz", f"channel: {name}").replace("CZ[", f"{name.upper()}[")
        (tmp_path / f"{name}.yaml").write_text(
            text.replace("absolute: 1", "absolute: 5" * (name == "sk") or "percent: 0")
        )
    orders = [order("CZ1042", variable_symbol=None), order("SK1042", channel="sk", variable_symbol=None)]
    told = [payment("1", "446.00", message="CZ1042"), payment("2", "446.00", message="SK1042")]
    found = answers(run(orders, told, "--rules", "cz.yaml", "--rules", "sk.yaml"))
    assert [each["outcome"] for each in found] == ["short", "within_tolerance"]
    (tmp_path / "again.yaml").write_text((tmp_path / "cz.yaml").read_text())
    done = run(orders, told, "--rules", "cz.yaml", "--rules", "again.yaml", as_json=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "channel cz is in cz.yaml too" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rules", "empty"], "kvit: empty: no rules are in it; they are files such as cz.yaml"),
        (["--orders", "no.jsonl"], "kvit: no.jsonl: there is no such file"),
        (["--orders", "long.jsonl"], "kvit: long.jsonl, line 1: it is longer than 1,048,576 bytes"),
    ],
    ids=["no rules in the folder", "no file", "a line without end"],
)
def test_what_can_not_be_opened_is_wrong_use_in_a_sentence(
    run: Run, tmp_path: Path, options: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "long.jsonl").write_bytes(b"x" * 1_048_577)
    done = run([order()], [payment()], *options, as_json=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)


def test_only_the_first_of_many_bad_lines_are_told_and_all_are_counted(run: Run) -> None:
    done = run(["x"] * 57, ["\ufeff" + json.dumps(payment()), ""])
    assert done.returncode == 1
    assert [each["outcome"] for each in answers(done)] == ["unknown"]
    said = done.stderr.splitlines()
    assert len(said) == 51
    assert said[-1] == "and 7 more lines could not be taken"
