"""Measures how fast and how flat Kvit is, each figure beside its yardstick of the same run.

    make bench                                   all parts
    make bench ONLY=latency,burst                some of them
    make bench ONLY=burst BENCH="--database sqlite --payments 200"
    make bench-page FROM=bench.json              docs/benchmarks.md of what was printed, also by several runs
    make bench-page                              the same of what is kept in docs/measured

Prints one JSON document on standard output, and tables and progress on standard error. What the parts measure stands in
their files: payments.py (latency, burst), backfill.py, intake.py (intake, idle), chain.py, matching.py and lookup.py
(matching).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

if __name__ == "__main__":
    # Instead of this script's own folder, where it would be taken for the package.
    sys.path[0] = str(Path(__file__).parents[1])

from bench.page import joined, write_page
from bench.progress import Bar
from bench.start import DATABASES, ROOT
from bench.tables import show, tables
from stopping import end_in_order

PARTS = ("latency", "burst", "backfill", "intake", "idle", "chain", "matching")
MATCHING = (10_000, 100_000, 1_000_000)


def _matching(bar: Bar) -> dict[str, Any]:
    from bench.lookup import measure as measure_lookup
    from bench.matching import measure as measure_bulk

    found: dict[str, Any] = {}
    for size in MATCHING:
        for name, plain in (("plain", True), ("hard", False)):
            bar.begin(f"matching: {size:,} {name} payments")
            found[f"{name} {size}"] = measure_bulk(size, plain=plain)
    for size in MATCHING:
        bar.begin(f"matching: one payment against {size:,} open items of a store")
        found[f"lookup {size}"] = measure_lookup(size)
    return found


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def about() -> dict[str, Any]:
    """Return on what and of what is measured."""
    packages = (
        "prefect",
        "sqlalchemy",
        "aiosqlite",
        "asyncpg",
        "httpx",
        "httpx-aiohttp",
        "aiohttp",
        "fastapi",
        "uvicorn",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": {
            "cores": os.cpu_count(),
            "processor": _cpu(),
            "memory_gb": round(memory / 1e9, 1),
            "system": platform.platform(),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed_since": bool(_git("status", "--porcelain")),
        "command": shlex.join(["python", "tests/bench/bench.py", *sys.argv[1:]]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each is measured."""

    latency: int = 100
    burst: int = 2000
    backfill: tuple[int, ...] = (1_000, 10_000)
    entries: int = 100_000
    webhooks: int = 2000
    idle_s: int = 60
    chain: int = 30


class Run:
    """What was measured so far. A part that fails leaves the others their figures, and is named in `failed`."""

    def __init__(self) -> None:
        self.result: dict[str, Any] = {"about": about()}

    def part(self, name: str, measure: Callable[[], dict[str, Any]], kind: str = "") -> None:
        """Measure a part, which may depend on the database."""
        try:
            found = measure()
        except (SystemExit, Exception) as error:  # noqa: BLE001 - an hour's other figures are not thrown away for it
            said = str(error) if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
            self.result.setdefault("failed", {})[f"{name} {kind}".strip()] = said
            return
        if kind:
            self.result.setdefault(name, {})[kind] = found
        else:
            self.result[name] = found


def measure(run: Run, parts: Sequence[str], databases: Sequence[str], sizes: Sizes, bar: Bar) -> None:
    """Measure parts, those that depend on the database on each."""
    from bench.backfill import measure as measure_backfill
    from bench.chain import measure as measure_chain
    from bench.intake import measure_idle, measure_intake
    from bench.payments import measure as measure_payments

    by_part: dict[str, Callable[[str], dict[str, Any]]] = {
        "latency": lambda kind: measure_payments(kind, "latency", sizes.latency, bar),
        "burst": lambda kind: measure_payments(kind, "burst", sizes.burst, bar),
        "backfill": lambda kind: measure_backfill(kind, sizes.backfill, bar),
        "intake": lambda kind: measure_intake(kind, sizes.entries, sizes.webhooks, bar),
        "idle": lambda kind: measure_idle(kind, sizes.idle_s, bar),
        "chain": lambda kind: measure_chain(kind, sizes.chain, bar),
    }
    if "matching" in parts:
        run.part("matching", lambda: _matching(bar))
    for kind in databases:
        bar.on(kind)
        for name, measured in by_part.items():
            if name in parts:
                run.part(name, partial(measured, kind), kind)


def _chosen(text: str, known: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    chosen = text.split(",")
    if unknown := sorted({*chosen} - {*known}):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return [one for one in known if one in chosen]


def main() -> None:
    """Measure and print; or make the page of a document that was printed before."""
    parser = argparse.ArgumentParser(description="How fast and how flat Kvit is, beside bare scripts that do the same")
    parser.add_argument("--only", default=",".join(PARTS), help=f"{', '.join(PARTS)}, or some of them with commas")
    parser.add_argument("--database", default=",".join(DATABASES), help="sqlite, postgresql, or both with a comma")
    parser.add_argument("--payments", type=int, help="of latency, burst and chain, instead of 100, 2000 and 30")
    parser.add_argument("--orders", type=int, nargs="+", help="sizes of the backfill, instead of 1000 and 10000")
    parser.add_argument("--entries", type=int, help="of the statement, instead of 100000")
    parser.add_argument("--full", action="store_true", help="a backfill of 100000 orders too, which takes long")
    parser.add_argument(
        "--page", type=Path, nargs="+", metavar="FILE", help="only make docs/benchmarks.md of these documents"
    )
    end_in_order()
    given = parser.parse_args()
    if given.page:
        write_page(joined([json.loads(file.read_text(encoding="utf-8")) for file in given.page]), ROOT / "docs")
        return
    parts, databases = _chosen(given.only, PARTS, parser), _chosen(given.database, DATABASES, parser)
    sizes = Sizes()
    orders = (*(given.orders or sizes.backfill), *([100_000] if given.full else []))
    sizes = replace(sizes, backfill=orders, entries=given.entries or sizes.entries)
    if given.payments:
        sizes = replace(
            sizes, latency=given.payments, burst=given.payments, webhooks=given.payments, chain=given.payments
        )
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 150)
    run, began = Run(), time.monotonic()
    with Bar(console) as bar, suppress(KeyboardInterrupt):
        measure(run, parts, databases, sizes, bar)
    run.result["about"]["took_s"] = round(time.monotonic() - began)
    for table in tables(run.result):
        show(console, table)
    failed = run.result.get("failed", {})
    for name, said in failed.items():
        console.print(f"{name} failed: {said}", style="bold red", markup=False)
    sys.stdout.write(json.dumps(run.result, indent=2) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
