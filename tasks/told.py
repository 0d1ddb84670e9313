"""Told: what an event turned out to mean is stored, each once: payments, holds, orders, statuses, hints."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.errors import OutsideError, Rejected, Transient
from connectors.roles import Hint, TakesHints, Told
from domain.changes import StatusChange
from domain.holds import Hold
from domain.order_document import OrderDocument, OrderError
from domain.payments import IncomingPayment
from store import holds, inbox, payments, payouts, work
from store.inbox import Letter
from store.journal import Actor
from tasks.follow import follow
from tasks.installation import Installation
from tasks.order_intake import revise_order, take_order


async def take_told(
    connection: AsyncConnection, opened: Installation, letter: Letter, told: Sequence[Told], *, now: datetime
) -> OutsideError | None:
    """Store what an event means, in a savepoint of its own, or return why a person or another attempt is needed."""
    try:
        async with connection.begin_nested():
            problems = await _take(connection, opened, letter, told, now)
    except OutsideError as error:
        return error
    except Exception as error:  # one letter that trips us must not stop the others
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise
        return defect(f"what {letter.source} says could not be stored ({type(error).__name__})", error)
    return Rejected("; ".join(problems)) if problems else None


async def _take(
    connection: AsyncConnection, opened: Installation, letter: Letter, told: Sequence[Told], now: datetime
) -> list[str]:
    """Store it all, orders first, since the others may be about them; return what a person must look at."""
    problems: list[str] = []
    actor = Actor(name=letter.source, run=None)
    for order in (one for one in told if isinstance(one, OrderDocument)):
        try:
            async with connection.begin_nested():
                if await take_order(connection, opened, order, actor=actor) is None:
                    await revise_order(connection, opened, order, actor=actor)
        except OrderError as error:
            problems.append(str(error))
    await _take_payments(connection, [(letter, one) for one in told if isinstance(one, IncomingPayment)], now)
    for one in told:
        if isinstance(one, Hold):
            id_, news = await holds.put(connection, one, connector=letter.source, now=now)
            if news:
                await work.add(connection, "authorization", "hold", [id_], now=now)
        elif isinstance(one, StatusChange):
            problem = await follow(connection, opened, letter.source, one)
            problems += [problem] if problem else []
        elif isinstance(one, Hint):
            await inbox.put(
                connection,
                source=one.connector,
                external_id=f"hint:{one.external_id}",
                kind=f"hint of {letter.source}",
                body=opened.connector(one.connector, TakesHints).question(one.reference),
                now=now,
                due_at=now,
            )
    return problems


async def take_payments(
    connection: AsyncConnection, told: Sequence[tuple[Letter, Sequence[Told]]], *, now: datetime
) -> set[int]:
    """Store at once what those events mean that tell of payments and nothing else; return the ids of their letters.

    Where that fails for any of them nothing is stored, and each is left to be taken alone.
    """
    plain = [(letter, means) for letter, means in told if all(isinstance(one, IncomingPayment) for one in means)]
    if len(plain) < 2:
        return set()
    try:
        async with connection.begin_nested():
            incoming = [(letter, one) for letter, means in plain for one in means if isinstance(one, IncomingPayment)]
            await _take_payments(connection, incoming, now)
    except Exception as error:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise
        defect(f"what was told could not be stored together ({type(error).__name__})", error)
        return set()
    return {letter.id for letter, _ in plain}


async def _take_payments(
    connection: AsyncConnection, told: Sequence[tuple[Letter, IncomingPayment]], now: datetime
) -> None:
    told_in = {id(one): letter.id for letter, one in told}
    unheard = await payouts.not_told(connection, [one for _, one in told])
    new = await payments.add(connection, unheard, now=now, told_in=told_in)
    for scenario in sorted({scenario for _, scenario in new}):
        await work.add(connection, scenario, "payment", [id_ for id_, of in new if of == scenario], now=now)
    await payouts.link_new(connection, [id_ for id_, _ in new])


def defect(said: str, error: Exception) -> Transient:
    """Log where something nobody foresaw went wrong, and return it as an error; its own text may quote anything."""
    logging.getLogger("kvit").error("%s\n%s", said, "".join(traceback.format_tb(error.__traceback__)))
    return Transient(said)
