"""The command line: `kvit`. Tables for people, `--json` for scripts, and the same exit codes everywhere.

Exit 0: done. 1: done, and something needs attention. 2: wrong use or bad input. 70: a defect of Kvit. 130: Ctrl-C.
What only some commands need (Prefect takes seconds) is imported by these.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import os
import re
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnusedCliTokensError, ValidationError

from deployments import shown
from deployments.cli_web import LOOPBACK, Host, MetricsPort, check_clock, metrics_page
from deployments.command import (
    ATTENTION,
    BROKEN_PIPE,
    DEFECT,
    DONE,
    WRONG,
    AsJson,
    Limit,
    OfChannel,
    OfMethod,
    OfStatus,
    Verbose,
    Wrong,
    acting,
    checked_limit,
    database_said,
    exit_of,
    opened_home,
    prefect_answers,
    user_name,
    working,
)
from deployments.given_files import GivenFile, GivenFiles, file_said, named, parsed_rules, progress, read_text
from deployments.prefect_server import login_of, point_at_prefect
from deployments.shown import Json
from domain.payments import Outcome

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from domain.order_document import OrderDocument, OrderError
    from domain.rules import ChannelRules
    from store.journal import Actor
    from tasks.installation import Installation

_CHECK_S = 30.0
_STOP_S = 30.0


def _version() -> str:
    from importlib.metadata import version

    return f"kvit {version('kvit')}"


_About = """What a shop does after a customer pays: done in a second, exactly once, and shown.

KVIT_HOME is the folder of an installation, `.kvit` in the current folder when it is not set; KVIT_DATABASE_URL points
its database at PostgreSQL. `--json` prints one JSON document on standard output; the log goes to standard error.

Exit codes: 0 done, 1 something needs attention, 2 wrong use or bad input.
"""

app = App(name="kvit", help=_About, version=_version)
orders_app = App(name="orders", help="Orders: import them, list them, show all that happened to one.")
stock_app = App(name="stock", help="Stock: import what was counted, list what there is.")
rules_app = App(name="rules", help="Rules: the document of each sales channel.")
database_app = App(name="database", help="Database: what its users may do, on PostgreSQL.")
for _sub in (orders_app, stock_app, rules_app, database_app):
    app.command(_sub)

Since = Annotated[date | None, Parameter(help="Placed on this day (UTC) or later, such as 2026-11-02.")]
Until = Annotated[date | None, Parameter(help="Placed on this day (UTC) or earlier.")]


# What commands share


async def _check_channel(connection: AsyncConnection, channel: str | None) -> None:
    from store import rules

    known = await rules.current(connection) if channel else {}
    if channel and channel not in known:
        raise Wrong(f"channel “{channel}” is not known; there is {', '.join(known) or 'none yet'}")


async def _check_status(connection: AsyncConnection, status: str | None) -> None:
    from domain.orders import Status
    from store import rules

    if status is None or status in set(Status):
        return
    own = {name for versioned in (await rules.current(connection)).values() for name in versioned.rules.statuses}
    if status not in own:
        raise Wrong(f"status “{status}” is not known; there is {', '.join([*Status, *sorted(own)])}")


def _moments(since: date | None, until: date | None) -> tuple[datetime | None, datetime | None]:
    """Return the first moment of a day, and the first one after another day."""
    if since and until and since > until:
        raise Wrong(f"--since {since} is after --until {until}")
    first = datetime.combine(since, time.min, UTC) if since else None
    after = datetime.combine(until + timedelta(days=1), time.min, UTC) if until and until < date.max else None
    return first, after


# Rows of CSV files


def _rows(
    file: str, text: str, known: Sequence[str], needed: Iterable[str]
) -> Iterator[tuple[int, dict[str, str], str | None]]:
    """Read the text of a CSV file with a header; yield (line, row, what is wrong with it or None).

    Columns are separated by commas, semicolons or tabs, as the header shows. Raises Wrong for a bad header.
    """
    header_line = text.partition("\n")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=header_line.count), strict=True, skipinitialspace=True
    )
    header = _header(file, reader, known, needed)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            unclosed = "a quotation mark opened here is never closed, so the rest of the file could not be read"
            yield line, {}, unclosed if "end of data" in str(error) else f"it is not CSV: {error}"
            continue
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        if len(cells) > len(header):
            yield line, row, f"it has {len(cells)} cells, but the header names {len(header)}"
        elif any(row.values()):
            yield line, row, None


def _header(file: str, reader: Iterator[list[str]], known: Sequence[str], needed: Iterable[str]) -> list[str]:
    try:
        header = [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        raise Wrong(f"{named(file)}, line 1: it is not CSV: {error}") from None
    where, columns = f"{named(file)}, line 1", f"the columns are {', '.join(known)}"
    if strange := [place for place, cell in enumerate(header, start=1) if cell not in known]:
        raise Wrong(f"{where}: the name of column {strange[0]} is not known; {columns}")
    if missing := [name for name in needed if name not in header]:
        raise Wrong(f"{where}: the column {missing[0]} is missing; {columns}")
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise Wrong(f"{where}: the column {twice[0]} is there twice")
    return header


# Orders


@dataclass(frozen=True, slots=True)
class _Given:
    """An order as a file has it, or what is wrong with it; where says in which line, or which order it is."""

    where: str
    order: str | None
    document: object = None
    problem: str | None = None


def _number(document: object) -> str | None:
    number = cast("dict[str, Any]", document).get("number") if isinstance(document, dict) else None
    return number if isinstance(number, str) and re.fullmatch(r"[\w./ -]{1,80}", number) else None


def _orders_of(file: str, text: str) -> Iterator[_Given]:
    """Read orders as JSON (one, a list, or one per line) or as CSV. Raises Wrong for what is neither."""
    start = text.lstrip()[:1]
    if start == "[":
        return _orders_of_list(file, text)
    return _orders_of_lines(text) if start == "{" else _orders_of_csv(file, text)


def _orders_of_list(file: str, text: str) -> Iterator[_Given]:
    try:
        for place, document in enumerate(_entries(text), start=1):
            number = _number(document)
            yield _Given(f"order {place} ({number})" if number else f"order {place}", number, document)
    except json.JSONDecodeError as error:
        raise Wrong(f"{named(file)}, line {error.lineno}: it is not JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        raise Wrong(f"{named(file)}: it is JSON nested too deep, or with numbers too long") from None


def _entries(text: str) -> Iterator[object]:
    """Read a JSON list entry by entry, so that never all of them are held. Raises ValueError where it is none."""
    decoder, blank = json.JSONDecoder(), re.compile(r"[ \t\n\r]*")

    def after(place: int) -> int:
        found = blank.match(text, place)
        return found.end() if found else place

    place = after(0)
    if text[place] != "[":
        raise json.JSONDecodeError("Expecting value", text, place)
    place = after(place + 1)
    more = not text.startswith("]", place)
    while more:
        document, place = decoder.raw_decode(text, place)
        yield document
        place = after(place)
        if more := text.startswith(",", place):
            place = after(place + 1)
        elif not text.startswith("]", place):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
    if (place := after(place + 1)) != len(text):
        raise json.JSONDecodeError("Extra data", text, place)


def _orders_of_lines(text: str) -> Iterator[_Given]:
    """Read one JSON object after another; after a bad one, go on at the next line that begins with a brace."""
    decoder = json.JSONDecoder()
    place, line, counted = 0, 1, 0
    while True:
        while place < len(text) and text[place].isspace():
            place += 1
        if place == len(text):
            return
        line, counted = line + text.count("\n", counted, place), place
        try:
            document, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep, or numbers too long"
            yield _Given(f"line {line}", None, problem=f"it is not JSON ({said})")
            following = text.find("\n{", place)
            place = len(text) if following < 0 else following + 1
        else:
            number = _number(document)
            yield _Given(f"line {line}, order {number}" if number else f"line {line}", number, document)


def _orders_of_csv(file: str, text: str) -> Iterator[_Given]:
    """Join the rows of each order; an order with a bad row, or with rows that contradict each other, is not taken."""
    from domain.order_document import CSV_COLUMNS, OrderError, order_from_rows

    needed = ("number", "channel", "method", "placed_at", "currency", "total", "customer_number", "customer_name")
    grouped: dict[tuple[str, str], list[tuple[int, dict[str, str]]]] = {}
    problems: dict[tuple[str, str], str] = {}
    for line, row, problem in _rows(file, text, CSV_COLUMNS, (*needed, "title", "quantity", "unit_price")):
        key = (row.get("channel", ""), row.get("number", ""))
        if not key[1]:
            yield _Given(f"line {line}", None, problem=problem or "number: it is empty; each row names its order")
            continue
        grouped.setdefault(key, []).append((line, row))
        if problem:
            problems.setdefault(key, f"line {line}: {problem}")
    for key, rows in grouped.items():
        where, number = f"line {rows[0][0]}", _number({"number": key[1]})
        place = f"{where}, order {number}" if number else where
        try:
            yield _Given(place, number, order_from_rows(row for _, row in rows), problems.get(key))
        except OrderError as error:
            yield _Given(place, number, problem=problems.get(key) or str(error))


_AT_ONCE = 200
"""Orders that are stored in one transaction; so long matchings wait, and on SQLite all who write."""


async def _take_given(opened: Installation, file: str, given: Sequence[_Given], actor: Actor) -> list[str | bool]:
    """Store orders of a file; return by their places whether each was new, or why it was refused."""
    from domain.order_document import OrderError, parse_order

    found: dict[int, str | bool] = {}
    documents: dict[int, OrderDocument] = {}
    wheres = [f"{named(file)}, {one.where}" for one in given]

    def refuse(place: int, error: OrderError) -> None:
        said = str(error).removeprefix(f"{wheres[place]}: ")
        found[place] = said.removeprefix(f"order {given[place].order}: ")

    for place, one in enumerate(given):
        if one.problem:
            found[place] = one.problem
            continue
        try:
            documents[place] = parse_order(one.document, where=wheres[place])
        except OrderError as error:
            refuse(place, error)
    for place, taken in zip(documents, await _take(opened, list(documents.values()), actor), strict=True):
        if isinstance(taken, OrderError):
            refuse(place, taken)
        else:
            found[place] = taken is not None
    return [found[place] for place in range(len(given))]


async def _take(
    opened: Installation, documents: Sequence[OrderDocument], actor: Actor
) -> list[int | OrderError | None]:
    """Store orders in one transaction, or where that can't be done, each half of them in its own and so on."""
    from sqlalchemy.exc import OperationalError

    from tasks.order_intake import take_orders

    if not documents:
        return []
    if len(documents) == 1:
        return [await _take_one(opened, documents[0], actor)]
    try:
        async with opened.store.write() as connection:
            return await take_orders(connection, opened, documents, actor=actor)
    except OperationalError:  # the database is away, for each of them
        raise
    except Exception:  # noqa: BLE001 - whatever it is, it is told of the one order that it comes from
        half = len(documents) // 2
    return [*await _take(opened, documents[:half], actor), *await _take(opened, documents[half:], actor)]


async def _take_one(opened: Installation, document: OrderDocument, actor: Actor) -> int | OrderError | None:
    """Store an order in a transaction of its own."""
    from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

    from domain.order_document import OrderError
    from tasks.order_intake import take_orders

    for last in (False, True):
        try:
            async with opened.store.write() as connection:
                return (await take_orders(connection, opened, [document], actor=actor))[0]
        except IntegrityError as error:
            # Somebody else has just stored the same order or its customer: the second time they are found.
            if last:
                return OrderError(f"it could not be stored: {database_said(error)}")
        except (DataError, ProgrammingError) as error:
            return OrderError(f"it could not be stored: {database_said(error)}")
    raise AssertionError("unreachable")


@orders_app.command(name="import")
async def orders_import(file: GivenFile, /, *, as_json: AsJson = False) -> int:
    """Store orders from a file: JSON (one order, a list, or one per line) or CSV (one row per line of an order).

    Each order is checked on its own; what is wrong with one never stops the others. Orders that are known
    already are left as they are, so a file can be imported again.

        kvit orders import orders.json

        shop-export | kvit orders import -

    Exit 1 when some orders were refused, 2 when none could be read.
    """
    text = read_text(file)
    count = sum(1 for _ in _orders_of(file, text))  # all of it is read before anything is stored
    counts: Counter[str] = Counter()
    refused: list[Json] = []
    async with opened_home() as opened:
        actor = acting()
        with progress("orders", count) as advance:
            given = _orders_of(file, text)
            while some := list(islice(given, _AT_ONCE)):
                for one, came in zip(some, await _take_given(opened, file, some, actor), strict=True):
                    if isinstance(came, str):
                        refused.append({"where": f"{named(file)}, {one.where}", "order": one.order, "reason": came})
                    else:
                        counts["new" if came else "already_known"] += 1
                advance(len(some))
    result: Json = {"file": file, "new": counts["new"], "already_known": counts["already_known"], "refused": refused}
    if as_json:
        shown.as_json(result)
    else:
        shown.line(f"{counts['new']} new, {counts['already_known']} already known, {len(refused)} refused")
        shown.print_refused(refused)
    return exit_of(read=bool(counts), refused=bool(refused))


@orders_app.command(name="list")
async def orders_list(
    *,
    channel: OfChannel = None,
    status: OfStatus = None,
    method: OfMethod = None,
    since: Since = None,
    until: Until = None,
    held_out: Annotated[
        bool, Parameter(negative="", show_default=False, help="Only orders that are held out of automation.")
    ] = False,
    limit: Limit = None,
    as_json: AsJson = False,
) -> int:
    """List orders, the oldest first.

    kvit orders list --channel cz --status awaiting_payment --since 2026-11-01
    """
    from store import orders

    placed_from, placed_to = _moments(since, until)
    async with opened_home() as opened, opened.store.read() as connection:
        await _check_channel(connection, channel)
        await _check_status(connection, status)
        rows = await orders.listing(
            connection,
            channel=channel,
            status=status,
            method=method,
            placed_from=placed_from,
            placed_to=placed_to,
            held_out=held_out,
            limit=checked_limit(limit),
        )
    found = [shown.order_row(row) for row in rows]
    if as_json:
        shown.as_json({"orders": found})
    elif found:
        shown.print_orders(found)
    else:
        shown.line(f"no such orders in {opened.home}")
    return DONE


async def _order_id(connection: AsyncConnection, number: str, channel: str | None) -> int:
    from store import orders

    await _check_channel(connection, channel)
    found = await orders.ids_of(connection, number, channel)
    if not found:
        where = f" in channel {channel}" if channel else ""
        raise Wrong(f"there is no order {number}{where}")
    if len(found) > 1:
        channels = ", ".join(of for _, of in found)
        raise Wrong(f"order {number} is in several channels ({channels}); choose one with --channel")
    return found[0][0]


async def _archived(connection: AsyncConnection, number: str, channel: str | None) -> int | None:
    """Return the archive of an order that isn't here any more."""
    from store import archived, orders

    if await orders.ids_of(connection, number, channel):
        return None
    found = await archived.of_number(connection, number, channel)
    return found[0][0] if len(found) == 1 else None


async def _order_payments(connection: AsyncConnection, order_id: int, number: str, channel: str) -> list[Json]:
    """Return the payments allocated to an order, and those that name it and were left to a person."""
    from store import payments

    rows = {row["id"]: row for row in await payments.listing(connection, order_id=order_id)}
    for outcome in (Outcome.DUPLICATE, Outcome.LATE, Outcome.WRONG_CURRENCY, Outcome.AMBIGUOUS, Outcome.REFUND):
        for row in await payments.listing(connection, outcome=outcome.value):
            if any((c["order"], c["channel"]) == (number, channel) for c in row["candidates"] or ()):
                rows[row["id"]] = row
    parts = await payments.allocated(connection, sorted(rows))
    return [
        shown.payment_of_order(
            row, [part for part in parts.get(id_, []) if part["order_id"] == order_id], number, channel
        )
        for id_, row in sorted(rows.items())
    ]


async def _order(connection: AsyncConnection, order_id: int) -> Json:
    from store import documents, effects, held_out, journal, orders, stock

    order = (await orders.load(connection, [order_id]))[order_id]
    return {
        **shown.order(order, await _order_payments(connection, order_id, order.number, order.channel)),
        "held_out": await held_out.by(connection, order_id),
        "history": [shown.plain(row) for row in await orders.status_history(connection, order_id)],
        "documents": [shown.document(row) for row in await documents.of_order(connection, order_id)],
        "stock": [shown.plain(row) for row in await stock.moves(connection, order_id)],
        "shipment": shown.shipment(await orders.live_shipment(connection, order_id)),
        "messages": [shown.plain(row) for row in await documents.messages(connection, order_id)],
        "effects": [shown.effect(row, order.number) for row in await effects.of_order(connection, order_id)],
        "journal": [shown.plain(row) for row in await journal.of_order(connection, order_id)],
    }


@orders_app.command(name="extend")
async def orders_extend(
    number: Annotated[str, Parameter(help="The order's number.")],
    /,
    *,
    days: Annotated[int, Parameter(help="By how many days its last day is put off.")] = 3,
    because: Annotated[str, Parameter(help="Why; it stands in the order's history.")] = "",
    channel: Annotated[str | None, Parameter(help="Needed when several channels have an order of this number.")] = None,
    as_json: AsJson = False,
) -> int:
    """Put off the last day of an order that waits for its money; its goods stay reserved.

    kvit orders extend CZ1042 --days 3 --because "she pays on Friday"
    """
    async with opened_home() as opened:
        from tasks.waiting import ExtendError, extend

        try:
            day = await extend(opened, number, days, channel=channel, author=user_name(), because=because)
        except ExtendError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json({"order": number, "last_day": day.isoformat()})
    else:
        shown.line(f"The last day of order {number} is {day} now.")
    return DONE


@orders_app.command(name="show")
async def orders_show(
    number: Annotated[str, Parameter(help="The order's number.")],
    /,
    *,
    channel: Annotated[str | None, Parameter(help="Needed when several channels have an order of this number.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show an order and everything that happened to it: payments with their evidence, documents, stock, steps.

        kvit orders show CZ1001

    Difference is what was paid and written off, less the total: 0 means settled, a negative one is still missing.
    """
    async with opened_home() as opened:
        async with opened.store.read() as connection:
            away = await _archived(connection, number, channel)
            found = {} if away else await _order(connection, await _order_id(connection, number, channel))
        if away:
            from tasks.archive import ArchiveError, as_it_was

            try:
                async with as_it_was(opened, away) as connection:
                    found = await _order(connection, await _order_id(connection, number, channel))
            except ArchiveError as error:
                raise Wrong(str(error)) from None
        found["archived"] = away is not None
    if as_json:
        shown.as_json(found)
    else:
        shown.print_order(found)
        if away:
            shown.line("It is archived.")
    return DONE


# Stock


def _counted(file: str) -> tuple[dict[str, tuple[str, int]], list[Json]]:
    """Read a stock file: (title, on hand) by article, and what was refused."""
    counted: dict[str, tuple[str, int]] = {}
    refused: list[Json] = []
    for line, row, problem in _rows(file, read_text(file), ("sku", "title", "on_hand"), ("sku", "on_hand")):
        if said := problem or _stock_problem(row, counted):
            refused.append({"where": f"{named(file)}, line {line}", "reason": said})
        else:
            counted[row["sku"]] = (row.get("title", ""), int(row["on_hand"]))
    return counted, refused


def _stock_problem(row: Mapping[str, str], counted: Mapping[str, object]) -> str | None:
    sku, on_hand = row.get("sku", ""), row.get("on_hand", "")
    if not 0 < len(sku) <= 80:
        return "sku: it must have 1 to 80 characters"
    if not sku.isprintable():
        return "sku: it has characters in it that can't be seen; write it anew by hand"
    if sku in counted:
        return f"sku: {sku} is in the file before; count an article once"
    if not (on_hand.isascii() and on_hand.isdigit()) or int(on_hand[:10]) >= 1_000_000_000:
        return f"on_hand: “{on_hand:.20}” is not a number of pieces"
    return None


@stock_app.command(name="import")
async def stock_import(file: GivenFile, /, *, as_json: AsJson = False) -> int:
    """Set the stock to what was counted, from a CSV file with the columns sku, title and on_hand.

    Articles that the file doesn't name stay as they are.

        kvit stock import stock.csv

    Exit 1 when some rows were refused, 2 when none could be read.
    """
    from store import stock

    counted, refused = _counted(file)
    counts: Counter[str] = Counter()
    async with opened_home() as opened, opened.store.write() as connection:
        before = {level.sku: level for level in await stock.levels(connection)}
        for sku, (title, on_hand) in sorted(counted.items()):
            known = before.get(sku)
            if known and known.on_hand == on_hand and title in ("", known.title):
                counts["unchanged"] += 1
                continue
            await stock.count(connection, sku, title, on_hand, now=opened.clock())
            counts["changed" if known else "new"] += 1
    result: Json = {"file": file, **{key: counts[key] for key in ("new", "changed", "unchanged")}, "refused": refused}
    if as_json:
        shown.as_json(result)
    else:
        said = ", ".join(f"{counts[key]} {key}" for key in ("new", "changed", "unchanged"))
        shown.line(f"{said}, {len(refused)} refused")
        shown.print_refused(refused)
    return exit_of(read=bool(counted), refused=bool(refused))


@stock_app.command(name="list")
async def stock_list(*, as_json: AsJson = False) -> int:
    """List the stock: on hand is in the warehouse, reserved of that is promised to orders, free is the rest."""
    from store import stock

    async with opened_home() as opened, opened.store.read() as connection:
        levels = await stock.levels(connection)
    found = [shown.plain({**asdict(level), "free": level.on_hand - level.reserved}) for level in levels]
    if as_json:
        shown.as_json({"stock": found})
    elif found:
        shown.print_stock(found)
    else:
        shown.line(f"no stock in {opened.home}; import it with kvit stock import FILE")
    return DONE


# Carrying on


async def _needs_person(connection: AsyncConnection, now: datetime) -> list[Json]:
    """Return all that waits for a person: payments, steps of orders, and webhooks."""
    from sqlalchemy import and_, or_, select

    from domain.rules import Policy
    from store import effects, inbox, payments
    from store.tables import EffectRow, OrderRow
    from tasks.pace import PATIENCE

    found: list[Json] = [
        {
            "what": "payment",
            "payment": row["id"],
            "order": None,
            "channel": None,
            "said": f"{shown.words(row['outcome'])}: {row['reason'] or ''}",
        }
        for row in await payments.listing(connection, policy=Policy.OPERATOR.value)
    ]
    given_up = and_(EffectRow.due_at.is_(None), EffectRow.lease_owner.is_(None))
    too_long = EffectRow.created_at <= now - PATIENCE
    stuck = and_(EffectRow.state.in_(effects.OPEN), or_(given_up, too_long))
    steps = await connection.execute(
        select(OrderRow.number, OrderRow.channel, EffectRow.step, EffectRow.state, EffectRow.reason)
        .add_columns(EffectRow.key, EffectRow.system, EffectRow.doubt_since)
        .join(OrderRow, OrderRow.id == EffectRow.order_id)
        .where(or_(EffectRow.state == effects.EffectState.REJECTED, stuck))
        .order_by(EffectRow.id)
    )
    found += [
        {
            "what": "step",
            "payment": None,
            "order": row.number,
            "channel": row.channel,
            "said": f"{row.step}: {row.reason or shown.words(row.state)}"
            + (
                f" ({effects.doubt_said(key=row.key, system=row.system, since=row.doubt_since)})"
                if row.state == effects.EffectState.IN_DOUBT
                else ""
            ),
        }
        for row in steps.all()
    ]
    found += [
        {
            "what": "webhook",
            "payment": None,
            "order": None,
            "channel": None,
            "said": f"{row['source']} {row['kind']}: {row['problem'] or ''}",
        }
        for row in await inbox.parked(connection)
    ]
    return found


async def _outcomes(connection: AsyncConnection) -> Counter[str]:
    from store import payments

    counts: Counter[str] = Counter()
    for outcome, _, count, _ in await payments.sums(connection):
        counts[outcome or "new"] += count
    return counts


async def _anything_due(opened: Installation) -> bool:
    from store import documents, inbox, work

    now = opened.clock()
    async with opened.store.read() as connection:
        due = await work.count_due(connection, now) + await inbox.count_due(connection, now)
        return due > 0 or bool(await documents.without_file(connection))


@app.command
async def process(*, verbose: Verbose = False, as_json: AsJson = False) -> int:
    """Work off everything that is due, then stop; say what came of it and what needs a person.

    When `kvit up` runs, its log is used; otherwise a temporary Prefect server is started, which takes some seconds.

        kvit process

    Exit 1 when anything waits for a person.
    """
    from store import inbox, outages, work

    carried_on = 0
    async with opened_home() as opened:
        async with opened.store.read() as connection:
            before = await _outcomes(connection)
        if await _anything_due(opened):
            point_at_prefect(opened.home, login=login_of(opened.settings), verbose=verbose)
            with working("working off what is due …"):
                from deployments.dispatcher import Dispatcher

                await prefect_answers()
                carried_on = await Dispatcher(opened).work_off()
        async with opened.store.read() as connection:
            outcomes = await _outcomes(connection) - before
            persons = await _needs_person(connection, opened.clock())
            down = await outages.listing(connection)
            later = [await work.next_due(connection), await inbox.next_due(connection)]
    del outcomes["new"]
    goes_on = min((moment for moment in later if moment), default=None)
    if as_json:
        shown.as_json(
            {
                "carried_on": carried_on,
                "outcomes": dict(outcomes),
                "needs_person": persons,
                "down": [
                    {"system": one.system, "since": shown.moment(one.since), "waiting": one.waiting} for one in down
                ],
                "goes_on_at": shown.moment(goes_on),
            }
        )
    else:
        shown.line(f"{carried_on} carried on." if carried_on else "Nothing was due.")
        if outcomes:
            shown.table(("Outcome", "Payments>"), ((shown.words(o), n) for o, n in outcomes.most_common()))
        for one in down:
            shown.line(f"{one.system} is down since {shown.at(one.since)} UTC; {one.waiting} steps wait for it.")
        if goes_on:
            shown.line(f"More falls due at {shown.at(goes_on)} UTC.")
        shown.print_needs_person(persons)
    return ATTENTION if persons else DONE


app.command("deployments.cli_web:web", name="web")
app.command("deployments.cli_backfill:backfill", name="backfill")
app.command("deployments.cli_revert:revert", name="revert")
app.command(
    "deployments.cli_archive:archive_app", name="archive", help="Archive: closed orders leave the growing tables."
)
app.command("deployments.cli_match:match", name="match")
app.command("deployments.cli_payments:payments_app", name="payments")
app.command("deployments.cli_notices:notices_app", name="notices", help="Notices: try the rules for them on a letter.")
app.command("deployments.cli_payouts:payouts_app", name="payouts", help="Payouts: list them, show of what one is made.")
app.command("deployments.cli_balance:balance_app", name="balance", help="Balance: customers' money for orders to come.")
app.command("deployments.cli_balance:invoices_app", name="invoices", help="Invoices without an order.")
app.command("deployments.cli_hold:hold_app", name="hold", help="Hold: money that cards have authorized.")
app.command("deployments.cli_templates:templates_app", name="templates", help="Templates: the texts of messages.")
app.command("deployments.cli_resolve:resolve_app", name="resolve")
app.command("deployments.cli_report:report_app", name="report", help="Report: what can be said of the shop as a whole.")
database_app.command("deployments.cli_database:database_rights", name="rights")
orders_app.command("deployments.cli_by_hand:orders_hold_out", name="hold-out")
orders_app.command("deployments.cli_by_hand:orders_put_back", name="put-back")
orders_app.command("deployments.cli_by_hand:orders_status", name="status")
orders_app.command("deployments.cli_by_hand:orders_repeat", name="repeat")
orders_app.command("deployments.cli_by_hand:orders_skip", name="skip")
orders_app.command("deployments.cli_by_hand:orders_run", name="run")
rules_app.command("deployments.cli_preview:rules_preview", name="preview")
for _name in ("history", "diff", "back", "explain"):
    rules_app.command(f"deployments.cli_rules:rules_{_name}", name=_name)


@app.command
async def dispatcher(*, host: Host = LOOPBACK, metrics_port: MetricsPort = None, verbose: Verbose = False) -> int:
    """Run a dispatcher alone, until Ctrl-C or SIGTERM; what it is at is ended first. On PostgreSQL several may run.

    KVIT_DATABASE_URL=postgresql://kvit@db/kvit kvit dispatcher
    """
    async with opened_home() as opened, AsyncExitStack() as stack:
        point_at_prefect(opened.home, login=login_of(opened.settings), verbose=verbose)
        from deployments.dispatcher import Dispatcher
        from deployments.processes import observed

        await check_clock(opened)
        stack.enter_context(observed(opened))
        await stack.enter_async_context(metrics_page(opened, host, metrics_port))

        made = Dispatcher(opened)
        await prefect_answers()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def ask_to_stop() -> None:
            for sign in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(sign)
                signal.signal(sign, _end)  # a second one ends it at once
            _say("stopping when the run under way has ended …")
            stop.set()
            made.wake()

        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, ask_to_stop)
        _say(f"dispatcher {opened.worker} works on {opened.home}; Ctrl-C stops it")
        working, stopped = asyncio.create_task(made.run(stop)), asyncio.create_task(stop.wait())
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({working}, timeout=_STOP_S)
        if not working.done():
            _say("the run under way did not end in time; another one goes on with what it had begun")
            return ATTENTION
        await working
    return DONE


@app.command
async def up(
    *,
    sample: Annotated[
        bool, Parameter(negative="", show_default=False, help="Fill an empty installation with the sample shop.")
    ] = False,
    prefect_port: Annotated[
        int | None, Parameter(env_var="KVIT_PREFECT_PORT", help="Port of Prefect's UI; 4200 by default.")
    ] = None,
    port: Annotated[
        int | None, Parameter(env_var="KVIT_PORT", help="Port of webhooks, health and metrics; 8080 by default.")
    ] = None,
) -> int:
    """Bring everything up on this machine, in the foreground, until Ctrl-C: Prefect, the deployments, the dispatcher.

    kvit up --sample
    """
    from deployments.up import up as bring_up
    from tasks.installation import home_folder

    return await bring_up(home_folder(), sample=sample, prefect_port=prefect_port, port=port)


@app.command
async def demo(
    *,
    chain: Annotated[
        str | None, Parameter(help="Play a chain of outside systems instead, such as wayforpay-planfix.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Carry the sample shop through every scenario in a temporary folder, show what came of it, and leave nothing.

    With --chain, play one chain of outside systems from its first event to its last, and show what proves each step.

        kvit demo --chain wayforpay-planfix
    """
    if chain is not None:
        from deployments.chain import play_chain

        return await play_chain(chain, as_json=as_json)
    from deployments.demo import demo as play

    return await play(as_json=as_json)


# Rules


@rules_app.command(name="apply")
async def rules_apply(
    files: GivenFiles,
    /,
    *,
    because: Annotated[str, Parameter(help="Why, for the history.", show_default=False)] = "",
    as_json: AsJson = False,
) -> int:
    """Put channels' rules into force, from YAML or JSON files; each change is a new version.

    When anything is wrong with a file, nothing is stored.

        kvit rules apply cz.yaml --because "invoices from November"
    """
    from tasks.rules import save_rules

    found, refused = parsed_rules(files)
    applied: list[Json] = []
    if not refused:
        async with opened_home() as opened, opened.store.write() as connection:
            for file, parsed in found.values():
                saved = await save_rules(
                    connection,
                    parsed.model_dump(mode="json", exclude_unset=True),
                    author=user_name(),
                    reason=because or f"applied from {Path(file).name}",
                    now=opened.clock(),
                    where=file,
                )
                applied.append({"file": file, **saved._asdict()})
    if as_json:
        shown.as_json({"channels": applied, "refused": refused})
    else:
        for one in applied:
            said = f"version {one['version']}" if one["changed"] else f"nothing changed, version {one['version']}"
            shown.line(f"{one['channel']}: {said}")
        for refusal in refused:
            _say(refusal["reason"])
        if refused:
            _say("nothing was stored")
    return WRONG if refused else DONE


@rules_app.command(name="show")
async def rules_show(
    channel: Annotated[str, Parameter(help="The channel, such as cz.")], /, *, as_json: AsJson = False
) -> int:
    """Show a channel's rules in force, as a file that `kvit rules apply` takes.

    kvit rules show cz > cz.yaml
    """
    import yaml

    from store import rules

    async with opened_home() as opened, opened.store.read() as connection:
        await _check_channel(connection, channel)
        document = await rules.document(connection, channel)
        newest = (await rules.history(connection, channel))[0]
    if as_json:
        shown.as_json({**shown.change(newest), "document": document})
    else:
        shown.line(
            f"# version {newest.version}, by {newest.author}, {shown.at(newest.created_at)} UTC: {newest.reason}"
        )
        sys.stdout.write(yaml.safe_dump(document, allow_unicode=True, sort_keys=False))
    return DONE


@rules_app.command(name="list")
async def rules_list(*, as_json: AsJson = False) -> int:
    """List the channels with the version of their rules."""
    from store import rules

    found: list[Json] = []
    async with opened_home() as opened, opened.store.read() as connection:
        for channel, versioned in (await rules.current(connection)).items():
            newest = (await rules.history(connection, channel))[0]
            found.append({"title": versioned.rules.title, "currency": versioned.rules.currency, **shown.change(newest)})
    if as_json:
        shown.as_json({"channels": found})
    elif found:
        shown.print_channels(found)
    else:
        shown.line(f"no channel has rules in {opened.home} yet; apply them with kvit rules apply FILE")
    return DONE


# Looking after an installation


async def _asked(name: str, connector: Any) -> Json:
    """Ask a connector whether it works."""
    from connectors.errors import OutsideError
    from connectors.roles import Checked

    if not isinstance(connector, Checked):
        return {"name": name, "ok": True, "said": "reaches nothing outside"}
    try:
        async with asyncio.timeout(_CHECK_S):
            return {"name": name, "ok": True, "said": await connector.check()}
    except OutsideError as error:
        said = str(error)
    except TimeoutError:
        said = f"no answer within {_CHECK_S:.0f} seconds"
    except Exception as error:  # noqa: BLE001 - one connector that trips us must not stop the others
        said = f"unexpected {type(error).__name__}; the log has more"
        _defect(f"checking {name}: {said}", error)
    return {"name": name, "ok": False, "said": said}


def _roles_played(opened: Installation, rules: ChannelRules) -> list[str]:
    """Return what is wrong with the connectors that a channel's rules name."""
    from connectors.errors import Misconfigured
    from connectors.roles import Accounting, Carrier, DocumentPrinter, Messenger

    named = rules.connectors
    accounting = opened.connectors.get(named.accounting)
    wanted: list[tuple[str, Any]] = [
        (named.accounting, Accounting if isinstance(accounting, Accounting) else DocumentPrinter),
        (named.carrier, Carrier),
        (named.messenger, Messenger),
        *([(named.sms, Messenger)] if named.sms else []),
    ]
    problems: list[str] = []
    for name, role in wanted:
        try:
            opened.connector(name, role)
        except Misconfigured as error:
            problems.append(str(error))
    return problems


@app.command
async def check(*, as_json: AsJson = False) -> int:
    """Ask every configured connector whether it works: reachable and authorised; and look at database and rules.

        kvit check

    Exit 1 when anything fails.
    """
    from deployments.cli_templates import all_remarks
    from store import rules

    found: list[Json] = []
    async with opened_home() as opened:
        kind = "SQLite" if opened.store.is_sqlite else "PostgreSQL"
        found.append({"name": "database", "ok": True, "said": f"{kind}, open and up to date"})
        async with opened.store.read() as connection:
            channels = await rules.current(connection)
        said = ", ".join(channels) if channels else "no channel has any yet; apply them with kvit rules apply FILE"
        found.append({"name": "rules", "ok": bool(channels), "said": said})
        for channel, versioned in channels.items():
            if problems := _roles_played(opened, versioned.rules):
                found.append({"name": f"rules of {channel}", "ok": False, "said": "; ".join(problems)})
        wrong = [one.said for one in await all_remarks(opened) if not one.warning]
        found.append({"name": "messages", "ok": not wrong, "said": "; ".join(wrong) or "every text can be written"})
        found += await asyncio.gather(*(_asked(name, one) for name, one in opened.connectors.items()))
    if as_json:
        shown.as_json({"checks": found})
    else:
        shown.table(("Checked", "", ""), ((one["name"], "ok" if one["ok"] else "FAILS", one["said"]) for one in found))
    return DONE if all(one["ok"] for one in found) else ATTENTION


@app.command
async def audit(*, as_json: AsJson = False) -> int:
    """Check what must always hold: money, stock, document numbers, steps and journal agree with each other.

        kvit audit

    The journal's digest, kept elsewhere, proves later that the history up to now was not rewritten. Exit 1 when
    something doesn't hold.
    """
    from store import journal
    from store.audit import audit as run

    async with opened_home() as opened, opened.store.read() as connection:
        findings = await run(connection, now=opened.clock())
        digest = await journal.digest(connection)
    if as_json:
        found = [{"invariant": one.invariant, "subject": one.subject, "said": one.said} for one in findings]
        shown.as_json({"findings": found, "journal": digest})
    elif findings:
        shown.table(("Invariant", "Where", "What"), ((one.invariant, one.subject, one.said) for one in findings))
    else:
        shown.line("Everything holds.")
    if not as_json:
        shown.line(f"Digest of the journal: {digest}")
    return ATTENTION if findings else DONE


# The program


def _say(text: str) -> None:
    """Tell a person something on standard error."""
    sys.stderr.write(f"kvit: {shown.clean(text)}\n")


def _sentence(error: Exception) -> str | None:
    """Return what to say of an error that can be expected, or None for a defect."""
    if isinstance(error, Wrong):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return file_said(str(error.filename), error)
    if isinstance(error, UnusedCliTokensError):
        return f"too many arguments: {' '.join(error.unused_tokens or [])}"
    if isinstance(error, ValidationError):
        return error.exception_message
    if isinstance(error, (CycloptsError, OSError)):
        return str(error)
    from sqlalchemy.exc import DBAPIError

    from connectors.errors import OutsideError
    from domain.order_document import OrderError
    from domain.rules import RulesError
    from store.database import StoreError

    if isinstance(error, DBAPIError):
        return f"the database can't be used: {database_said(error)}"
    if isinstance(error, (OutsideError, StoreError, OrderError, RulesError)):
        return str(error)
    return None


def _keep_output_clean() -> None:
    """Let only our own words out on standard output: what a started process writes there goes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    own.reconfigure(line_buffering=own.isatty())
    os.dup2(2, 1)
    sys.stdout = own


def _defect(said: str, error: Exception) -> None:
    """Tell the place of what nobody foresaw; its own text may quote anything."""
    logging.getLogger("kvit").error("%s, at\n%s", said, "".join(traceback.format_tb(error.__traceback__)))


def _end(number: int, _frame: object) -> None:
    """End at once, but in order: what was started is stopped, and what was begun goes on another time."""
    sys.exit(128 + number)


def main() -> int:
    """Run the command line and return the exit code."""
    arguments = sys.argv[1:]
    os.umask(0o077)  # what is written is customers' data, of us and of every process that we start
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _end)
    try:
        _keep_output_clean()
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the program ends with it, and must not quote it
        said = _sentence(error)
        if said is None:
            _defect(f"unexpected {type(error).__name__}: a defect of Kvit", error)
            return DEFECT
        for line in said.splitlines():
            _say(line)
        if "--json" in arguments:
            shown.as_json({"error": said})
        return WRONG
    return code or DONE
