"""Orders: their status, payments and documents are held against each other, and outside lists against ours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

from connectors.roles import Accounting, DocumentSource, OrderSource
from domain.orders import Status
from domain.reconciliation import (
    Comparison,
    Difference,
    ListedDocument,
    compare_documents,
    compare_numbers,
    compare_order,
    compare_shop_order,
    file_missing,
    words,
)
from domain.rules import ChannelRules
from domain.wording import counted
from store import cases, reconciliation, rules
from tasks.found import Found
from tasks.installation import Installation


async def compare_orders(opened: Installation, since: date) -> Comparison:
    """Compare status, payments and documents of each order that was placed, paid or invoiced since a day."""
    found = Found()
    start = reconciliation.day_start(since)
    count = 0
    async with opened.store.read() as connection:
        channels = await rules.current(connection)
        async for piece in reconciliation.orders(connection, since=start):
            count += len(piece)
            # Few channels have rules that depend on it.
            asked = [buyer.order_id for facts, buyer in piece if channels[facts.channel].rules.ask_status]
            paid_as = await cases.paid_as(connection, asked) if asked else {}
            for facts, buyer in piece:
                of_channel = channels[facts.channel].rules
                own = of_channel.for_customer(group=buyer.group, customer=buyer.number)
                begun_as = _standard(of_channel, buyer.taken_in_as)
                found.add(compare_order(replace(facts, taken_in_as=begun_as, paid_as=paid_as.get(buyer.order_id)), own))
    found.said.append(f"shop: {counted(count, 'order')} with payments and documents")
    for name, source in opened.playing(OrderSource).items():
        try:
            await _compare_shop(opened, name, source, start, found)
        except Exception as error:  # noqa: BLE001 - one shop that trips us must not stop the others
            found.could_not(f"shop {name}", error)
    return found.comparison()


def _standard(channel: ChannelRules, status: str | None) -> Status | None:
    """Return what a status of the channel means, or None for one that its rules had before."""
    try:
        return channel.standard(status) if status else None
    except ValueError:
        return None


async def _compare_shop(opened: Installation, name: str, source: OrderSource, since: datetime, found: Found) -> None:
    seen: set[tuple[str, str]] = set()
    async for page in source.orders(since):
        names = {(theirs.channel, theirs.number) for theirs in page}
        async with opened.store.read() as connection:
            ours = await reconciliation.stored_orders(connection, names)
        for theirs in page:
            found.add(compare_shop_order(name, theirs, ours.get((theirs.channel, theirs.number))))
        seen |= names
    async with opened.store.read() as connection:
        channels = {channel for channel, _ in seen}
        async for piece in reconciliation.orders_placed(connection, channels, since=since):
            for key, one in piece.items():
                if key not in seen:
                    found.add(compare_shop_order(name, None, one))
    found.said.append(f"shop {name}: {counted(len(seen), 'order')} there")


async def compare_accounting(opened: Installation, since: date) -> Comparison:
    """Compare documents with their series and their files, and the lists of outside accounting systems with ours."""
    found = Found()
    count = 0
    async with opened.store.read() as connection:
        channels = {name: one.rules for name, one in (await rules.current(connection)).items()}
        for series, used, last in await reconciliation.series_out_of_order(connection):
            found.add(compare_numbers(series, used, last))
        own = [name for name, one in channels.items() if not _outside(opened, one)]
        async for piece in reconciliation.documents(connection, since=since, channels=own):
            count += len(piece)
            found.add(await asyncio.to_thread(_without_file, opened.home, piece, opened.clock().date()))
    found.said.append(f"accounting: {counted(count, 'document')} with their files")
    for name, source in opened.playing(DocumentSource).items():
        kept_there = [channel for channel, one in channels.items() if one.connectors.accounting == name]
        try:
            await _compare_documents(opened, name, source, since, kept_there, found)
        except Exception as error:  # noqa: BLE001 - one system that trips us must not stop the others
            found.could_not(f"accounting {name}", error)
    return found.comparison()


def _outside(opened: Installation, channel: ChannelRules) -> bool:
    return isinstance(opened.connectors.get(channel.connectors.accounting), Accounting)


def _without_file(home: Path, issued: Sequence[reconciliation.Issued], today: date) -> list[Difference]:
    """Tell of documents whose PDF is not there; what was issued today may be printed in a moment."""
    return [
        file_missing(f"{words(one.kind)} {one.number}", one.file, one.issued_on)
        for one in issued
        if (one.issued_on < today if one.file is None else not (home / one.file).is_file())
    ]


async def _compare_documents(
    opened: Installation, name: str, source: DocumentSource, since: date, channels: Sequence[str], found: Found
) -> None:
    listed: dict[str, ListedDocument] = {}
    async for page in source.documents(since):
        listed |= {f"{one.kind.value} {one.number}": one for one in page}
    async with opened.store.read() as connection:
        stored = await reconciliation.stored_documents(connection, channels, since=since)
    found.add(compare_documents(name, listed, stored))
    found.said.append(f"accounting {name}: {counted(len(listed), 'document')} there, {len(stored)} here")
