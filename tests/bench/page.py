"""docs/benchmarks.md: the bench's document as a page, with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bench.figures import of_sizes
from bench.pictures import draw, pictures
from bench.tables import Table, tables

_TITLES = {
    "latency": "One payment",
    "burst": "Many payments at once",
    "backfill": "A backfill",
    "intake": "What comes in",
    "idle": "Nothing to do",
    "chain": "A chain of two systems",
    "matching": "Matching",
}
_CASE = """A payment by card makes six calls to outside systems, over real sockets: the gateway is asked what was paid
(as Stripe), an SMS goes out (as Twilio), and the CRM's card of the order is looked for, updated, looked at for the
payment and told of it (as Bitrix24). The outside systems run in one process of their own that answers at once or after
20 ms, and counts: each payment's six calls were made exactly once, and `kvit audit` finds nothing, or there is no
figure. No document is printed and no parcel sent. What is measured is served by `kvit up`, as an operator starts it,
with Prefect's database on SQLite; what connectors hold themselves back to is switched off. Webhooks come from yet
another process.

The floor is a bare script in a process of its own that makes the same six calls of the same systems: no journal, no
log, no database."""
_APART = """Parts can be measured apart, and the page made of what each run printed: `FROM='a.json b.json'`. What was
printed for this page is kept in [measured](measured), and `make bench-page` alone makes the page of that."""
_READ = """Figures of one machine mean little alone: each stands beside its yardstick of the same run. Where others kept
the machine busy meanwhile, their cores are named; 0 is a machine that had nothing else to do."""


def _picture_lines(part: str, result: Mapping[str, Any]) -> list[str]:
    return [
        f"![{picture.title}, by the number of {picture.sizes}](pictures/{picture.name}.svg)"
        for picture in pictures(result)
        if picture.name.startswith(part)
    ]


def joined(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the documents of several runs as one, with a list of what each is about; the later figures stand.

    Raises SystemExit for a part of different machines or versions: its figures can't stand beside each other.
    """
    results = sorted(results, key=lambda result: result["about"]["at"])
    abouts = [result["about"] | {"parts": [part for part in result if part in _TITLES]} for result in results]
    for part in _TITLES:
        if len({_bases(about) for about in abouts if part in about["parts"]}) > 1:
            raise SystemExit(
                f"the runs with {part} are not of one machine with the same versions; make a page of one of them"
            )
    found: dict[str, Any] = {"about": abouts}
    for result in results:
        for part, measured in result.items():
            if part == "backfill":
                found[part] = _backfills(found.get(part, {}), measured)
            elif part != "about":
                found[part] = found.get(part, {}) | measured
    return found


def _backfills(before: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of both, by database: a large one takes an hour, and may be measured apart."""
    sizes = {name: [*before.get(name, {}).get("sizes", []), *one["sizes"]] for name, one in measured.items()}
    return {**before, **{name: of_sizes(both) for name, both in sizes.items()}}


def _bases(about: Mapping[str, Any]) -> tuple[str, str]:
    machine = about["machine"]
    whole = f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gb']} GB, {machine['system']}"
    return whole, ", ".join(f"{name} {version}" for name, version in about["versions"].items())


def runs_of(about: Any) -> Sequence[Mapping[str, Any]]:
    """Return what each run of a document is about, be they one or several."""
    return cast("list[Mapping[str, Any]]", about) if isinstance(about, list) else [about]


def _made(abouts: Sequence[Mapping[str, Any]]) -> str:
    rows: list[tuple[str, str]] = []
    bases: tuple[str, str] | None = None
    for about in sorted(abouts, key=_bases):
        if _bases(about) != bases:
            bases = _bases(about)
            rows += [("machine", bases[0]), ("versions", bases[1])]
        changed = ", with changes that were not committed" if about["changed_since"] else ""
        took = f"{about['at']}, in {about['took_s'] / 60:.0f} minutes, load before {about['machine']['load_before']}"
        parts = ", ".join(about.get("parts", []))
        said = f"`{about['command']}`, commit `{about['commit']}`{changed}, {took}"
        rows.append((f"measured: {parts}" if parts else "measured", said))
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {said} |" for name, said in rows)])


def page(result: Mapping[str, Any]) -> str:
    """Return the page of what was measured."""
    parts: list[str] = [
        "# Benchmarks",
        "<!-- Made by `make bench-page`; change tests/bench/page.py instead. -->",
        "`make bench` measures all that stands here, and `make bench-page` makes this page of what it printed:",
        "```\nmake bench > bench.json\nmake bench-page FROM=bench.json\n```",
        _APART,
        _READ,
        _made(runs_of(result["about"])),
    ]
    found: dict[str, list[Table]] = {}
    for table in tables(result):
        found.setdefault(table.part, []).append(table)
    for part, some in found.items():
        parts.append(f"## {_TITLES[part]}")
        if part in ("latency", "burst") and _CASE not in parts:
            parts.append(_CASE)
        for table in some:
            parts += [f"**{table.title}**", table.markdown(), *([table.said] if table.said else [])]
        parts += _picture_lines(part, result)
    return "\n\n".join(parts) + "\n"


def write_page(result: Mapping[str, Any], docs: Path) -> None:
    """Write the page and its pictures."""
    (docs / "pictures").mkdir(exist_ok=True)
    for picture in pictures(result):
        (docs / "pictures" / f"{picture.name}.svg").write_text(draw(picture), encoding="utf-8")
    (docs / "benchmarks.md").write_text(page(result), encoding="utf-8")
