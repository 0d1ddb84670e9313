"""One transaction for what is handed in at the same time: its commit is what takes long, and they can share it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from store.database import Store

_T = TypeVar("_T")
_R = TypeVar("_R")

_MOST = 100
"""What one transaction writes at most: others wait for it."""


class Together(Generic[_T, _R]):
    """Writes what is handed in; what comes while a transaction is under way goes into the next one, with all else.

    What comes alone is written at once. Whoever handed something in goes on when it is committed, with what writing it
    returned. What can't be written fails for whoever handed it in, and for nobody else.
    """

    def __init__(self, write: Callable[[AsyncConnection, Sequence[_T]], Awaitable[Sequence[_R]]]) -> None:
        """Take what writes some of them, in the order in which they were handed in, and returns what came of each."""
        self._write = write
        self._waiting: deque[tuple[_T, asyncio.Future[_R]]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def put(self, store: Store, what: _T) -> _R:
        """Write something into a store, the same one each time; return what came of it, once it is committed."""
        done: asyncio.Future[_R] = asyncio.get_running_loop().create_future()
        self._waiting.append((what, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(store))
        return await done

    async def _write_all(self, store: Store) -> None:
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST))]
            try:
                await self._write_some(store, some)
            except BaseException:
                for _, done in some:
                    done.cancel()
                raise

    async def _write_some(self, store: Store, some: list[tuple[_T, asyncio.Future[_R]]]) -> None:
        """Write these together; if one of them can't be written, each by itself."""
        try:
            await self._commit(store, some)
        except OperationalError as error:  # the database is away, for each of them
            _fail(some, error)
        except Exception as error:  # noqa: BLE001 - whoever handed in what can't be written is told
            if len(some) == 1:
                _fail(some, error)
                return
            for one in some:
                await self._write_some(store, [one])

    async def _commit(self, store: Store, some: list[tuple[_T, asyncio.Future[_R]]]) -> None:
        # Somebody outside waits for each of them, and asks again if that takes long.
        async with store.write(urgent=True) as connection:
            results = await self._write(connection, [what for what, _ in some])
        for (_, done), result in zip(some, results, strict=True):
            with suppress(asyncio.InvalidStateError):  # whoever waited has gone; it is stored all the same
                done.set_result(result)


def _fail(some: list[tuple[_T, asyncio.Future[_R]]], error: Exception) -> None:
    for _, done in some:
        with suppress(asyncio.InvalidStateError):
            done.set_exception(error)
