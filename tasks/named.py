"""What a person names or says in a command or a form: read in one way, and fit to be written down."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.by_hand import ByHandError
from store import decisions
from store.journal import Actor
from tasks.installation import Installation
from tasks.step import current_actor

_NAME_MAX, _TEXT_MAX = 200, 2_000


def plain(text: str) -> str:
    """Return a text on one line, without what can't be seen or stored."""
    return " ".join("".join(ch if ch.isprintable() else " " for ch in text).split())


def actor_named(opened: Installation, author: str) -> Actor:
    """Return who says something, in the current run if there is one."""
    return Actor(name=plain(author)[:_NAME_MAX] or "an operator", run=current_actor(opened).run)


def reason_given(text: str) -> str:
    """Return why somebody says something, cut to what a history takes; empty where nothing was given."""
    return plain(text)[:_TEXT_MAX]


def the_one(what: str, same: Sequence[tuple[int, str]], channel: str | None) -> int:
    """Return the id of the one of a number; same are all of that number, with their channels. Raises ByHandError."""
    if not same:
        raise ByHandError(f"{what} is not known{f' in channel {channel}' if channel else ''}")
    if len(same) > 1:
        raise ByHandError(f"{what} is in {', '.join(one for _, one in same)}; name the channel")
    return same[0][0]


async def customer_named(connection: AsyncConnection, number: str, channel: str | None) -> int:
    """Return the customer of a number. Raises ByHandError for none, and for several in as many channels."""
    number = plain(number)
    return the_one(f"customer {number}", await decisions.customers(connection, number, channel), channel)
