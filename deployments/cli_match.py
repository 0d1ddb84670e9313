"""`kvit match`: matching alone, from files to files; nothing is stored, and Prefect has no part in it."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deployments import shown
from deployments.command import ATTENTION, DONE, AsJson, Wrong
from deployments.given_files import GivenFile, file_said, named, parsed_rules, progress
from deployments.shown import clean

if TYPE_CHECKING:
    from domain.payments import IncomingPayment
    from domain.rules import ChannelRules

_MAX_LINE = 1024 * 1024
_MAX_SAID = 50


def _lines(file: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that say something, with their numbers; - is standard input."""
    try:
        opened = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115 - closed below
    except (OSError, ValueError) as error:
        raise Wrong(file_said(file, error)) from None
    with opened:
        number = 0
        while line := opened.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                raise Wrong(
                    f"{named(file)}, line {number}: it is longer than {_MAX_LINE:,} bytes; write one JSON object a line"
                )
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, line


class _Refused:
    """Lines that could not be taken: told at once, and counted."""

    def __init__(self) -> None:
        self.count = 0

    def tell(self, file: str, number: int, reason: object) -> None:
        self.count += 1
        if self.count <= _MAX_SAID:
            sys.stderr.write(f"{named(file)}, line {number}: {clean(reason)}\n")

    def close(self) -> None:
        if self.count > _MAX_SAID:
            sys.stderr.write(f"and {self.count - _MAX_SAID} more lines could not be taken\n")


def _rules(files: list[Path]) -> dict[str, ChannelRules]:
    names: list[str] = []
    for file in files:
        within = sorted(file.glob("*.y*ml")) if file.is_dir() else [file]
        if not within:
            raise Wrong(f"{file}: no rules are in it; they are files such as cz.yaml")
        names += map(str, within)
    found, refused = parsed_rules(names)
    if refused:
        raise Wrong("\n".join(str(one["reason"]) for one in refused))
    return {channel: rules for channel, (_, rules) in found.items()}


def match(
    *,
    orders: Annotated[str, Parameter(help="Orders, one JSON object a line.")],
    payments: Annotated[GivenFile, Parameter(help="Payments, one JSON object a line; - for standard input.")],
    rules: Annotated[
        list[Path] | None,
        Parameter(negative="", help="Rules of channels, or a folder of them; without: made up from the orders."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Match payments to orders, from files alone: to try rules, and to measure.

        kvit match --orders orders.jsonl --payments payments.jsonl --rules cz.yaml --json

    Payments are taken in the order of their booking; what one settles is no longer open for the next. With --json, a
    line is printed for each payment, in the order given. Lines that can't be taken are told on standard error, and the
    exit code is then 1. Without rules, every account counts for every channel, and what looks like the channel's order
    numbers is looked for.
    """
    from collections import Counter

    from domain.bulk_matching import CHUNK, OpenItems, payment_frame
    from domain.match_documents import LineError, Orders, answer, read_payment

    given = _rules(rules or [])
    refused = _Refused()
    taken = Orders()
    for number, line in _lines(orders):
        try:
            taken.add(line)
        except LineError as error:
            refused.tell(orders, number, error)

    def read() -> Iterator[IncomingPayment]:
        for number, line in _lines(payments):
            try:
                yield read_payment(line)
            except LineError as error:
                refused.tell(payments, number, error)

    told = payment_frame(read())
    refused.close()
    accounts: list[str] = told["account"].dropna().unique().tolist()
    channels = taken.channels(given, [*accounts, None] if told["account"].hasnans else accounts)
    open_items = OpenItems(*taken.frames(), channels)
    names: list[str] = told["external_id"].tolist()
    order: list[int] = told["booked_on"].to_numpy().argsort(kind="stable").tolist()
    answers: list[str] = [""] * (len(told) if as_json else 0)
    outcomes: Counter[str] = Counter()
    with progress("matching", len(told)) as advance:
        for begin in range(0, len(order), CHUNK):
            places = order[begin : begin + CHUNK]
            matched = open_items.match(told.iloc[places])
            outcomes.update(outcome.value for outcome in matched.outcomes)
            if as_json:
                for place, found in zip(places, matched.answers(), strict=True):
                    answers[place] = json.dumps(answer(names[place], found), ensure_ascii=False)
            advance(len(places))
    if as_json:
        sys.stdout.write("".join(f"{line}\n" for line in answers))
    else:
        shown.table(["Outcome", "Payments"], [[name.replace("_", " "), str(n)] for name, n in outcomes.most_common()])
    return ATTENTION if refused.count else DONE
