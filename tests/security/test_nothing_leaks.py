"""What must stay in the shop's own database: a whole run of the sample shop, and a look into everything it left behind.

The strings to look for are those of the sample itself and of the installation's kvit.yaml. That each would be found is
proved by finding it where it belongs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml

from connectors import load
from connectors.statements import read_statement
from deployments.processes import free_port
from web import signature

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "deployments" / "sample"
UP_S = 400
INTRUDER = {
    "name": "Kunhuta Přemyslovna",
    "email": "kunhuta@example.net",
    "street": "Na Příkopě 1278/77",
    "message": "pro babičku Kunhutu k narozeninám",
    "account": "CZ1299100000000199887766",
}
"""Somebody who is in what was refused alone: a bad order, a bad webhook, a bad row of a statement."""


@dataclass(frozen=True)
class Left:
    """What a run left behind: its folder, what its processes said, and Prefect's files while it was still up."""

    home: Path
    said: bytes
    hot: dict[str, bytes]

    @property
    def settings(self) -> dict[str, Any]:
        return yaml.safe_load((self.home / "kvit.yaml").read_text(encoding="utf-8"))

    def outside(self) -> Iterator[tuple[str, bytes]]:
        """Yield all that isn't the shop's own, with a name: each file of Prefect and of logs, and each row."""
        yield "what the processes said", self.said
        yield "run.json", self.hot["run.json"]
        yield from self.hot.items()
        for file in [*(self.home / "prefect").rglob("*"), *(self.home / "logs").rglob("*")]:
            if file.is_file():
                yield str(file.relative_to(self.home)), file.read_bytes()
        yield "the rows of Prefect's database", rows(self.home / "prefect" / "prefect.db")

    def inside(self) -> bytes:
        return rows(self.home / "kvit.sqlite")


def rows(database: Path) -> bytes:
    """Return every value of every table: in the file itself a long one can be cut in two by the end of a page."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
        opened.text_factory = bytes
        names = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = [name.decode() for (name,) in names]
        values = (v for table in tables for row in opened.execute(f'SELECT * FROM "{table}"') for v in row)  # noqa: S608
        return b"\n".join(value for value in values if isinstance(value, bytes))


@cache
def written(text: str) -> tuple[bytes, ...]:
    """Return how a text can stand in a file: plain, as JSON once and twice, as Python's bytes, in an address."""
    escaped = json.dumps(text)[1:-1]
    forms = (text, escaped, json.dumps(escaped)[1:-1], repr(text.encode())[2:-1], quote(text))
    return tuple(dict.fromkeys(form.encode() for form in forms))


def found(wanted: Iterable[str], held: bytes) -> list[str]:
    return [text for text in wanted if any(form in held for form in written(text))]


def of_people() -> set[str]:
    """Return all that the sample says of its customers: in their orders, and in what they paid with."""
    told: set[str | None] = set()
    for order in json.loads((SAMPLE / "orders.json").read_text(encoding="utf-8")):
        customer = order["customer"]
        told |= {customer["name"], customer["email"], customer["phone"], *customer.get("accounts", ())}
        for address in (customer["address"], order["delivery"]["address"]):
            told |= {address["name"], address["street"]}
    readers = [load({"name": "x", "type": kind}, home=SAMPLE, where="test") for kind in ("camt", "mt940")]
    readers.append(load({"name": "x", "type": "csv_statement", "account": "x"}, home=SAMPLE, where="test"))
    for file in (SAMPLE / "statements").iterdir():
        if file.is_file():
            read = read_statement(file.read_bytes(), file.name, readers)
            for entry in (entry for statement in read.statements for entry in statement.entries):
                told |= {entry.payer_name, entry.payer_account}
                # A single word is an order's number or a reference, which the log names.
                told |= {line for line in (entry.remittance or "").splitlines() if " " in line}
    return {text for text in told if text}


def secrets_of(settings: dict[str, Any]) -> list[str]:
    (stripe,) = [one for one in settings["connectors"] if one["type"] == "stripe"]
    return [settings["orders_secret"], stripe["api_key"], stripe["webhook_secret"]]


async def _send_what_is_refused(home: Path, url: str) -> None:
    """Send an order, a webhook and a statement that are refused, each with somebody in it, and take no other answer."""
    secret = yaml.safe_load((home / "kvit.yaml").read_text(encoding="utf-8"))["orders_secret"]
    customer = {"number": INTRUDER["name"], "name": INTRUDER["name"], "email": INTRUDER["email"]}
    order = {
        "number": INTRUDER["street"],
        "channel": INTRUDER["email"],
        "method": INTRUDER["name"],
        "status": INTRUDER["name"],
        "total": INTRUDER["account"],
        "customer": customer | {INTRUDER["name"]: INTRUDER["street"]},
        "lines": [{"title": INTRUDER["message"], "quantity": INTRUDER["street"], "unit_price": INTRUDER["account"]}],
    }
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        body = json.dumps([order, INTRUDER["name"]]).encode()
        headers = {"Kvit-Signature": signature.sign(secret, body, datetime.now(UTC))}
        for unsigned, status in ((False, 422), (True, 401)):
            answer = await client.post("/orders", content=body, headers={} if unsigned else headers)
            assert answer.status_code == status
            assert not found(["Kunhuta", INTRUDER["account"]], answer.content.replace(INTRUDER["street"].encode(), b""))
        answer = await client.post(f"/webhooks/stripe?who={INTRUDER['email']}", content=body)
        assert answer.status_code == 401
    row = f"someday,much,CZK,{INTRUDER['account']},{INTRUDER['name']},{INTRUDER['message']}\n"
    statement = home / "inbox" / "late.csv"
    head = "booked_on,amount,currency,payer_account,payer_name,remittance\n"
    statement.write_text(head + row, encoding="utf-8")
    before = time.time() - 60
    os.utime(statement, (before, before))
    async with asyncio.timeout(200):
        while not (home / "inbox" / "refused" / "late.csv.refused.txt").exists():  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.1)


def _bring_up(home: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVIT_"))}
    prefect_port, port = free_port(), free_port()
    command = ["up", "--sample", "--prefect-port", str(prefect_port), "--port", str(port)]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments", *command],
            env=environment | {"PYTHONPATH": str(ROOT), "KVIT_HOME": str(home)},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    return process, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """Bring the sample shop up as a user does, let it work off everything, send it what it refuses, and end it."""
    folder = tmp_path_factory.mktemp("sample")
    home, log = folder / "home", folder / "said"
    process, url = _bring_up(home, log)
    try:
        until = time.monotonic() + UP_S
        while b"Ctrl-C ends everything" not in log.read_bytes():
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.2)
        asyncio.run(_send_what_is_refused(home, url))
        hot = {file.name: file.read_bytes() for file in (home / "prefect").glob("prefect.db*")}
        hot["run.json"] = (home / "run.json").read_bytes()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    return Left(home, log.read_bytes(), hot)


def test_the_run_did_all_that_it_should(left: Left) -> None:
    assert b"Every payment ended as its file says it should" in left.said
    held = dict(left.outside())
    assert {"prefect.db", "prefect.db-wal", "logs/prefect-server.log", "the rows of Prefect's database"} <= held.keys()
    for known in ("CZ1020", "is named by the order number", "FV2026"):
        assert found([known], held["the rows of Prefect's database"])
        assert found([known], held["prefect.db"] + held["prefect.db-wal"])


def test_what_customers_are_called_and_where_they_live_and_pay_from_is_nowhere_but_in_the_shop(left: Left) -> None:
    people = of_people()
    assert len(people) > 300
    assert sorted(found(people, left.inside())) == sorted(people)
    for name, held in left.outside():
        assert not found(people, held), name


def test_no_secret_is_anywhere_but_in_kvit_yaml(left: Left) -> None:
    secrets = secrets_of(left.settings)
    assert found(secrets, (left.home / "kvit.yaml").read_bytes()) == secrets
    for name, held in (*left.outside(), ("the shop's database", left.inside())):
        assert not found(secrets, held), name


def test_what_was_refused_is_not_repeated_in_any_log(left: Left) -> None:
    refused = [*INTRUDER.values(), "Kunhut", "Přemyslovna"]
    assert b"a webhook for stripe was refused" in left.said
    assert b"orders were refused" in left.said
    for name, held in (*left.outside(), ("the shop's database", left.inside())):
        assert not found(refused, held), name


def test_a_text_is_found_however_it_was_written() -> None:
    text = "Údolní 418/12 “u dvora”"
    for form in (text, json.dumps(text), json.dumps(json.dumps({"a": text})), str(text.encode()), f"/?q={quote(text)}"):
        assert found([text], form.encode()) == [text]
    assert found([text], b"") == []


def test_a_value_that_is_cut_by_the_end_of_a_page_is_found(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as made:
        made.execute("CREATE TABLE t (x)")
        made.execute("INSERT INTO t VALUES (?)", ("x" * 4_000 + "y" * 10_000,))
    assert "x" * 4_000 + "y" * 10_000 in rows(tmp_path / "a.db").decode()
