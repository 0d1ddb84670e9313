"""Stored files of banks and carriers are read again, and held against each other and the payments here."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

from connectors.roles import StatementReader
from connectors.statements import read_statement
from domain.payments import StatementFile
from domain.reconciliation import (
    Comparison,
    Difference,
    StatementRead,
    compare_statements,
    entries_refused,
    entry_missing,
    old_statement,
    overdue_statements,
    statement_read,
)
from domain.wording import counted
from store import reconciliation
from store.reconciliation import File
from tasks.found import Found
from tasks.installation import Installation
from tasks.intake import STATEMENT_SOURCES, incoming_of
from tasks.old import alarms_of

_REFUSED_SHOWN = timedelta(days=7)
"""For how long a refused part of a file is told: whether it was mended since can't be seen here, and a line that stays
is soon not read any more."""


async def compare_banks(opened: Installation, since: date) -> Comparison:
    """Check that each statement adds up and follows on the last, that no day is missing, and each entry is here."""
    found = Found()
    now = opened.clock()
    statements: list[StatementRead] = []
    unread = 0
    async with opened.store.read() as connection:
        files = await reconciliation.files(connection, STATEMENT_SOURCES, since=reconciliation.day_start(since))
    for file in files:
        called = f"file {file.id} of {file.received_at:%Y-%m-%d} ({file.format})"
        try:
            read = await _read_again(opened, file)
            if not read.statements:
                unread += 1
                continue
            told = [one for statement in read.statements if (one := statement_read(statement, called))]
            statements += told
            found.add(await _missing(opened, file, read, called))
        except Exception as error:  # noqa: BLE001 - one file that trips us must not stop the others
            found.could_not(called, error)
            continue
        # Where the balances add up, nothing that counts was refused; where they don't, that is told below.
        balanced = all(one.whole and one.opening is not None and one.closing is not None for one in read.statements)
        if read.refused and not balanced and file.received_at > now - _REFUSED_SHOWN:
            where, on = read.refused[0].where, file.received_at.date()
            found.add([entries_refused(called, len(read.refused), where, on)])
    found.add(compare_statements(statements))
    after = alarms_of(opened)
    found.add(
        old_statement(account, last, today=now.date(), after=after)
        for account, last in overdue_statements(statements, today=now.date(), after=after)
    )
    accounts = {one.account for one in statements}
    said = f"{counted(len(files), 'file')} with {counted(len(statements), 'statement')}"
    found.said.append(f"bank: {said} of {counted(len(accounts), 'account')}")
    if unread:
        were = f"{counted(unread, 'file')} could not be read again with the readers that are set up now"
        found.said.append(f"bank: {were}, and so not be compared")
    return found.comparison()


async def _read_again(opened: Installation, file: File) -> StatementFile:
    async with opened.store.read() as connection:
        data = await reconciliation.body(connection, file.id)
    # Names of files are not kept: a reader that knows its files by their names alone can't read them again.
    return await asyncio.to_thread(read_statement, data, "", list(opened.playing(StatementReader).values()))


async def _missing(opened: Installation, file: File, read: StatementFile, called: str) -> list[Difference]:
    incoming = await asyncio.to_thread(incoming_of, read)
    async with opened.store.read() as connection:
        here = await reconciliation.stored(connection, file.source, [one.external_id for one in incoming])
    return [
        entry_missing(one.account or "", one.amount, one.booked_on, called)
        for one in incoming
        if one.external_id not in here
    ]
