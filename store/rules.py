"""Versions of the channels' documents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.rules import ChannelRules, parse_rules
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
_parsed: WeakKeyDictionary[Engine, dict[int, ChannelRules]] = WeakKeyDictionary()


async def current(connection: AsyncConnection) -> dict[str, Versioned]:
    """Return the rules in force of every channel."""
    newest = (
        select(RuleVersion.channel, func.max(RuleVersion.version).label("version"))
        .group_by(RuleVersion.channel)
        .subquery()
    )
    rows = await connection.execute(
        select(RuleVersion.id, RuleVersion.channel, RuleVersion.version)
        .join(newest, (newest.c.channel == RuleVersion.channel) & (newest.c.version == RuleVersion.version))
        .order_by(RuleVersion.channel)
    )
    kept = _parsed.setdefault(connection.engine.sync_engine, {})
    found: dict[str, Versioned] = {}
    for row_id, channel, version in rows.all():
        if row_id not in kept:
            document = await connection.scalar(select(RuleVersion.document).where(RuleVersion.id == row_id))
            kept[row_id] = parse_rules(document, where=f"channel {channel}, version {version}")
        found[channel] = Versioned(kept[row_id], version)
    return found


async def document(connection: AsyncConnection, channel: str) -> dict[str, Any] | None:
    """Return a channel's document in force as it was written, or None for an unknown channel."""
    return await connection.scalar(
        select(RuleVersion.document).where(RuleVersion.channel == channel).order_by(RuleVersion.version.desc()).limit(1)
    )


async def history(connection: AsyncConnection, channel: str) -> list[Change]:
    """Return a channel's versions, newest first."""
    rows = await connection.execute(
        select(RuleVersion.channel, RuleVersion.version, RuleVersion.author, RuleVersion.reason, RuleVersion.created_at)
        .where(RuleVersion.channel == channel)
        .order_by(RuleVersion.version.desc())
    )
    return [Change(*row) for row in rows.all()]


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
    """Store a checked document as the channel's newest version and return its number; None if nothing changed."""
    newest = (
        await connection.execute(
            select(RuleVersion.version, RuleVersion.document)
            .where(RuleVersion.channel == channel)
            .order_by(RuleVersion.version.desc())
            .limit(1)
        )
    ).one_or_none()
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
    return version
