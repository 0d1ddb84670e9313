"""What so many payments a second need, computed from what the bench has measured.

    python tests/bench/bench.py --only burst,backfill,intake --database postgresql > bench.json
    python tests/bench/dispatchers.py > dispatchers.json
    python tests/bench/scaling.py bench.json --dispatchers dispatchers.json --write docs/scaling.md

Prints the tables, or writes them into the page between its two marks.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Instead of this script's own folder, where it would be taken for the package.
    sys.path[0] = str(Path(__file__).parents[1])

from bench.page import joined, runs_of

RATES = (1, 10, 1_000)
"""Payments a second."""
BUSY = 0.6
"""How much of a core is planned for: what is busier makes payments wait for each other."""
POOL = 20
"""Connections to the database that one process of ours opens at most."""
BEGIN, END = "<!-- computed: begin -->", "<!-- computed: end -->"
_DAY_S = 86_400
_CALLS = 6

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unit:
    """What one payment costs: seconds of a core by role, kilobytes in each database, and calls of call_s outside."""

    dispatcher_s: float
    prefect_s: float
    database_s: float
    kvit_kb: float | None
    prefect_kb: float | None
    webhooks_per_s: float | None
    call_s: float
    of: str


def _role(name: str) -> str:
    lowered = name.lower()
    if "postgres" in lowered:
        return "database"
    return "prefect" if "prefect" in lowered else "dispatcher"


def unit_of(measured: Json) -> Unit:
    """Return the unit costs of a bench's document: of a burst on PostgreSQL with the slowest calls there are."""
    bursts: Json = measured["burst"]["postgresql"]
    delay = max(bursts, key=lambda one: float(one.split()[0]))
    burst = bursts[delay]
    cpu = {"dispatcher": 0.0, "prefect": 0.0, "database": 0.0}
    for name, cost in burst["by_process"].items():
        cpu[_role(name)] += cost["cpu_s"] / burst["payments"]
    sizes: Sequence[Json] = measured.get("backfill", {}).get("postgresql", {}).get("sizes", [])
    grown: Json = sizes[-1]["growth_kb_per_order"] if sizes else {}
    intake: Json = measured.get("intake", {}).get("postgresql", {}).get("webhooks", {})
    about: Json = next(one for one in reversed(runs_of(measured["about"])) if "burst" in one.get("parts", ["burst"]))
    machine: Json = about["machine"]
    return Unit(
        dispatcher_s=cpu["dispatcher"],
        prefect_s=cpu["prefect"],
        database_s=cpu["database"],
        kvit_kb=grown.get("kvit"),
        prefect_kb=grown.get("prefect"),
        webhooks_per_s=intake.get("per_s"),
        call_s=float(delay.split()[0]) / 1000,
        of=f"{machine['cores']} cores ({machine['processor']}), commit {about['commit']}, {about['at']}",
    )


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "not measured"
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return text.replace(",", " ") + (f" {unit}" if unit else "")


def needs(unit: Unit, rate: int) -> dict[str, str]:
    """Return what so many payments a second need, by what it is."""
    dispatcher = rate * unit.dispatcher_s
    prefect, database = rate * unit.prefect_s, rate * unit.database_s
    dispatchers = max(2, math.ceil(dispatcher / BUSY))
    webs = max(2, math.ceil(rate / BUSY / unit.webhooks_per_s)) if unit.webhooks_per_s else 2
    day = rate * _DAY_S
    return {
        "payments a day": _number(day),
        "dispatchers (of one core each)": _number(dispatchers),
        "cores of dispatchers, busy": _number(dispatcher),
        "web processes": _number(webs),
        "cores of Prefect's API and services, busy": _number(prefect),
        "cores of PostgreSQL, busy": _number(database),
        "connections to PostgreSQL, at most": _number((dispatchers + webs) * POOL),
        "calls outside a second": _number(rate * _CALLS),
        f"of these under way at once, at {unit.call_s * 1000:.0f} ms each": _number(rate * _CALLS * unit.call_s),
        "at 300 ms each": _number(rate * _CALLS * 0.3),
        "growth of the store a day": _number(unit.kvit_kb and unit.kvit_kb * day / 1e6, "GB"),
    }


def tables(unit: Unit, together: Json | None) -> Iterator[str]:
    """Yield the lines of the tables."""
    yield f"Measured on {unit.of}. One payment with six calls outside, in a burst on PostgreSQL, costs"
    yield ""
    yield "| what | of one payment |"
    yield "| :-- | --: |"
    yield f"| web and dispatcher | {_number(unit.dispatcher_s * 1000, 'ms of a core')} |"
    yield f"| Prefect's server | {_number(unit.prefect_s * 1000, 'ms of a core')} |"
    yield f"| PostgreSQL | {_number(unit.database_s * 1000, 'ms of a core')} |"
    yield f"| the store grows by | {_number(unit.kvit_kb, 'kB')} |"
    yield f"| webhooks that one process stores and answers | {_number(unit.webhooks_per_s, 'a second')} |"
    yield ""
    yield f"From that, with cores planned to be {BUSY:.0%} busy:"
    yield ""
    columns = [needs(unit, rate) for rate in RATES]
    yield "| |" + "".join(f" {_number(rate)} a second |" for rate in RATES)
    yield "| :-- |" + " --: |" * len(RATES)
    for what in columns[0]:
        yield f"| {what} | {' | '.join(column[what] for column in columns)} |"
    if together is not None:
        yield ""
        yield from _together(together)


def _together(together: Json) -> Iterator[str]:
    yield (
        f"Several dispatchers on one machine of {together['cores']} cores, which the database, Prefect's server (on "
        f"{together['prefect_on']}) and the outside world share with them; four calls of "
        f"{together['call_s'] * 1000:.0f} ms a payment:"
    )
    yield ""
    heads = (
        "dispatchers",
        "payments a second",
        "of one",
        "their CPU for a payment",
        "load average",
        "payments of each",
    )
    yield f"| {' | '.join(heads)} |"
    yield "| --: | --: | --: | --: | --: | :-- |"
    found = {int(name.rpartition(" ")[2]): one for name, one in together.items() if name.startswith("dispatchers ")}
    first: float = found[min(found)]["per_second"]
    for count, one in sorted(found.items()):
        each = ", ".join(map(str, one["payments_of_each"]))
        cpu = _number(one["dispatchers_cpu_s_per_payment"] * 1000, "ms")
        shared = count == 1 or len(one["payments_of_each"]) > 1
        times = f"{one['per_second'] / first:.2f}×" if shared else "not shared"
        cells = (count, one["per_second"], times, cpu, one["load_average"], each)
        yield f"| {' | '.join(map(str, cells))} |"


def written(page: str, lines: Sequence[str]) -> str:
    """Return a page with the lines between its marks. Raises ValueError when it has none."""
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return "\n".join([before + BEGIN, "", *lines, "", END + after])


def main() -> None:
    """Compute, and print or write it."""
    parser = argparse.ArgumentParser(description="What so many payments a second need")
    parser.add_argument("measured", type=Path, nargs="+", help="the bench's document, or those of several runs")
    parser.add_argument("--dispatchers", type=Path, help="the document of dispatchers.py")
    parser.add_argument("--write", type=Path, help="the page to write it into")
    given = parser.parse_args()
    measured = joined([json.loads(file.read_text(encoding="utf-8")) for file in given.measured])
    together = json.loads(given.dispatchers.read_text(encoding="utf-8")) if given.dispatchers else None
    lines = list(tables(unit_of(measured), together))
    if given.write:
        given.write.write_text(written(given.write.read_text(encoding="utf-8"), lines), encoding="utf-8")
    else:
        sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
