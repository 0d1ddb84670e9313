"""Intake: orders, statement files and webhooks become rows that are due, each once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakKeyDictionary

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.errors import OutsideError, Rejected, Transient
from connectors.roles import (
    PaymentSource,
    PayoutReport,
    PayoutSource,
    StatementReader,
    Told,
    WebhookEvent,
    WebhookReader,
)
from connectors.statements import read_statement
from domain.order_document import OrderDocument
from domain.payments import IncomingPayment, Method, Refusal, StatementFile, incoming_from_statement
from domain.payouts import REMITTANCE, PayoutFile, RemittanceFile
from store import inbox, orders, payments, payouts, work
from store.database import Store
from store.inbox import Letter, NewLetter
from store.sql import chunks
from store.together import Together
from tasks.installation import Installation
from tasks.pace import LEASE, delay
from tasks.payouts import take_payout
from tasks.told import defect, take_payments, take_told

_GIVE_UP_AFTER = 12
"""Attempts at asking a provider about one webhook before a person must look; they span about three days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What importing one file came to: its entries are a statement's or a remittance's, or the payouts of a report."""

    file: str
    format: str
    entries: int = 0
    new: int = 0
    already_known: int = 0
    refused: tuple[Refusal, ...] = ()
    ids: tuple[int, ...] = ()
    """Numbers of the new payments, in the file's order."""


_PAYOUTS_AT_ONCE = 50
"""Payouts of a file that are stored in one transaction; others wait for it."""

STATEMENT_SOURCES = ("statement", REMITTANCE)
"""What files are stored under."""


def _statement_source(read: StatementFile) -> str:
    return REMITTANCE if read.method is Method.CASH_ON_DELIVERY else "statement"


def incoming_of(read: StatementFile) -> list[IncomingPayment]:
    """Return the payments that a file tells, each with the id by which it is known again."""
    # Equal entries are numbered within an account, so all that a file has of one account is identified together.
    by_account: dict[str, list[int]] = {}
    for place, statement in enumerate(read.statements):
        by_account.setdefault(statement.account, []).append(place)
    return [
        payment
        for account, places in by_account.items()
        for payment in incoming_from_statement(
            source=_statement_source(read),
            method=read.method,
            account=account,
            entries=[entry for place in places for entry in read.statements[place].entries],
        )
    ]


async def take_statement(opened: Installation, data: bytes, name: str) -> Imported:
    """Import a statement, remittance or payout report: each entry once, whatever file has it; what is bad is listed."""
    read = read_statement(data, name, list(opened.playing(StatementReader).values()))
    if isinstance(read, PayoutFile):
        return await _take_payouts(opened, read, data, name)
    incoming = incoming_of(read)
    new: list[tuple[int, str]] = []
    refused = list(read.refused)
    # A statement of a day on which nothing moved is kept too: it tells the balance, and that no day is missing.
    if read.statements:
        now = opened.clock()
        async with opened.store.write() as connection:
            inbox_id = await inbox.put(
                connection,
                source=_statement_source(read),
                external_id=f"sha256:{hashlib.sha256(data).hexdigest()}",
                kind=read.format,
                body=data,
                now=now,
                due_at=None,
            )
            new = await payments.add(connection, incoming, now=now, inbox_id=inbox_id)
            await work.add(connection, read.method.value, "payment", [id_ for id_, _ in new], now=now)
            for payout in read.payouts if isinstance(read, RemittanceFile) else ():
                # Its lines are these very entries: nothing is made of them, and nobody is asked.
                taken = await take_payout(connection, opened, payout, inbox_id=inbox_id, asking=(name, {}))
                if taken.problem:
                    refused.append(Refusal(f"remittance {payout.external_id:.60}", taken.problem))
    return Imported(
        file=name,
        format=read.format,
        entries=len(incoming),
        new=len(new),
        already_known=len(incoming) - len(new),
        refused=tuple(refused),
        ids=tuple(id_ for id_, _ in new),
    )


async def _take_payouts(opened: Installation, read: PayoutFile, data: bytes, name: str) -> Imported:
    """Store the payouts of a report file, each once, and the payments that nobody else has told of."""
    new: list[int] = []
    known = 0
    refused = list(read.refused)
    inbox_id: int | None = None
    # A file cut short in the middle goes on where it stopped, when it is imported again.
    for some in chunks(read.payouts, _PAYOUTS_AT_ONCE):
        async with opened.store.write() as connection:
            inbox_id = inbox_id or await inbox.put(
                connection,
                source="payout report",
                external_id=f"sha256:{hashlib.sha256(data).hexdigest()}",
                kind=read.format,
                body=data,
                now=opened.clock(),
                due_at=None,
            )
            for payout in some:
                taken = await take_payout(connection, opened, payout, inbox_id=inbox_id)
                new += taken.payment_ids
                known += not taken.new and not taken.problem
                if taken.problem:
                    refused.append(Refusal(f"payout {payout.external_id:.60}", taken.problem))
    return Imported(
        file=name,
        format=read.format,
        entries=len(read.payouts),
        new=len(read.payouts) - known - (len(refused) - len(read.refused)),
        already_known=known,
        refused=tuple(refused),
        ids=tuple(new),
    )


async def _store_webhooks(connection: AsyncConnection, webhooks: Sequence[NewLetter]) -> list[bool]:
    return [id_ is not None for id_ in await inbox.put_all(connection, webhooks)]


_webhooks: WeakKeyDictionary[Store, Together[NewLetter, bool]] = WeakKeyDictionary()


async def take_webhook(opened: Installation, source: str, event: WebhookEvent, body: bytes) -> bool:
    """Store a verified webhook; say whether it was new. It is answered only after this has returned.

    Webhooks that come at the same time are stored together.
    """
    if opened.store not in _webhooks:
        _webhooks[opened.store] = Together(_store_webhooks)
    now = opened.clock()
    letter = NewLetter(source, event.external_id, event.kind, body, received_at=now, due_at=now)
    return await _webhooks[opened.store].put(opened.store, letter)


async def work_off_inbox(opened: Installation, *, limit: int = 200) -> int:
    """Ask the providers what stored webhooks really mean, and store the payments; return how many were taken."""
    async with opened.store.read() as connection:
        if not await inbox.count_due(connection, opened.clock()):
            return 0  # looking first leaves the database's one writer alone
    async with opened.store.write() as connection:
        now = opened.clock()
        letters = await inbox.take(connection, owner=opened.worker, now=now, lease_until=now + LEASE, limit=limit)
    answers = await asyncio.gather(*(_ask(opened, letter) for letter in letters))
    async with opened.store.write() as connection:
        now = opened.clock()
        told = [one for answer in answers if not isinstance(answer, OutsideError) for one in answer]
        await orders.take_turns(connection, [one.channel for one in told if isinstance(one, OrderDocument)])
        await payouts.take_turns(connection, {one.source for one in told if isinstance(one, IncomingPayment)})
        answered = [
            (letter, answer)
            for letter, answer in zip(letters, answers, strict=True)
            if not isinstance(answer, OutsideError)
        ]
        stored = await take_payments(connection, answered, now=now)
        done = sorted(stored)
        for letter, answer in zip(letters, answers, strict=True):
            if letter.id in stored:
                continue
            problem = answer
            if not isinstance(answer, OutsideError):
                problem = await take_told(connection, opened, letter, answer, now=now)
                # A shop tells of an order at each change: what a person was told of it once is not told again.
                if isinstance(problem, Rejected) and await inbox.is_parked(connection, letter.source, str(problem)):
                    problem = None
            if isinstance(problem, OutsideError):
                due_at = _again_at(letter, problem, now)
                await inbox.put_off(connection, letter.id, due_at=due_at, problem=str(problem))
            else:
                done.append(letter.id)
        await inbox.handled(connection, done, now=now)
    return len(letters)


async def _ask(opened: Installation, letter: Letter) -> Sequence[Told] | OutsideError:
    """Return what an event means, or why that can't be told now."""
    try:
        return await opened.connector(letter.source, WebhookReader).truth(letter.body)
    except OutsideError as error:
        return error
    except Exception as error:  # noqa: BLE001 - one letter that trips us must not stop the others
        return defect(f"unexpected {type(error).__name__} while asking {letter.source}", error)


def _again_at(letter: Letter, error: OutsideError, now: datetime) -> datetime | None:
    """Return when a webhook is asked about again, or None when a person must look."""
    if isinstance(error, Rejected) or letter.attempts >= _GIVE_UP_AFTER:
        return None
    return now + delay(letter.attempts, error.retry_after if isinstance(error, Transient) else None)


async def poll(opened: Installation, names: Sequence[str] = ()) -> dict[str, int]:
    """Fetch from polled sources what their webhooks missed, and the payouts of those that report them.

    Returns the number of new events and payouts by connector. Raises Transient, Rejected or Misconfigured; the cursor
    moves only with what was stored.
    """
    found: dict[str, int] = {}
    for name, source in opened.playing(PaymentSource).items():
        if names and name not in names:
            continue
        found[name] = 0
        more = True
        while more:
            async with opened.store.read() as connection:
                cursor = await inbox.cursor(connection, name)
            page = await source.fetch(cursor, now=opened.clock())
            now = opened.clock()
            async with opened.store.write() as connection:
                letters = inbox.due_in_order(name, "polled", page.events, now=now)
                found[name] += sum(id_ is not None for id_ in await inbox.put_all(connection, letters))
                await inbox.move_cursor(connection, name, page.cursor, now=now)
            more = page.more and page.cursor != cursor
        if isinstance(source, PayoutSource):
            found[name] += await _poll_payouts(opened, name, source)
    return found


async def _poll_payouts(opened: Installation, name: str, source: PayoutSource) -> int:
    """Fetch the payouts of a gateway that are not known yet; return their number. One that is bad stops no other."""
    remembered = payouts.cursor_of(name)
    found, more = 0, True
    while more:
        async with opened.store.read() as connection:
            cursor = await inbox.cursor(connection, remembered)
        page = await source.payouts(cursor, now=opened.clock())
        async with opened.store.write() as connection:
            for report in page.reports:
                found += await _store_report(connection, opened, name, report)
            await inbox.move_cursor(connection, remembered, page.cursor, now=opened.clock())
        more = page.more and page.cursor != cursor
    return found


async def _store_report(connection: AsyncConnection, opened: Installation, name: str, report: PayoutReport) -> bool:
    """Store a payout's report, or leave it to a person with what is wrong; say whether it was new."""
    now = opened.clock()
    letter_id = await inbox.put(
        connection,
        source=name,
        external_id=report.external_id,
        kind="payout",
        body=report.body,
        now=now,
        due_at=now,
    )
    if letter_id is None:
        return False
    named = f"payout {report.payout.external_id if report.payout else report.external_id}"
    problem = f"{named}: {report.refused}"
    if report.payout is not None:
        try:
            async with connection.begin_nested():
                taken = await take_payout(
                    connection, opened, report.payout, inbox_id=letter_id, asking=(name, report.hints)
                )
            problem = f"{named}: {taken.problem}" if taken.problem else ""
        except Exception as error:  # one payout that trips us must not stop the others
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            problem = str(defect(f"a payout of {name} could not be stored ({type(error).__name__})", error))
    if problem:
        await inbox.put_off(connection, letter_id, due_at=None, problem=problem)
    else:
        await inbox.handled(connection, [letter_id], now=now)
    return True
