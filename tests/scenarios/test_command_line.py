"""The command line as a script sees it: what it prints where, what it stores, and the code it exits with."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from deployments.prefect_server import point_at_prefect

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "deployments" / "sample"
RULES = ROOT / "deployments" / "rules"
CSV = """booked_on,value_date,amount,currency,bank_reference,variable_symbol,payer_name,payer_account,remittance
2026-11-04,2026-11-05,552.00,CZK,B-1,1001,Jana Nováková,CZ6508000000192000145399,čaj
2026-11-06,,-12.50,CZK,,,,,
"""
BAD_ROW = "2026-13-40,,1.00,CZK,B-2,,,,\n"


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a command, without any setting of Prefect's or of Kvit's but these."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "KVIT_"))}
    return {**kept, "KVIT_HOME": str(home), "COLUMNS": "80", **more}


class Kvit:
    """The command `kvit`, run as a process on an installation of its own."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home = home
        self.folder = folder

    def run(self, *arguments: str | Path, stdin: str | bytes = b"", **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command; nothing that it does may end in a traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "deployments", *map(str, arguments)],
            cwd=self.folder,
            env=environment(self.home, PYTHONPATH=str(ROOT), **more),
            input=stdin if isinstance(stdin, bytes) else stdin.encode(),
            capture_output=True,
            check=False,
            timeout=240,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def json(self, *arguments: str | Path, code: int = 0, stdin: str | bytes = b"", **more: str) -> Any:
        """Run a command with --json, and return the one document that it prints."""
        done = self.run(*arguments, "--json", stdin=stdin, **more)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def sentence(self, *arguments: str | Path, code: int = 2, stdin: str | bytes = b"", **more: str) -> str:
        """Run a command that can't be done, and return what it says: nothing on standard output."""
        done = self.run(*arguments, stdin=stdin, **more)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith("kvit: ")
        return done.stderr.removeprefix("kvit: ").rstrip("\n")


@pytest.fixture
def kvit(tmp_path: Path) -> Kvit:
    """Return the command in an empty folder, with an installation that isn't there yet."""
    (tmp_path / "folder").mkdir()
    return Kvit(tmp_path / "home", tmp_path / "folder")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an installation with the sample's rules once."""
    home = tmp_path_factory.mktemp("rules") / "home"
    done = Kvit(home, home.parent).run("rules", "apply", *sorted(RULES.glob("*.yaml")))
    assert done.returncode == 0
    return home


@pytest.fixture
def shop(kvit: Kvit, template: Path) -> Kvit:
    """Return the command on an installation that has the sample's rules."""
    kvit.home.mkdir()
    for file in template.glob("kvit.sqlite*"):
        (kvit.home / file.name).write_bytes(file.read_bytes())
    return kvit


def order(number: str = "A1", **fields: Any) -> dict[str, Any]:
    """Make an order of one line, with the fields given."""
    return {
        "number": number,
        "channel": "cz",
        "method": "card",
        "placed_at": "2026-11-02T08:00:00Z",
        "currency": "CZK",
        "total": "100.00",
        "customer": {"number": "C1", "name": "Jana Nováková"},
        "lines": [{"title": "Čaj", "quantity": 2, "unit_price": "50.00"}],
        **fields,
    }


def write(kvit: Kvit, name: str, content: str | bytes | list[Any]) -> str:
    """Write a file into the command's folder and return its name."""
    data = json.dumps(content).encode() if isinstance(content, list) else content
    (kvit.folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return name


# payments read


def test_reading_a_statement_prints_exactly_the_documented_shape_and_stores_nothing(kvit: Kvit) -> None:
    file = write(kvit, "bank.csv", CSV)

    assert kvit.json("payments", "read", file) == {
        "files": [
            {
                "file": "bank.csv",
                "format": "csv",
                "statements": [
                    {
                        "account": "CSV",
                        "currency": "CZK",
                        "opening": None,
                        "closing": None,
                        "entries": [
                            {
                                "booked_on": "2026-11-04",
                                "value_date": "2026-11-05",
                                "amount": "552.00",
                                "currency": "CZK",
                                "bank_reference": "B-1",
                                "end_to_end_id": None,
                                "variable_symbol": "1001",
                                "payer_name": "Jana Nováková",
                                "payer_account": "CZ6508000000192000145399",
                                "remittance": "čaj",
                            },
                            {
                                "booked_on": "2026-11-06",
                                "value_date": None,
                                "amount": "-12.50",
                                "currency": "CZK",
                                "bank_reference": None,
                                "end_to_end_id": None,
                                "variable_symbol": None,
                                "payer_name": None,
                                "payer_account": None,
                                "remittance": None,
                            },
                        ],
                    }
                ],
                "refused": [],
            }
        ]
    }
    assert not kvit.home.exists()


def test_reading_gives_the_keys_in_the_documented_order(kvit: Kvit) -> None:
    file = kvit.json("payments", "read", SAMPLE / "statements" / "cz-camt053.xml")["files"][0]

    assert list(file) == ["file", "format", "statements", "refused"]
    assert list(file["statements"][0]) == ["account", "currency", "opening", "closing", "entries"]
    assert list(file["statements"][0]["entries"][0]) == [
        "booked_on",
        "value_date",
        "amount",
        "currency",
        "bank_reference",
        "end_to_end_id",
        "variable_symbol",
        "payer_name",
        "payer_account",
        "remittance",
    ]
    assert (file["statements"][0]["opening"], file["statements"][0]["closing"]) == ("184250.40", "197019.98")


def test_a_bad_row_is_listed_beside_the_good_ones_and_exits_1(kvit: Kvit) -> None:
    file = kvit.json("payments", "read", write(kvit, "bank.csv", CSV + BAD_ROW), code=1)["files"][0]

    assert [entry["amount"] for entry in file["statements"][0]["entries"]] == ["552.00", "-12.50"]
    assert [list(refusal) for refusal in file["refused"]] == [["where", "reason"]]
    assert "4" in file["refused"][0]["where"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.xml", None, "there is no such file"),
        ("folder.xml", "folder", "it is a folder; name a file in it"),
        ("empty.xml", b"", "the file is empty"),
        ("orders.json", b"[]", "of no format that is set up here"),
        ("binary.sta", bytes(range(256)), "binary data"),
    ],
)
def test_a_file_of_which_nothing_can_be_read_is_a_refusal_in_the_same_shape_and_exits_2(
    kvit: Kvit, name: str, content: bytes | str | None, reason: str
) -> None:
    if content == "folder":
        (kvit.folder / name).mkdir()
    elif isinstance(content, bytes):
        write(kvit, name, content)

    file = kvit.json("payments", "read", name, code=2)["files"][0]

    assert (file["file"], file["format"], file["statements"]) == (name, "unknown", [])
    assert [refusal["where"] for refusal in file["refused"]] == ["whole file"]
    assert reason in file["refused"][0]["reason"]


def test_a_bad_file_among_good_ones_exits_1(kvit: Kvit) -> None:
    good = write(kvit, "bank.csv", CSV)

    files = kvit.json("payments", "read", good, "missing.xml", code=1)["files"]

    assert [(file["file"], len(file["statements"]), len(file["refused"])) for file in files] == [
        ("bank.csv", 1, 0),
        ("missing.xml", 0, 1),
    ]


def test_a_statement_can_come_from_standard_input(kvit: Kvit) -> None:
    assert kvit.json("payments", "read", "-", stdin=CSV)["files"][0]["format"] == "csv"


def test_reading_a_statement_needs_neither_prefect_nor_pandas(kvit: Kvit) -> None:
    file = write(kvit, "bank.csv", CSV)
    code = (
        "import sys; from deployments.cli import main; assert main() == 0; "
        "print([name for name in ('prefect', 'pandas') if name in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, "payments", "read", file],
        cwd=kvit.folder,
        env=environment(kvit.home, PYTHONPATH=str(ROOT)),
        capture_output=True,
        check=True,
        text=True,
    )

    assert done.stderr.strip() == "[]"


# payments import, list, show


def test_a_statement_imported_twice_is_stored_once(shop: Kvit) -> None:
    file = write(shop, "bank.csv", CSV)
    counts: dict[str, Any] = {"file": "bank.csv", "format": "csv", "entries": 2, "refused": []}

    assert shop.json("payments", "import", file) == {"files": [{**counts, "new": 2, "already_known": 0}]}
    assert shop.json("payments", "import", file) == {"files": [{**counts, "new": 0, "already_known": 2}]}
    assert [(one["id"], one["amount"]) for one in shop.json("payments", "list")["payments"]] == [
        (1, "552.00"),
        (2, "-12.50"),
    ]


def test_importing_says_what_was_refused_and_exits_as_reading_does(shop: Kvit) -> None:
    bad = write(shop, "bank.csv", CSV + BAD_ROW)

    imported = shop.json("payments", "import", bad, "missing.sta", code=1)["files"]
    nothing = shop.json("payments", "import", "missing.sta", code=2)["files"]

    assert [(one["new"], len(one["refused"])) for one in imported] == [(2, 1), (0, 1)]
    assert nothing == [
        {
            "file": "missing.sta",
            "format": "unknown",
            "entries": 0,
            "new": 0,
            "already_known": 0,
            "refused": [{"where": "whole file", "reason": "there is no such file"}],
        }
    ]


def test_payments_are_listed_by_state_and_shown_one_by_one(shop: Kvit) -> None:
    shop.run("payments", "import", write(shop, "bank.csv", CSV))

    assert len(shop.json("payments", "list", "--state", "new", "--limit", "1")["payments"]) == 1
    assert shop.json("payments", "list", "--unmatched") == {"payments": []}
    one = shop.json("payments", "show", "1")
    assert (one["amount"], one["outcome"], one["variable_symbol"], one["allocations"]) == ("552.00", None, "1001", [])
    assert shop.sentence("payments", "show", "99") == "there is no payment 99"
    assert "Choose from" in shop.sentence("payments", "list", "--state", "lost")


# orders


def test_orders_imported_twice_are_stored_once(shop: Kvit) -> None:
    file = SAMPLE / "orders.json"
    counts: dict[str, Any] = {"file": str(file), "refused": []}

    assert shop.json("orders", "import", file) == {**counts, "new": 69, "already_known": 0}
    assert shop.json("orders", "import", file) == {**counts, "new": 0, "already_known": 69}
    told = shop.run("orders", "list").stdout
    assert len(told.splitlines()) == 1 + 69
    assert "\x1b" not in told


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(order()),
        json.dumps([order()]),
        "\ufeff" + json.dumps([order()], indent=2),
        json.dumps(order()) + "\n" + json.dumps(order("A2")) + "\n",
    ],
    ids=["one", "list", "with a byte-order mark", "lines"],
)
def test_orders_are_taken_from_every_form_of_json_on_standard_input(shop: Kvit, text: str) -> None:
    result = shop.json("orders", "import", "-", stdin=text)

    assert result["new"] == text.count('"number": "A')
    assert result["refused"] == []


@pytest.mark.parametrize("separator", [",", ";"])
def test_orders_are_taken_from_csv_with_one_row_per_line(shop: Kvit, separator: str) -> None:
    columns = (
        "number channel method placed_at currency total customer_number customer_name sku title quantity unit_price"
    )
    told = "A1|cz|card|2026-11-02T08:00:00Z|CZK|150.00|C1|Jana Nováková"
    rows = [
        columns.replace(" ", separator),
        *(f"{told}|{line}".replace("|", separator) for line in ("T|Čaj|2|50", "|Pošta|1|50")),
    ]

    assert shop.json("orders", "import", write(shop, "orders.csv", "\n".join(rows)))["new"] == 1

    lines = shop.json("orders", "show", "A1")["lines"]
    assert [(line["sku"], line["title"], line["total"]) for line in lines] == [
        ("T", "Čaj", "100.00"),
        (None, "Pošta", "50.00"),
    ]


def test_a_refused_order_is_named_with_its_place_and_field_and_stops_no_other(shop: Kvit) -> None:
    file = write(
        shop,
        "orders.json",
        [
            order("A1", channel="moon"),
            order("A2", total="99.00"),
            order("A3", currency="EUR"),
            order("A4"),
            order("A5", status="lost"),
            7,
        ],
    )

    result = shop.json("orders", "import", file, code=1)

    assert result["new"] == 1
    assert [(one["where"], one["order"], one["reason"].partition(":")[0]) for one in result["refused"]] == [
        ("orders.json, order 1 (A1)", "A1", "channel “moon” is not known; there is cz, market, planfix, ro, woo"),
        ("orders.json, order 2 (A2)", "A2", "total"),
        ("orders.json, order 3 (A3)", "A3", "currency"),
        ("orders.json, order 5 (A5)", "A5", "status"),
        ("orders.json, order 6", None, result["refused"][4]["reason"].partition(":")[0]),
    ]
    assert [one["number"] for one in shop.json("orders", "list")["orders"]] == ["A4"]


def test_an_order_with_a_bad_row_is_not_taken_by_halves(shop: Kvit) -> None:
    head = "number,channel,method,placed_at,currency,total,customer_number,customer_name,title,quantity,unit_price\n"
    start = ",cz,card,2026-11-02T08:00:00Z,CZK,100.00,C1,Jana,"
    rows = [f"A1{start}Tea,1,100.00", f"A1{start}Gift,1,0.00,what", f"A2{start}Tea,1,100.00", f"A3{start}Tea,x,100.00"]

    result = shop.json("orders", "import", write(shop, "orders.csv", head + "\n".join(rows)), code=1)

    assert result["new"] == 1
    assert [(one["where"], one["reason"].partition(",")[0]) for one in result["refused"]] == [
        ("orders.csv, line 2, order A1", "line 3: it has 12 cells"),
        ("orders.csv, line 5, order A3", "lines.0.quantity: Input should be a valid integer"),
    ]


def test_a_bad_line_of_json_lines_is_refused_and_the_rest_is_taken(shop: Kvit) -> None:
    lines = [json.dumps(order("A1")), '{"number": "A2",', json.dumps(order("A3"))]

    result = shop.json("orders", "import", write(shop, "orders.jsonl", "\n".join(lines)), code=1)

    assert result["new"] == 2
    assert [one["where"] for one in result["refused"]] == ["orders.jsonl, line 2"]


def test_an_order_that_the_database_refuses_is_named_and_all_others_are_stored_whole(shop: Kvit) -> None:
    """One of a list, beside orders that are wrong, that come twice, and whose customer it has too."""
    with closing(sqlite3.connect(shop.home / "kvit.sqlite")) as database:
        database.execute(
            "CREATE TRIGGER refused BEFORE INSERT ON order_lines WHEN NEW.sku = 'BAD' "
            "BEGIN SELECT RAISE(ABORT, 'no such goods'); END"
        )
    bad = {"lines": [{"sku": "BAD", "title": "Čaj", "quantity": 2, "unit_price": "50.00"}]}
    orders = [order(f"A{place}", customer={"number": f"C{place % 7}", "name": f"Jana {place}"}) for place in range(450)]
    orders[1] |= {"channel": "moon"}
    orders[3] |= bad
    orders[230] |= bad
    orders[231] = orders[7]
    file = write(shop, "orders.json", orders)

    result = shop.json("orders", "import", file, code=1)

    assert (result["new"], result["already_known"]) == (446, 1)
    assert [(one["where"], one["reason"].partition(";")[0].partition(":")[0]) for one in result["refused"]] == [
        ("orders.json, order 2 (A1)", "channel “moon” is not known"),
        ("orders.json, order 4 (A3)", "it could not be stored"),
        ("orders.json, order 231 (A230)", "it could not be stored"),
    ]
    with closing(sqlite3.connect(shop.home / "kvit.sqlite")) as database:
        for table in ("orders", "order_lines", "open_items", "status_history"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (446,), table  # noqa: S608
        names = database.execute("SELECT name FROM customers ORDER BY number").fetchall()
    assert names == [(f"Jana {place}",) for place in (448, 449, 443, 444, 445, 446, 447)]
    assert shop.json("orders", "import", file, code=1)["already_known"] == 447


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.json", None, "missing.json: there is no such file"),
        (".", None, ".: it is a folder; name a file in it"),
        ("empty.json", b" \n", "empty.json: it is empty"),
        (
            "latin.csv",
            "number,název\nA1,čaj".encode("cp1250"),
            "latin.csv, line 1: it is not UTF-8 text; save it as UTF-8",
        ),
        ("broken.json", b'[{"number":\n}]', "broken.json, line 2: it is not JSON (Expecting value)"),
        (
            "late.json",
            b"[" + b"{},\n" * 300 + b"{} {}]",
            "late.json, line 301: it is not JSON (Expecting ',' delimiter)",
        ),
        ("more.json", b"[{}\n] []", "more.json, line 2: it is not JSON (Extra data)"),
        ("cut.json", b"[{},\n", "cut.json, line 2: it is not JSON (Expecting value)"),
        ("deep.json", b"[" * 100_000, "deep.json: it is JSON nested too deep, or with numbers too long"),
        ("other.csv", b"name,price\nTea,1", "other.csv, line 1: the name of column 1 is not known"),
        ("half.csv", b"number,channel\nA1,cz", "half.csv, line 1: the column method is missing"),
    ],
)
def test_a_file_that_has_no_orders_exits_2_with_a_sentence(
    kvit: Kvit, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        write(kvit, name, content)

    assert kvit.sentence("orders", "import", name).partition(";")[0] == said.partition(";")[0]
    assert not kvit.home.exists()


def test_orders_before_any_rules_are_refused_with_advice(kvit: Kvit) -> None:
    result = kvit.json("orders", "import", write(kvit, "orders.json", [order()]), code=2)

    assert "kvit rules apply" in result["refused"][0]["reason"]


def test_orders_are_listed_by_their_properties(shop: Kvit) -> None:
    shop.run("orders", "import", SAMPLE / "orders.json")

    def numbers(*options: str) -> list[str]:
        return [one["number"] for one in shop.json("orders", "list", *options)["orders"]]

    assert numbers("--limit", "2") == ["RO2001", "CZ1001"]
    assert numbers("--channel", "cz", "--status", "cancelled") == ["CZ1008", "CZ1031"]
    day = ("--since", "2026-11-02", "--until", "2026-11-02")
    assert numbers("--method", "bank_transfer", "--channel", "cz", *day) == ["CZ1001", "CZ1002", "CZ1008"]
    assert shop.sentence("orders", "list", "--channel", "moon").startswith("channel “moon” is not known")
    assert shop.sentence("orders", "list", "--status", "lost").startswith("status “lost” is not known")


def test_an_order_shows_what_is_to_pay_and_a_number_in_two_channels_asks_which(shop: Kvit) -> None:
    shop.run("orders", "import", "-", stdin=json.dumps([order(), order(channel="market", currency="EUR")]))

    assert shop.sentence("orders", "show", "A1") == (
        "order A1 is in several channels (cz, market); choose one with --channel"
    )
    assert shop.sentence("orders", "show", "B7") == "there is no order B7"
    one = shop.json("orders", "show", "A1", "--channel", "market")
    money = ("total", "paid", "written_off", "to_pay", "difference", "currency")
    assert [one[key] for key in money] == ["100.00", "0.00", "0.00", "100.00", "-100.00", "EUR"]
    assert (one["status"], one["payment_state"]) == ("new", "unpaid")
    assert [(row["before"], row["after"]) for row in one["history"]] == [(None, "new")]
    for nothing_yet in ("payments", "documents", "stock", "messages", "effects"):
        assert one[nothing_yet] == []
    assert one["shipment"] is None


# stock


def test_stock_is_set_to_what_was_counted(shop: Kvit) -> None:
    first = shop.json("stock", "import", write(shop, "stock.csv", "sku,title,on_hand\nA,Tea,5\nB,Cup,1\n"))
    again = shop.json("stock", "import", write(shop, "stock.csv", "sku,on_hand\nA,5\nB,3\nC,x\nA,9\n"), code=1)

    assert first == {"file": "stock.csv", "new": 2, "changed": 0, "unchanged": 0, "refused": []}
    assert (again["new"], again["changed"], again["unchanged"]) == (0, 1, 1)
    assert [one["where"] for one in again["refused"]] == ["stock.csv, line 4", "stock.csv, line 5"]
    assert shop.json("stock", "list")["stock"] == [
        {"sku": "A", "title": "Tea", "on_hand": 5, "reserved": 0, "free": 5},
        {"sku": "B", "title": "Cup", "on_hand": 3, "reserved": 0, "free": 3},
    ]


# rules


def test_rules_are_applied_as_versions_and_shown_as_a_file_that_can_be_applied_again(kvit: Kvit) -> None:
    text = "channel: tea\ntitle: Tea\ncurrency: EUR\nseller: {name: Tea Ltd.}\n"
    file = write(kvit, "tea.yaml", text)

    def apply() -> dict[str, Any]:
        return kvit.json("rules", "apply", file, "--because", "a reason")["channels"][0]

    assert apply() == {"file": "tea.yaml", "channel": "tea", "version": 1, "changed": True}
    assert apply() == {"file": "tea.yaml", "channel": "tea", "version": 1, "changed": False}
    assert kvit.run("rules", "apply", file).stdout == "tea: nothing changed, version 1\n"
    write(kvit, "tea.yaml", text + "tolerance: {absolute: '1.00'}\n")
    assert kvit.run("rules", "apply", file).stdout == "tea: version 2\n"
    shown = kvit.run("rules", "show", "tea").stdout
    assert kvit.run("rules", "apply", "-", stdin=shown).stdout == "tea: nothing changed, version 2\n"
    in_force = kvit.json("rules", "show", "tea")
    assert (in_force["version"], in_force["document"]["tolerance"]) == (2, {"absolute": "1.00"})
    assert [(one["channel"], one["version"]) for one in kvit.json("rules", "list")["channels"]] == [("tea", 2)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "channel: tea\ntitle: Tea\ncurrency: XXX\ncolor: red\n",
            ["currency: “XXX” is not an ISO 4217 currency code", "seller: Field required", "color: Extra inputs"],
        ),
        ("channel: tea\nchannel: coffee\n", ["“channel” is there twice"]),
        ("a: &x [1, 2]\nb: [*x, *x]\n", ["aliases (*) are not taken"]),
        ("channel: [", ["it is not YAML"]),
        ("[" * 100_000, ["it is not YAML"]),
        ("- 1\n", ["Input should be"]),
    ],
    ids=["fields", "a key twice", "aliases", "broken", "deep", "a list"],
)
def test_bad_rules_are_explained_and_nothing_is_stored_even_of_the_good_file(
    kvit: Kvit, text: str, said: list[str]
) -> None:
    good = write(kvit, "good.yaml", "channel: good\ntitle: Good\ncurrency: EUR\nseller: {name: G}\n")

    told = kvit.sentence("rules", "apply", good, write(kvit, "bad.yaml", text)).splitlines()

    assert len(told) == len(said) + 1
    for sentence, part in zip(told, said, strict=False):
        assert "bad.yaml" in sentence
        assert part in sentence
    assert told[-1] == "kvit: nothing was stored"
    assert not kvit.home.exists()


# check, audit


def test_check_names_every_connector_and_what_fails(kvit: Kvit) -> None:
    before = kvit.json("check", code=1)["checks"]
    kvit.run("rules", "apply", RULES / "cz.yaml")
    after = {one["name"]: one["ok"] for one in kvit.json("check")["checks"]}

    assert [one["name"] for one in before if not one["ok"]] == ["rules"]
    assert {"database", "rules", "camt", "mt940", "documents", "labels", "maildir"} <= after.keys()
    assert all(after.values())


def test_check_finds_a_connector_that_rules_name_and_nobody_configured(kvit: Kvit) -> None:
    text = (
        "channel: tea\ntitle: Tea\ncurrency: EUR\nseller: {name: T}\nconnectors: {carrier: pigeon, messenger: camt}\n"
    )
    kvit.run("rules", "apply", write(kvit, "tea.yaml", text))

    failed = [one for one in kvit.json("check", code=1)["checks"] if not one["ok"]]

    assert [one["name"] for one in failed] == ["rules of tea"]
    assert "“pigeon” is not configured" in failed[0]["said"]
    assert "“camt” can't be used as Messenger" in failed[0]["said"]


def test_audit_of_a_new_shop_finds_nothing(shop: Kvit) -> None:
    assert shop.json("audit")["findings"] == []


# Wrong use


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ordrs"], "Did you mean"),
        (["orders", "lst"], "Did you mean"),
        (["orders", "list", "--chanel", "cz"], "Did you mean --channel?"),
        (["orders", "import"], "FILE requires an argument"),
        (["orders", "import", "a", "b"], "too many arguments: b"),
        (["payments", "read", "--jsn"], "Unknown option: --jsn"),
        (["payments", "show", "first"], "unable to convert"),
        (["orders", "list", "--since", "2026-11-03", "--until", "2026-11-02"], "is after"),
        (["orders", "list", "--since", "yesterday"], "unable to convert"),
        (["orders", "list", "--limit", "x"], "unable to convert"),
        (["backfill"], "choose orders by"),
    ],
)
def test_wrong_use_exits_2_with_a_sentence(kvit: Kvit, arguments: list[str], said: str) -> None:
    assert said in kvit.sentence(*arguments)


def test_with_json_an_error_is_a_document_too(shop: Kvit) -> None:
    done = shop.run("orders", "show", "B7", "--json")

    assert (done.returncode, json.loads(done.stdout)) == (2, {"error": "there is no order B7"})
    assert done.stderr == "kvit: there is no order B7\n"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "is not a database URL"),
        ("mysql://host/kvit", "is not a database Kvit can use"),
        ("postgresql://kvit:hidden@127.0.0.1:1/kvit", "can't be opened"),
    ],
)
def test_a_database_that_cannot_be_used_is_said_without_its_password(kvit: Kvit, url: str, said: str) -> None:
    told = kvit.sentence("orders", "list", KVIT_DATABASE_URL=url)

    assert said in told
    assert "hidden" not in told


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://kvit:hidden@127.0.0.1:1/kvit",
        "postgresql://kvit:hidden@no-such-host.invalid/kvit",
        "postgresql://kvit:hidden@127.0.0.1:1/kvit?no_such_option=hidden",
        "postgresql://127.0.0.1:1/kvit?user=kvit&password=hidden",
    ],
)
def test_check_tells_that_the_database_is_wrong_and_never_its_password(kvit: Kvit, url: str) -> None:
    told = kvit.run("check", "--json", KVIT_DATABASE_URL=url)

    assert told.returncode == 2
    assert json.loads(told.stdout)["error"]
    assert "hidden" not in told.stdout + told.stderr
    assert "Traceback" not in told.stderr


def test_a_file_in_the_place_of_the_installation_is_said(kvit: Kvit) -> None:
    kvit.home.write_text("")

    assert kvit.sentence("orders", "list").endswith("it is a file where a folder is needed")


def test_a_broken_configuration_is_said(kvit: Kvit) -> None:
    kvit.home.mkdir()
    (kvit.home / "kvit.yaml").write_text("connectors:\n- {name: bank, type: pigeon}\n")

    assert "type “pigeon” is not known" in kvit.sentence("payments", "read", "bank.csv")


def test_every_command_has_help_and_the_version_is_told(kvit: Kvit) -> None:
    commands = {
        (): (
            "orders",
            "payments",
            "stock",
            "rules",
            "process",
            "backfill",
            "dispatcher",
            "web",
            "up",
            "demo",
            "check",
            "audit",
        ),
        ("orders",): ("import", "list", "show"),
        ("payments",): ("read", "import", "list", "show"),
        ("payouts",): ("list", "show"),
        ("stock",): ("import", "list"),
        ("rules",): ("apply", "list", "show"),
        ("resolve",): ("step", "--to", "--balance", "--refund", "--ignore", "--again", "--because"),
    }
    for group, names in commands.items():
        told = kvit.run(*group, "--help").stdout
        assert all(name in told for name in names)
    assert "--channel" in kvit.run("orders", "show", "--help").stdout
    assert kvit.run("--version").stdout.startswith("kvit ")
    assert not kvit.home.exists()


def test_what_could_steer_a_terminal_is_not_printed(shop: Kvit) -> None:
    shop.run("payments", "import", write(shop, "bank.csv", CSV.replace("čaj", "\x1b[2J[bold]x")))

    told = shop.run("payments", "show", "1").stdout

    assert "\x1b" not in told
    assert "[bold]x" in told


def test_a_reader_that_goes_away_is_no_error(shop: Kvit) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "deployments", "rules", "show", "cz"],
            cwd=ROOT,
            env=environment(shop.home),
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            timeout=240,
        )
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (141, b"")


def test_ctrl_c_ends_a_command_quietly_with_130(shop: Kvit) -> None:
    waiting = subprocess.Popen(
        [sys.executable, "-m", "deployments", "orders", "import", "-"],
        cwd=ROOT,
        env=environment(shop.home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    status = Path(f"/proc/{waiting.pid}/status")
    deadline = time.monotonic() + 240
    # The command has begun when it minds SIGTERM; Python alone does not.
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)

    waiting.send_signal(signal.SIGINT)

    assert waiting.communicate(timeout=240) == (b"", b"")
    assert waiting.returncode == 130


# Carrying on


class Healthy(BaseHTTPRequestHandler):
    """A Prefect server as far as its health."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep quiet."""


def test_a_command_goes_to_the_server_that_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        (tmp_path / "run.json").write_text(json.dumps({"prefect_api_url": url, "web_url": "", "pid": 1}))
        while_up: dict[str, str] = {}
        monkeypatch.setattr(os, "environ", while_up)
        point_at_prefect(tmp_path)
        server.shutdown()
    afterwards: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", afterwards)
    point_at_prefect(tmp_path)

    assert (while_up["PREFECT_API_URL"], while_up["PREFECT_HOME"]) == (url, str(tmp_path / "prefect"))
    assert "PREFECT_API_URL" not in afterwards


@pytest.mark.parametrize("left", ["", "{", "[]", '{"prefect_api_url": 7}', '{"prefect_api_url": "file:///etc/passwd"}'])
def test_what_is_left_of_a_server_that_is_gone_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    (tmp_path / "run.json").write_text(left)
    told: dict[str, str] = {"PREFECT_HOME": "/elsewhere"}
    monkeypatch.setattr(os, "environ", told)

    point_at_prefect(tmp_path)

    assert "PREFECT_API_URL" not in told
    assert told["PREFECT_HOME"] == "/elsewhere"


def test_processing_carries_paid_orders_to_their_end_once_and_tells_what_needs_a_person(shop: Kvit) -> None:
    wanted = {"CZ1001", "CZ1005", "CZ1008", "CZ1020"}
    orders = [one for one in json.loads((SAMPLE / "orders.json").read_text()) if one["number"] in wanted]
    assert shop.json("process")["carried_on"] == 0
    shop.run("stock", "import", SAMPLE / "stock.csv")
    assert shop.json("orders", "import", write(shop, "orders.json", orders))["new"] == 4
    shop.run("payments", "import", SAMPLE / "statements" / "cz-camt053.xml")

    done = shop.json("process", code=1)

    assert done["carried_on"] == 3 + 24
    assert sum(done["outcomes"].values()) == 24
    assert (done["outcomes"]["exact"], done["outcomes"]["short"], done["outcomes"]["late"]) == (1, 1, 1)
    late = [one for one in done["needs_person"] if one["said"].startswith("late")]
    assert [(one["what"], one["order"], "CZ1008" in one["said"]) for one in late] == [("payment", None, True)]
    assert len(shop.json("payments", "list", "--unmatched")["payments"]) == len(done["needs_person"])

    paid = shop.json("orders", "show", "CZ1001")
    assert (paid["payment_state"], paid["paid"], paid["to_pay"], paid["difference"]) == (
        "paid",
        "552.00",
        "0.00",
        "0.00",
    )
    assert [(one["outcome"], one["allocated"], one["evidence"]) for one in paid["payments"]] == [
        ("exact", "552.00", ["the variable symbol 1001", "the payer's name with the exact amount"])
    ]
    assert [one["kind"] for one in paid["documents"]] == ["proforma", "invoice"]
    assert all((shop.home / one["file"]).read_bytes().startswith(b"%PDF") for one in paid["documents"])
    assert paid["shipment"]["tracking_number"]
    assert {one["state"] for one in paid["effects"]} <= {"done", "skipped"}
    short = shop.json("orders", "show", "CZ1005")
    assert (short["payment_state"], short["to_pay"], short["difference"]) == ("part_paid", "119.00", "-119.00")
    cancelled = shop.json("orders", "show", "CZ1008")
    assert [(one["outcome"], one["allocated"]) for one in cancelled["payments"]] == [("late", "0.00")]
    assert "journal" in shop.run("orders", "show", "CZ1001").stdout.lower()

    again = shop.json("process", code=1)
    assert (again["carried_on"], again["outcomes"]) == (0, {})
    assert shop.json("orders", "show", "CZ1001") == paid
    assert shop.json("audit")["findings"] == []


def test_a_backfill_tells_what_it_would_carry_on(shop: Kvit) -> None:
    shop.run("orders", "import", write(shop, "orders.json", [order()]))
    server = PREFECT_API_URL.value()
    assert server

    told = shop.json("backfill", "--order", "A1", "--dry-run", PREFECT_API_URL=server)

    assert (told["dry_run"], told["notify"]) == (True, False)
    assert told["chosen"] == [{"order": "A1", "scenario": "order_placed", "finished": False}]
    assert shop.json("orders", "show", "A1")["effects"] == []
    assert shop.sentence("backfill", "--order", "B7", PREFECT_API_URL=server) == "there is no order B7"
    unheard = shop.sentence("backfill", "--order", "A1", "--rate", "nobody=5/s", PREFECT_API_URL=server)
    assert unheard.startswith("rate “nobody=5/s”: outside system “nobody” is not known; ")


def test_an_order_is_taken_back_by_its_number_after_the_plan_was_shown(shop: Kvit) -> None:
    server = PREFECT_API_URL.value()
    assert server
    orders = json.loads((SAMPLE / "orders.json").read_text())
    wanted = [one for one in orders if one["number"] == "CZ1001"]
    shop.run("stock", "import", SAMPLE / "stock.csv")
    shop.run("orders", "import", write(shop, "orders.json", wanted))
    shop.run("payments", "import", SAMPLE / "statements" / "cz-camt053.xml")
    shop.json("process", code=1, PREFECT_API_URL=server)

    (plan,) = shop.json("revert", "CZ1001", "--plan")["plan"]
    assert {line["step"]: line["way"] for line in plan["effects"]}["invoice"] == "compensable"
    assert "was sent" in shop.run("revert", "CZ1001", "--plan").stdout

    refused = shop.sentence("revert", "CZ1001", "--because", "test", PREFECT_API_URL=server)
    assert refused.endswith("that can't be taken back. Revert the rest all the same with --force")
    assert shop.sentence("revert", "CZ1001", "--force", PREFECT_API_URL=server) == (
        "say why the order is taken back, with --because"
    )
    assert shop.sentence("revert", "CZ9999", "--plan") == "order CZ9999 is not known"

    done = shop.json("revert", "CZ1001", "--because", "paid twice", "--force", PREFECT_API_URL=server)
    assert done["state"] == "Done"
    order = shop.json("orders", "show", "CZ1001")
    assert (order["payment_state"], order["status"], order["to_pay"]) == ("unpaid", "awaiting_payment", "552.00")
    assert [one["kind"] for one in order["documents"]] == ["proforma", "invoice", "credit_note"]
    assert shop.json("audit")["findings"] == []

    (payment,) = plan["payments"]
    assert shop.json("payments", "show", str(payment))["outcome"] == "taken_back"
    assert shop.json("payments", "match", str(payment)) == {"due": [payment]}
    shop.json("process", code=1, PREFECT_API_URL=server)
    assert shop.json("orders", "show", "CZ1001")["payment_state"] == "paid"
    settling = shop.sentence("payments", "match", str(payment))
    assert settling == f"payment {payment} settles CZ1001; take it off first with `kvit revert CZ1001`"
