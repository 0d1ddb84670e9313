"""What a person names or says in a command or a form: read in one way, and fit to be written down."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.by_hand import ByHandError
from store import archived, decisions, orders
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


def reason_needed(text: str) -> str:
    """Return why somebody does something to an order by hand. Raises ByHandError where nothing was given."""
    if not (said := reason_given(text)):
        raise ByHandError("say why; it stands in the order's history")
    return said


async def refuse_archived(connection: AsyncConnection, number: str, channel: str | None) -> None:
    """Raise ByHandError for an order that is archived, which says how it is brought back."""
    if await archived.of_number(connection, number, channel):
        raise ByHandError(f"order {number} is archived; bring it back first: kvit archive back {number}")


def the_one(what: str, same: Sequence[tuple[int, str]], channel: str | None) -> int:
    """Return the id of the one of a number; same are all of that number, with their channels. Raises ByHandError."""
    if not same:
        raise ByHandError(f"{what} is not known{f' in channel {channel}' if channel else ''}")
    if len(same) > 1:
        raise ByHandError(f"{what} is in {', '.join(one for _, one in same)}; name the channel")
    return same[0][0]


async def order_named(opened: Installation, number: str, channel: str | None) -> int:
    """Return the order of a number. Raises ByHandError for none, and for several in as many channels."""
    number, channel = plain(number), plain(channel or "") or None
    async with opened.store.read() as connection:
        return the_one(f"order {number}", await orders.ids_of(connection, number, channel), channel)


async def customer_named(connection: AsyncConnection, number: str, channel: str | None) -> int:
    """Return the customer of a number. Raises ByHandError for none, and for several in as many channels."""
    number = plain(number)
    return the_one(f"customer {number}", await decisions.customers(connection, number, channel), channel)
