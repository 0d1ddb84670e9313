"""Saving a channel's rules: every change goes through here, so that none is stored unchecked."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.iban import wrong_ibans
from domain.rules import ChannelRules, RulesError, parse_rules, unreached_messages
from store import rules
from tasks.texts import check_texts


class Saved(NamedTuple):
    """The version in force after saving, and whether it is a new one."""

    channel: str
    version: int
    changed: bool


def checked_rules(document: object, *, where: str = "rules") -> ChannelRules:
    """Read a channel's document with all that is checked before it is saved; raises RulesError as save_rules does."""
    parsed = parse_rules(document, where=where)
    if wrong := [*unreached_messages(parsed), *wrong_ibans(parsed), *check_texts(parsed)]:
        raise RulesError("\n".join(f"{where}: {said}" for said in wrong))
    return parsed


async def save_rules(
    connection: AsyncConnection,
    document: object,
    *,
    author: str,
    reason: str,
    now: datetime,
    run: str | None = None,
    where: str = "rules",
) -> Saved:
    """Check a channel's document and put it into force as the newest version, unless it says what is in force already.

    Raises RulesError, a line per field that is wrong; where names the file or form that the document came from.
    """
    parsed = checked_rules(document, where=where)
    version = await rules.save(
        connection,
        parsed.model_dump(mode="json", exclude_unset=True),
        channel=parsed.channel,
        author=author,
        reason=reason,
        now=now,
        run=run,
    )
    if version is None:
        return Saved(parsed.channel, (await rules.history(connection, parsed.channel))[0].version, changed=False)
    return Saved(parsed.channel, version, changed=True)


async def go_back(
    connection: AsyncConnection, channel: str, version: int, *, author: str, reason: str, now: datetime
) -> Saved:
    """Put what an earlier version said into force again, as a new version.

    Raises RulesError when there is no such version, or when what it said can't be taken any more.
    """
    document = await written(connection, channel, version)
    return await save_rules(
        connection,
        document,
        author=author,
        reason=f"back to version {version}: {reason}",
        now=now,
        where=f"channel {channel}, version {version}",
    )


async def written(connection: AsyncConnection, channel: str, version: int) -> dict[str, object]:
    """Return a version of a channel's document as it was written. Raises RulesError when there is no such version."""
    document = await rules.document_of(connection, channel, version)
    if document is None:
        newest = (await rules.history(connection, channel))[:1]
        known = f"its versions are 1 to {newest[0].version}" if newest else "the channel is not known"
        raise RulesError(f"channel {channel} has no version {version}; {known}")
    return document
