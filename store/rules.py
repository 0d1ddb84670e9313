"""Versions of the channels' documents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, Select, bindparam, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.references import normal_account
from domain.rules import ChannelRules, parse_rules
from store import payments, work
from store.sql import take_turns
from store.tables import RuleVersion


@dataclass(frozen=True, slots=True)
class Versioned:
    """A channel's rules and the version they are."""

    rules: ChannelRules
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    """Who made a version, when and why."""

    channel: str
    version: int
    author: str
    reason: str
    created_at: datetime


# A version never changes, so its parsed form is kept as long as its database is open.
# The moment belongs to the key because SQLite gives the id of a row that was rolled back to the next one.
_parsed: WeakKeyDictionary[Engine, dict[tuple[int, datetime], ChannelRules]] = WeakKeyDictionary()


def _in_force(*columns: Any) -> Select[Any]:
    newest = (
        select(RuleVersion.channel, func.max(RuleVersion.version).label("version"))
        .group_by(RuleVersion.channel)
        .subquery()
    )
    return (
        select(*columns)
        .join(newest, (newest.c.channel == RuleVersion.channel) & (newest.c.version == RuleVersion.version))
        .order_by(RuleVersion.channel)
    )


_IN_FORCE = _in_force(RuleVersion.id, RuleVersion.channel, RuleVersion.version, RuleVersion.created_at)


async def current(connection: AsyncConnection) -> dict[str, Versioned]:
    """Return the rules in force of every channel."""
    rows = await connection.execute(_IN_FORCE)
    found: dict[str, Versioned] = {}
    for row_id, channel, version, created_at in rows.all():
        parsed = await _read(connection, row_id, created_at, where=f"channel {channel}, version {version}")
        found[channel] = Versioned(parsed, version)
    return found


_NEWEST_DOCUMENT = (
    select(RuleVersion.document)
    .where(RuleVersion.channel == bindparam("channel"))
    .order_by(RuleVersion.version.desc())
    .limit(1)
)


async def document(connection: AsyncConnection, channel: str) -> dict[str, Any] | None:
    """Return a channel's document in force as it was written, or None for an unknown channel."""
    return await connection.scalar(_NEWEST_DOCUMENT, {"channel": channel})


_DOCUMENT_OF_VERSION = select(RuleVersion.document).where(
    RuleVersion.channel == bindparam("channel"), RuleVersion.version == bindparam("version")
)


async def document_of(connection: AsyncConnection, channel: str, version: int) -> dict[str, Any] | None:
    """Return a version of a channel's document as it was written, or None for one that there never was."""
    return await connection.scalar(_DOCUMENT_OF_VERSION, {"channel": channel, "version": version})


_OF_VERSION = select(RuleVersion.id, RuleVersion.created_at).where(
    RuleVersion.channel == bindparam("channel"), RuleVersion.version == bindparam("version")
)


async def of_version(connection: AsyncConnection, channel: str, version: int) -> ChannelRules | None:
    """Return a channel's rules as they were in a version, or None for a version that there never was.

    Raises RulesError for a document that this version of Kvit can't read any more.
    """
    row = (await connection.execute(_OF_VERSION, {"channel": channel, "version": version})).one_or_none()
    if row is None:
        return None
    return await _read(connection, row.id, row.created_at, where=f"channel {channel}, version {version}")


_DOCUMENT = select(RuleVersion.document).where(RuleVersion.id == bindparam("id"))


async def _read(connection: AsyncConnection, row_id: int, created_at: datetime, *, where: str) -> ChannelRules:
    kept = _parsed.setdefault(connection.engine.sync_engine, {})
    key = (row_id, created_at)
    if key not in kept:
        document = await connection.scalar(_DOCUMENT, {"id": row_id})
        kept[key] = parse_rules(document, where=where)
    return kept[key]


_HISTORY = (
    select(RuleVersion.channel, RuleVersion.version, RuleVersion.author, RuleVersion.reason, RuleVersion.created_at)
    .where(RuleVersion.channel == bindparam("channel"))
    .order_by(RuleVersion.version.desc())
)


async def history(connection: AsyncConnection, channel: str) -> list[Change]:
    """Return a channel's versions, newest first."""
    rows = await connection.execute(_HISTORY, {"channel": channel})
    return [Change(*row) for row in rows.all()]


_NEWEST = (
    select(RuleVersion.version, RuleVersion.document)
    .where(RuleVersion.channel == bindparam("channel"))
    .order_by(RuleVersion.version.desc())
    .limit(1)
)


async def save(
    connection: AsyncConnection,
    document: dict[str, Any],
    *,
    channel: str,
    author: str,
    reason: str,
    now: datetime,
    run: str | None = None,
) -> int | None:
    """Store a checked document as the channel's newest version and return its number; None if nothing changed.

    Payments that no order was found for are tried again by it.
    """
    await take_turns(connection, f"the rules of {channel}")
    newest = (await connection.execute(_NEWEST, {"channel": channel})).one_or_none()
    if newest and newest.document == document:
        return None
    version = newest.version + 1 if newest else 1
    await connection.execute(
        insert(RuleVersion).values(
            channel=channel,
            version=version,
            document=document,
            author=author,
            reason=reason,
            run=run,
            created_at=now,
        )
    )
    await _try_again(connection, channel, _accounts(newest.document) if newest else set(), now=now)
    return version


def _accounts(document: dict[str, Any]) -> set[str]:
    return {normal_account(account) for account in document.get("accounts") or ()}


_DOCUMENTS_IN_FORCE = _in_force(RuleVersion.channel, RuleVersion.document)


async def _try_again(connection: AsyncConnection, channel: str, before: set[str], *, now: datetime) -> None:
    """Make the unmatched payments due that a channel's new rules speak of.

    These are the ones on its accounts, those of before included, and on accounts that are no channel's.
    """
    await payments.begin_to_change(connection)
    waiting = await payments.unmatched(connection)
    if not waiting:
        return
    # Read as they were written: a document of long ago that can't be taken any more must not keep others from it.
    rows = await connection.execute(_DOCUMENTS_IN_FORCE)
    owned = {row.channel: _accounts(row.document) for row in rows.all()}
    concerned = before | owned[channel]
    elsewhere = set[str]().union(*owned.values()) - concerned
    of: dict[str, list[int]] = {}
    for payment in waiting:
        if normal_account(payment.account or "") not in elsewhere:
            of.setdefault(payment.scenario, []).append(payment.id)
    for scenario, ids in sorted(of.items()):
        await work.add(connection, scenario, "payment", ids, now=now)
