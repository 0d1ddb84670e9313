"""Measures how much `kvit match` settles rightly by itself, how much wrongly, and what it leaves to a person.

    python tests/bench/precision.py --payments 100000 --seeds 1 2 3 [--json | --markdown] [--show KIND]

Makes the corpus of each seed (see corpus.py), runs the command on its files as a user would, and compares its answers
with the truth. Exit 1 when one payment was settled wrongly, or too little of what can be decided was settled.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.table import Table

if __name__ == "__main__":
    # Instead of this script's own folder, where bench.py would be taken for the package.
    sys.path[0] = str(Path(__file__).parents[1])

from bench.corpus import SHARES, Row, make

NEEDED = 0.97
"""The least share of what can be decided that is to be settled rightly."""

_SETTLING = frozenset({"exact", "within_tolerance", "short", "over"})
_EXAMPLES = 10


class Verdict(StrEnum):
    """What an answer comes to."""

    RIGHT = "right"
    WRONG = "wrong"
    LEFT = "left"
    """Nothing was allocated: a person decides."""


class FormatError(ValueError):
    """An answer that is not what the command promises; its text says what is wrong."""


def _split(row: Row) -> list[tuple[str, Decimal]]:
    return sorted((part["order"], Decimal(part["amount"])) for part in row["allocations"])


def verdict(truth: Row, answer: Row) -> Verdict:
    """Compare an answer with the truth. Whatever is allocated otherwise than there, if only by a cent, is wrong.

    Raises FormatError for an answer to another payment, or one whose outcome settles nothing and has allocations.
    """
    if answer["payment"] != truth["payment"]:
        raise FormatError(f"the answer to {truth['payment']} was due, and that to {answer['payment']} came")
    if not answer["allocations"]:
        return Verdict.LEFT
    if answer["outcome"] not in _SETTLING:
        raise FormatError(f"{answer['payment']} is {answer['outcome']}, but something is allocated")
    return Verdict.RIGHT if _split(answer) == _split(truth) else Verdict.WRONG


@dataclass(slots=True)
class Count:
    """What the answers of one kind came to."""

    payments: int = 0
    decidable: int = 0
    right: int = 0
    wrong: int = 0
    left: int = 0

    def add(self, truth: Row, found: Verdict) -> None:
        """Count one answer."""
        self.payments += 1
        self.decidable += truth["decidable"]
        self.right += found is Verdict.RIGHT
        self.wrong += found is Verdict.WRONG
        self.left += found is Verdict.LEFT

    def __iadd__(self, other: Count) -> Self:
        for name in ("payments", "decidable", "right", "wrong", "left"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    @property
    def share(self) -> float | None:
        """How much of what can be decided was settled rightly; None where nothing can."""
        return self.right / self.decidable if self.decidable else None

    @property
    def row(self) -> Row:
        """The count for the JSON document."""
        counts = {name: getattr(self, name) for name in ("payments", "decidable", "right", "wrong", "left")}
        return {**counts, "share": None if self.share is None else round(self.share, 5)}


@dataclass(slots=True)
class Result:
    """What a run of the command came to, kind by kind."""

    kinds: dict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    failures: dict[str, list[tuple[Row, Row, Row]]] = field(default_factory=lambda: defaultdict(list))
    """Some payments of each kind that weren't answered as the truth says: payment, truth, answer."""
    seconds: float = 0

    def add(self, payment: Row, truth: Row, answer: Row) -> None:
        """Count one answer, and keep it as an example when it isn't the truth's."""
        found = verdict(truth, answer)
        self.kinds[truth["kind"]].add(truth, found)
        failures = self.failures[truth["kind"]]
        missed = found is Verdict.LEFT and truth["decidable"]
        if found is Verdict.WRONG:
            # What is wrong matters more than what is left, so it is shown first.
            failures.insert(0, (payment, truth, answer))
        elif missed and len(failures) < _EXAMPLES:
            failures.append((payment, truth, answer))
        del failures[_EXAMPLES:]

    def __iadd__(self, other: Result) -> Self:
        for kind, count in other.kinds.items():
            self.kinds[kind] += count
        for kind, failures in other.failures.items():
            self.failures[kind] = (self.failures[kind] + failures)[:_EXAMPLES]
        self.seconds += other.seconds
        return self

    @property
    def total(self) -> Count:
        """All kinds together."""
        total = Count()
        for count in self.kinds.values():
            total += count
        return total

    @property
    def is_good(self) -> bool:
        """Whether nothing was settled wrongly and enough rightly."""
        return not self.total.wrong and (self.total.share or 0) >= NEEDED


def compared(payments: Iterable[Row], truths: Iterable[Row], answers: Iterable[Row]) -> Result:
    """Compare a corpus's answers with its truth, all in one order."""
    result = Result()
    iterator = iter(answers)
    for payment, truth in zip(payments, truths, strict=True):
        answer = next(iterator, None)
        if answer is None:
            raise FormatError(f"the answers end before that to {truth['payment']}")
        result.add(payment, truth, answer)
    if (extra := next(iterator, None)) is not None:
        raise FormatError(f"there is an answer too many, to {extra.get('payment')}")
    return result


def _lines(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def measured(seed: int, payments: int, command: list[str]) -> Result:
    """Make a corpus, run the command on it, and compare."""
    with tempfile.TemporaryDirectory(prefix="kvit-precision-") as name:
        folder = Path(name)
        make(seed, payments).write(folder)
        files = ["--orders", folder / "orders.jsonl", "--payments", folder / "payments.jsonl"]
        whole = [*command, "match", *map(str, files), "--rules", str(folder / "rules"), "--json"]
        began = time.perf_counter()
        with (folder / "answers.jsonl").open("w", encoding="utf-8") as answers:
            code = subprocess.run(whole, stdout=answers, check=False).returncode
        seconds = time.perf_counter() - began
        # 1 says that something needs attention, as it always does in a corpus.
        if code not in (0, 1):
            raise SystemExit(f"“{shlex.join(whole)}” ended with exit code {code}")
        result = compared(*(_lines(folder / f"{what}.jsonl") for what in ("payments", "truth", "answers")))
    result.seconds = seconds
    return result


# What is printed


def _share(count: Count) -> str:
    # Rounded down: 100.00 % is to mean all.
    return "" if count.share is None else f"{int(count.share * 10_000) / 100:.2f} %"


def _rows(result: Result) -> Iterator[tuple[str, Count]]:
    yield from ((kind, result.kinds[kind]) for kind in SHARES if kind in result.kinds)
    yield "total", result.total


_HEADINGS = ("Kind", "Payments", "Decidable", "Right", "Wrong", "Left to a person", "Right of decidable")


def _cells(kind: str, count: Count) -> tuple[str, ...]:
    numbers = (count.payments, count.decidable, count.right, count.wrong, count.left)
    return (kind, *(f"{number:,}".replace(",", "\u202f") for number in numbers), _share(count))


def table(result: Result) -> Table:
    """Return the table for people."""
    shown = Table(*_HEADINGS, caption=f"{result.seconds:.1f} s in the command")
    for column in shown.columns[1:]:
        column.justify = "right"
    for kind, count in _rows(result):
        missed = count.share is not None and count.share < NEEDED
        shown.add_row(*_cells(kind, count), style="red" if count.wrong else "yellow" if missed else None)
    return shown


def markdown(result: Result) -> str:
    """Return the table for the documentation."""
    lines = [
        f"| {' | '.join((_HEADINGS[0], 'What', *_HEADINGS[1:]))} |",
        f"|---|---|{'--:|' * (len(_HEADINGS) - 1)}",
    ]
    for kind, count in _rows(result):
        name, *cells = _cells(kind, count)
        what = SHARES[kind].what if kind in SHARES else ""
        name = f"`{name}`" if kind in SHARES else f"**{name}**"
        lines.append(f"| {' | '.join((name, what, *cells))} |")
    return "\n".join(lines) + "\n"


def document(result: Result, *, payments: int, seeds: list[int], by_seed: list[Result]) -> Row:
    """Return the whole result for scripts."""
    return {
        "payments": payments,
        "seeds": seeds,
        "total": result.total.row,
        "kinds": {kind: count.row for kind, count in _rows(result) if kind in SHARES},
        "by_seed": [
            {"seed": seed, **each.total.row, "seconds": round(each.seconds, 2)}
            for seed, each in zip(seeds, by_seed, strict=True)
        ],
        "seconds": round(result.seconds, 2),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def _show(result: Result, kind: str, log: Console) -> None:
    failures = result.failures.get(kind, [])
    log.print(f"{kind}: {len(failures)} examples of what isn't as the truth says")
    for example in islice(failures, _EXAMPLES):
        for what, row in zip(("payment", "truth", "answer"), example, strict=True):
            log.print(f"  {what:8}{json.dumps(row, ensure_ascii=False)}", markup=False, highlight=False, soft_wrap=True)
        log.print()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How much kvit match settles rightly, wrongly, and not at all")
    parser.add_argument("--payments", type=int, default=100_000, help="of each corpus (100000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one corpus each (1 2 3)")
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("--markdown", action="store_true", help="print the table for docs/matching.md")
    parser.add_argument("--show", metavar="KIND", choices=SHARES, help="print examples that failed, of one kind")
    own = str(Path(sys.executable).with_name("kvit"))
    parser.add_argument("--command", default=own, help="the command to measure, instead of this installation's kvit")
    told = parser.parse_args()
    log, result, by_seed = Console(stderr=True), Result(), list[Result]()
    for seed in told.seeds:
        by_seed.append(measured(seed, told.payments, shlex.split(told.command)))
        result += by_seed[-1]
    log.print(table(result))
    if told.show:
        _show(result, told.show, log)
    if told.json:
        found = document(result, payments=told.payments, seeds=told.seeds, by_seed=by_seed)
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    if told.markdown:
        sys.stdout.write(markdown(result))
    raise SystemExit(0 if result.is_good else 1)


if __name__ == "__main__":
    main()
