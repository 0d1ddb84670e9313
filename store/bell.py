"""The bell: on PostgreSQL, a process that made something due tells those that carry on, so that none has to look often.

It is a hint and no more: what was rung for while nobody listened is found by looking, a second later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from sqlalchemy import text

from store.database import Store

_CHANNEL = "kvit_due"
_LOOK_S = 30.0
_BETWEEN_S = 0.02
"""Between two rings at least: many things that become due at once are one piece of news."""


class Bell:
    """Rings for whoever listens on the same database; made once per process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wanted = asyncio.Event()

    def ring(self) -> None:
        """Say that something was stored and is due now; it is told a moment later, by `run`."""
        self._wanted.set()

    async def run(self) -> None:
        """Ring when that is wanted, until cancelled; while the database is away nobody hears."""
        while not self._store.is_sqlite:
            await self._wanted.wait()
            self._wanted.clear()
            # Not in the transaction that stores: PostgreSQL lets those that notify commit one after the other.
            with suppress(Exception):
                async with self._store.write() as connection:
                    await connection.execute(text("NOTIFY kvit_due"))
            await asyncio.sleep(_BETWEEN_S)


async def hear(store: Store, wake: Callable[[], None], *, pause_s: float = 1.0) -> None:
    """Call wake whenever the bell is rung, until cancelled; a connection that is lost is made again.

    On SQLite, which one machine alone works on, there is nothing to hear.
    """
    while not store.is_sqlite:
        with suppress(Exception):  # drivers raise more than SQLAlchemy translates, and none of it ends the listening
            async with _listening(store, wake) as connection:
                while True:
                    await asyncio.sleep(_LOOK_S)
                    await connection.execute("SELECT 1")  # a line that was cut is noticed by using it alone
        await asyncio.sleep(pause_s)


@asynccontextmanager
async def _listening(store: Store, wake: Callable[[], None]) -> AsyncGenerator[Any]:
    def rung(*_: Any) -> None:
        wake()

    async with store.read() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.add_listener(_CHANNEL, rung)
        try:
            wake()  # for what was rung before
            yield driver
        finally:
            with suppress(Exception):
                await driver.remove_listener(_CHANNEL, rung)
