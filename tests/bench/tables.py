"""The bench's document as tables: on the terminal, and in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as Drawn

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A table: part is what was measured, said how its figures are to be read; the first column names the rows."""

    part: str
    title: str
    said: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table as it stands in a page."""
        lines = [f"| {' | '.join(self.headers)} |", f"| :-- |{' --: |' * (len(self.headers) - 1)}"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows)])


def show(console: Console, table: Table) -> None:
    """Print a table on a terminal."""
    drawn = Drawn(title=table.title, caption=table.said, title_justify="left", caption_justify="left")
    for place, header in enumerate(table.headers):
        drawn.add_column(header, justify="right" if place else "left")
    for row in table.rows:
        drawn.add_row(*row)
    console.print(drawn)


def number(value: float | None, places: int | None = None) -> str:
    """Return a number as it stands in a table: three digits that count, and gaps between thousands."""
    if value is None:
        return "–"
    if places is None:
        size = abs(value)
        places = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{places}f}".replace(",", " ")


def _ms(seconds: float) -> str:
    return number(seconds * 1000)


def _rows(part: Json) -> Iterator[tuple[str, Json]]:
    """Yield what was measured on each database with calls of each length, with what a row of it is called."""
    for database, found in part.items():
        for delay, one in found.items():
            yield f"{_called(database)}, calls of {delay}", one


def _called(database: str) -> str:
    return {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(database, database)


def _latency(part: Json) -> Iterator[Table]:
    rows: list[tuple[str, ...]] = []
    for name, one in _rows(part):
        whole, calls, over = one["webhook_sent_to_last_effect_s"], one["calls_alone_s"], one["over_the_calls_s"]
        last = one["webhook_stored_to_last_call_s"]
        cells = (whole["p50"], whole["p95"], whole["p99"], calls["p50"], over["p50"], over["p99"], last["p50"])
        tail = (one["pause_between_s"], one["others_on_the_machine_cores"])
        rows.append((name, number(one["payments"]), *map(_ms, cells), *map(number, tail)))
    headers = ("", "payments", "p50", "p95", "p99", "calls alone, p50", "over the calls, p50", "over the calls, p99")
    yield Table(
        "latency",
        "One payment at a time: from the webhook that is sent to the last effect that is recorded, in ms",
        "“Calls alone” is the bare script with the same six calls. “To the last call” ends when the last call has "
        "reached the outside system. A webhook is sent once all processes, Prefect's among them, have done what they "
        "still did for the one before, which is the pause. “Others” are cores that others on the machine kept busy.",
        (*headers, "to the last call, p50", "pause, s", "others"),
        tuple(rows),
    )


def _burst(part: Json) -> Iterator[Table]:
    rows: list[tuple[str, ...]] = []
    costs: list[tuple[str, ...]] = []
    roles = sorted({role for _, one in _rows(part) for role in one["by_process"]})
    for name, one in _rows(part):
        floors = one["floor_per_s"]
        cells = (one["payments"], one["per_s"], *floors.values(), one["to_the_floor"])
        tail = (one["webhook_sent_to_last_effect_s"]["p99"], one["webhooks_answered_per_s"], one["memory_peak_mb"])
        tail += (one["others_on_the_machine_cores"], one["floor_others_on_the_machine_cores"])
        rows.append((name, *map(number, (*cells, *tail))))
        each = (one["by_process"].get(role, {}).get("cpu_s", 0.0) / one["payments"] * 1000 for role in roles)
        whole = (one["cpu_s_per_payment"] * 1000, one["floor_cpu_s_per_payment"] * 1000, one["cpu_to_the_floor"])
        costs.append((name, *map(number, (*whole, *each))))
    pools = list(next(iter(_rows(part)))[1]["floor_per_s"])
    yield Table(
        "burst",
        "Many payments at once: payments per second until all is done and recorded",
        "The floors are a bare script that makes the same six calls through httpx on aiohttp's connections, through "
        "httpx's own, and through the client of Kvit's connectors; the ratio is to the first. p99 is from a webhook "
        "that is sent to its payment's last effect, in seconds, with all the others in front of it.",
        (
            "",
            "payments",
            "per second",
            *(f"floor, {pool}" for pool in pools),
            "to the floor",
            "p99, s",
            "webhooks answered per second",
            "memory at its peak, MB",
            "others",
            "others, at the floor",
        ),
        tuple(rows),
    )
    yield Table(
        "burst",
        "What a payment of the burst costs: milliseconds of the processor",
        "All processes count: Kvit's, Prefect's, the database's; the outside systems and the sender of webhooks don't.",
        ("", "all", "bare script", "to the bare script", *roles),
        tuple(costs),
    )


def _backfill(part: Json) -> Iterator[Table]:
    rows: list[tuple[str, ...]] = []
    grows: list[tuple[str, ...]] = []
    for database, found in part.items():
        for one in found["sizes"]:
            growth = one["growth_kb_per_order"]
            cells = (one["per_s"], one["bare_printing_per_s"], one["to_bare_printing"], one["ms_per_order"])
            cells += (one["cpu_s_per_order"] * 1000, one["bare_printing_cpu_s_per_order"] * 1000)
            more = (one["memory_peak_mb"], growth["kvit"], growth["prefect"])
            name = f"{_called(database)}, {number(one['orders'])} orders"
            rows.append(
                (name, *map(number, (*cells, *more, one["taken_in_per_s"], one["others_on_the_machine_cores"])))
            )
        grows.append((_called(database), *(number(found[f"{what}_grows_by"]) for what in ("cost", "cpu", "memory"))))
    yield Table(
        "backfill",
        "A backfill on the built-in connectors",
        "Half of the orders get a proforma as PDF and have goods reserved, half get a label as PDF and have goods "
        "deducted. “Bare printing” makes the same PDFs and does nothing else. “Taken in” is `kvit orders import`.",
        (
            "",
            "orders per second",
            "bare printing per second",
            "to bare printing",
            "ms per order",
            "processor, ms per order",
            "of bare printing",
            "memory at its peak, MB",
            "Kvit's database, kB per order",
            "Prefect's database, kB per order",
            "taken in per second",
            "others",
        ),
        tuple(rows),
    )
    yield Table(
        "backfill",
        "How that grows from the smallest size to the largest: 1 is flat",
        "Time is that from the backfill’s beginning to its end; processor and memory are with the command’s own start.",
        ("", "time per order", "processor per order", "memory"),
        tuple(grows),
    )


def _intake(part: Json) -> Iterator[Table]:
    statements: list[tuple[str, ...]] = []
    webhooks: list[tuple[str, ...]] = []
    for database, found in part.items():
        one, many = found["statement"], found["webhooks"]
        cells = (one["entries"], one["file_mb"], one["per_s"], one["bare_per_s"], one["to_bare"])
        tail = (one["memory_peak_mb"], one["growth_kb_per_entry"], one["the_same_file_again_s"])
        statements.append((_called(database), *map(number, (*cells, *tail, one["others_on_the_machine_cores"]))))
        cells = (many["webhooks"], many["per_s"], many["bare_per_s"], many["to_bare"])
        tail = (many["memory_peak_mb"], many["others_on_the_machine_cores"])
        answers = (many["answer_s"]["p50"], many["answer_s"]["p99"])
        webhooks.append((_called(database), *map(number, cells), *map(_ms, answers), *map(number, tail)))
    head = ("", "entries", "MB", "entries per second", "bare per second", "to bare", "memory at its peak, MB")
    yield Table(
        "intake",
        "A statement in camt.053: entries per second that are stored and asked about",
        "“Bare” reads the same file with lxml and puts it into one plain table of SQLite, nothing checked.",
        (*head, "database, kB per entry", "the same file again, s", "others"),
        tuple(statements),
    )
    yield Table(
        "intake",
        "Webhooks: verified, stored, and only then answered",
        "“Bare” is a page that puts each body into one plain table, committed, and answers; nothing is verified.",
        ("", "webhooks", "per second", "bare", "to bare", "answer p50, ms", "p99, ms", "memory, MB", "others"),
        tuple(webhooks),
    )


def _idle(part: Json) -> Iterator[Table]:
    rows: list[tuple[str, ...]] = []
    for database, found in part.items():
        rows.append((f"{_called(database)}, all", number(found["cpu_percent"]), number(found["memory_peak_mb"])))
        for role, cost in found["by_process"].items():
            cells = (cost["cpu_percent"], cost["memory_peak_mb"])
            rows.append((f"{_called(database)}, {role}", *map(number, cells)))
    said = "Prefect's own server is the yardstick: it costs that without Kvit, too."
    yield Table("idle", "Nothing to do", said, ("", "processor, % of a core", "memory, MB"), tuple(rows))


def _chain(part: Json) -> Iterator[Table]:
    ends = {
        "to In production": ("callback_sent_to_production_s", "calls_alone_to_production_s", "calls_to_production"),
        "to the last call": ("callback_sent_to_last_call_s", "calls_alone_to_last_call_s", "calls"),
    }
    rows: list[tuple[str, ...]] = []
    for database, found in part.items():
        for pace, one in found.items():
            for end, (ours, alone, calls) in ends.items():
                name, made = f"{_called(database)}, limit {pace}, {end}", "–".join(map(str, sorted({*one[calls]})))
                over = one[ours]["p50"] - one[alone]["p50"]
                cells = map(_ms, (*one[ours].values(), *one[alone].values(), over))
                rows.append((name, number(one["payments"]), made, *cells, number(one["others_on_the_machine_cores"])))
    yield Table(
        "chain",
        "From WayForPay's callback, which is sent, until Planfix has recorded “In production”, in ms",
        "One order after the other, once all processes have come to rest. “Calls alone” sends the same requests again, "
        "one after the other, through the client of Kvit's connectors, under the same limit. Planfix lets one request "
        "a second pass, and the connector as shipped keeps to that; “lifted” shows what is Kvit's own. “Over the "
        "calls” is p50 less p50. Both systems are stand-ins on the same machine.",
        (
            "",
            "payments",
            "calls",
            "p50",
            "p95",
            "worst",
            "calls alone, p50",
            "p95",
            "worst",
            "over the calls, p50",
            "others",
        ),
        tuple(rows),
    )


def _matching(part: Json) -> Iterator[Table]:
    bulk = {name: one for name, one in part.items() if "us_per_payment" in one}
    rows = tuple(
        (
            f"{number(one['payments'])} {name.partition(' ')[0]}",
            number(one["open_items"]),
            number(one["us_per_payment"]),
            number(one["merges_s"]),
            number(one["all_to_merges"]),
            number(one["memory_peak_mb"]),
        )
        for name, one in bulk.items()
    )
    head = ("payments", "open items", "µs per payment", "bare merges, s", "to the merges", "memory at its peak, MB")
    said = "Seconds of the processor, one thread, beside the bare pandas merges of the same keys."
    yield Table("matching", "Matching in bulk", said, head, rows)
    looked = tuple(
        (number(one["open_items"]), number(one["p50_ms"]), number(one["p99_ms"]))
        for name, one in part.items()
        if name not in bulk
    )
    said = "One payment against the open items of a store on SQLite, found by index."
    yield Table("matching", "Matching one by one", said, ("open items", "p50, ms", "p99, ms"), looked)


_PARTS = {
    "latency": _latency,
    "burst": _burst,
    "backfill": _backfill,
    "intake": _intake,
    "idle": _idle,
    "chain": _chain,
    "matching": _matching,
}


def tables(result: Json) -> Sequence[Table]:
    """Return the tables of what was measured."""
    return [table for part, made in _PARTS.items() if part in result for table in made(result[part])]
