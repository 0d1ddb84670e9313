"""A backfill that is killed again and again.

    python tests/faults/backfill.py [--orders 10000] [--kills 3] [--age]

Takes in so many orders, carries them on with `kvit backfill`, kills that process (SIGKILL) in the midst of it so many
times, each time goes on with `kvit backfill --resume`, and prints a JSON document on standard output. Exit 1 when an
order was done twice or not at all, or is missing in the report. --age lets the dead process's leases run out at once,
as if the minute had passed that is waited for otherwise.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_LOOK_S = 0.05
_START_S = 180.0
_ENDED = "SELECT count(*) FROM backfill_items WHERE result IS NOT NULL"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill a backfill in the midst of it, go on with it, and count.")
    parser.add_argument("--orders", type=int, default=10_000, help="so many orders (10000)")
    parser.add_argument("--kills", type=int, default=3, help="so many times (3)")
    parser.add_argument("--age", action="store_true", help="let the leases of what was killed run out at once")
    return parser.parse_args()


class Shop:
    """An installation in a folder, and the commands given to it."""

    def __init__(self, folder: Path, api: str) -> None:
        self.home = folder / "shop"
        self._environment = os.environ | {
            "KVIT_HOME": str(self.home),
            "PREFECT_API_URL": api,
            "PREFECT_HOME": str(folder / "prefect"),
        }

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-c", "from deployments.cli import main; main()", *arguments],
            env=self._environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *arguments: str) -> Any:
        """Give a command, and return the document that it prints."""
        out, _ = self.start(*arguments, "--json").communicate()
        return json.loads(out)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database; what does not exist yet has no rows."""
        with closing(sqlite3.connect(self.home / "kvit.sqlite", timeout=30)) as connection:
            return connection.execute(query).fetchall()

    def age(self) -> None:
        """Let every lease run out."""
        with closing(sqlite3.connect(self.home / "kvit.sqlite", timeout=30)) as connection:
            for table in ("backfills", "backfill_chunks", "effects", "work"):
                connection.execute(
                    f"UPDATE {table} SET lease_until = '2000-01-01 00:00:00.000000' "  # noqa: S608 - names of ours
                    "WHERE lease_until IS NOT NULL"
                )
            connection.commit()


def _orders(count: int) -> list[dict[str, Any]]:
    return [
        {
            "number": f"K{number:06}",
            "channel": "cz",
            "method": "bank_transfer",
            "placed_at": "2026-11-02T08:00:00Z",
            "currency": "CZK",
            "total": "100.00",
            "customer": {"number": f"C{number}", "name": "Jana Nováková"},
            "lines": [{"title": "Čaj", "quantity": 2, "unit_price": "50.00"}],
        }
        for number in range(count)
    ]


def _killed(shop: Shop, process: subprocess.Popen[bytes], beyond: int) -> bool:
    """Kill a process as soon as more than so many orders have ended; False when it ended before."""
    while process.poll() is None:
        if shop.ask(_ENDED)[0][0] > beyond:
            time.sleep(_LOOK_S)  # into the midst of the next chunk
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(_LOOK_S)
    return False


def prepared(folder: Path, api: str, orders: int) -> Shop:
    """Return a shop with rules and so many orders, for which nothing has been done yet."""
    shop = Shop(folder, api)
    shop.home.mkdir()
    (folder / "orders.json").write_text(json.dumps(_orders(orders)), encoding="utf-8")
    shop.run("rules", "apply", str(ROOT / "deployments/rules/cz.yaml"))
    shop.run("orders", "import", str(folder / "orders.json"))
    return shop


def broken(shop: Shop, orders: int, kills: int, *, age: bool) -> dict[str, Any]:
    """Carry orders on, killed so many times, and return what came of it."""
    began, done, states = time.monotonic(), 0, list[str]()
    process = shop.start("backfill", "--channel", "cz", "--json")
    for kill in range(kills):
        if not _killed(shop, process, orders * kill // (kills + 1)):
            break
        done += 1
        states.append(f"{shop.ask(_ENDED)[0][0]} ended")
        if age:
            shop.age()
        process = shop.start("backfill", "--resume", "1", "--json")
    out, _ = process.communicate()
    return {
        "orders": orders,
        "kills": done,
        "at": states,
        "said": json.loads(out)["said"],
        "seconds": round(time.monotonic() - began, 1),
    } | counted(shop)


def counted(shop: Shop) -> dict[str, Any]:
    """Count what came of the first backfill of a shop: in its report, outside, and in the orders' histories."""
    report = shop.run("backfill", "--report", "1")
    with (shop.home / "backfills" / "1.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    twice = shop.ask("SELECT order_id FROM documents GROUP BY order_id HAVING count(*) > 1")
    return {
        "results": report["results"],
        "rows_in_the_report": len({row["order"] for row in rows}),
        "documents": shop.ask("SELECT count(*) FROM documents")[0][0],
        "done_twice": len(twice),
        "told_in_histories": shop.ask("SELECT count(*) FROM journal WHERE step = 'backfill'")[0][0],
        "audit": shop.run("audit")["findings"],
    }


def well(found: dict[str, Any], kills: int) -> bool:
    """Say whether each order was done once, and the report is complete."""
    orders = found["orders"]
    each = [found[name] for name in ("rows_in_the_report", "documents", "told_in_histories")]
    ended = found["results"] == {"done": orders} and found["kills"] == kills
    return ended and each == [orders] * 3 and not found["done_twice"] and not found["audit"]


@contextmanager
def prefect_server(folder: Path) -> Generator[str]:
    """Run a Prefect server of its own, with its UI, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            address.rpartition(":")[2],
        ],
        env=os.environ
        | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_UI_API_URL": f"{address}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"{address}/api/health")
        yield address
    finally:
        server.terminate()
        server.wait()


def main() -> int:
    """Run it."""
    given = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with prefect_server(folder) as address:
            shop = prepared(folder, f"{address}/api", given.orders)
            found = broken(shop, given.orders, given.kills, age=given.age)
    sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return 0 if well(found, given.kills) else 1


def _wait_for(address: str) -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(address):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
