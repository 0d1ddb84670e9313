"""Called off: a person need not call a customer any more, since the order was paid or its last day was put off."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from store import effects
from store.effects import EffectState
from store.journal import Actor

CALL = "call customer"
"""The step that leaves it to a person to call."""


async def called_off(connection: AsyncConnection, order_id: int, actor: Actor, *, because: str, now: datetime) -> None:
    """Leave undone what a person was asked to do about an order's last day, if anything."""
    for row in await effects.to_settle(connection, order_id, CALL):
        (locked,) = (await effects.lock(connection, [row.id])).values()
        await effects.settle(
            connection,
            locked,
            EffectState.SKIPPED,
            actor=actor,
            because=f"{actor.name}: {because.strip()}",
            reference=None,
            before={},
            after={},
            now=now,
        )
