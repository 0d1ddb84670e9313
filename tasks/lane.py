"""A lane: steps that follow each other, and that nothing else of a scenario waits for until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

_Step = Coroutine[Any, Any, Any]


@asynccontextmanager
async def lane() -> AsyncGenerator[Callable[..., None]]:
    """Give what puts steps into the lane: those of one call go together, after all that were put in before.

    So a customer's letters are sent in their order, and one that can't be sent now holds up nothing but letters. All
    have ended when the block does; what one of them raises is raised then.
    """
    turns: list[asyncio.Task[list[Any]]] = []

    def put(*steps: _Step) -> None:
        before = turns[-1] if turns else None
        turns.append(asyncio.create_task(_in_turn(before, steps)))

    try:
        yield put
    finally:
        ended = await asyncio.gather(*turns)
    for result in (one for turn in ended for one in turn):
        if isinstance(result, BaseException):
            raise result


async def _in_turn(before: asyncio.Task[list[Any]] | None, steps: Sequence[_Step]) -> list[Any]:
    try:
        if before is not None:
            await asyncio.wait({before})
    except asyncio.CancelledError:
        for step in steps:
            step.close()
        raise
    return await asyncio.gather(*steps, return_exceptions=True)
