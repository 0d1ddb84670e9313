"""Gateways are asked what moved, and that is held against the payments that are stored of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

from connectors.roles import TransactionSource, WebhookReader
from domain.reconciliation import (
    Comparison,
    Difference,
    Stored,
    Transaction,
    compare_transactions,
    missing_here,
    not_listed,
    nothing_listed,
)
from domain.wording import counted
from store import inbox, reconciliation
from tasks.found import Found
from tasks.installation import Installation

_FRESH = timedelta(minutes=10)
"""What a gateway has had for less may still come by its webhook."""


async def compare_gateways(opened: Installation, since: date, *, take_in: bool) -> Comparison:
    """Compare what each gateway lists with what is stored of it; one that fails doesn't stop the others.

    With take_in, what a gateway has and we don't is put into the inbox, and comes in from there like any webhook.
    """
    found = Found()
    sources = opened.playing(TransactionSource)
    if not sources:
        found.said.append("gateway: none is connected that lists what it has")
    for name, source in sources.items():
        try:
            await _compare(opened, name, source, since, found, take_in=take_in)
        except Exception as error:  # noqa: BLE001 - one gateway that trips us must not stop the others
            found.could_not(f"gateway {name}", error)
    return found.comparison()


async def _compare(
    opened: Installation, name: str, source: TransactionSource, since: date, found: Found, *, take_in: bool
) -> None:
    began, ours = opened.clock(), source.transaction_source
    async with opened.store.read() as connection:
        unseen = await reconciliation.stored_ids(connection, ours, since=since, before=began)
    here, there = len(unseen), 0
    async for page in source.transactions(reconciliation.day_start(since)):
        ids = [theirs.external_id for theirs in page]
        async with opened.store.read() as connection:
            stored = await reconciliation.stored(connection, ours, ids)
        missing, differences = compare_transactions(name, page, stored, fresh=began - _FRESH)
        found.add(differences)
        found.add([await _missing(opened, name, theirs, take_in=take_in) for theirs in missing])
        there += sum(theirs.settled for theirs in page)
        unseen.difference_update(ids)
    if here and not there:
        found.add([nothing_listed(name, here, since)])
    else:
        found.add(not_listed(name, one) for one in await _stored(opened, ours, unseen))
    found.said.append(f"gateway {name}: {counted(there, 'movement')} there, {here} here")


async def _stored(opened: Installation, source: str, ids: Iterable[str]) -> list[Stored]:
    async with opened.store.read() as connection:
        found = await reconciliation.stored(connection, source, list(ids))
    return sorted(found.values(), key=lambda one: one.id)


async def _missing(opened: Installation, name: str, theirs: Transaction, *, take_in: bool) -> Difference:
    """Tell of a movement that isn't here; with take_in, put it into the inbox, once, due now."""
    external_id, now = f"listed:{theirs.external_id}", opened.clock()
    if theirs.event is None or not isinstance(opened.connectors[name], WebhookReader):
        return missing_here(name, theirs, can_ask=False)
    if not take_in:
        async with opened.store.read() as connection:
            known = await reconciliation.has_letter(connection, name, external_id)
        return missing_here(name, theirs, asked_before=known)
    async with opened.store.write() as connection:
        new = await inbox.put(
            connection,
            source=name,
            external_id=external_id,
            kind="listed",
            body=theirs.event,
            now=now,
            due_at=now,
        )
    return missing_here(name, theirs, asked_before=new is None)
