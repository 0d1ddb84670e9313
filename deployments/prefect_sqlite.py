"""Prefect's database on SQLite, where whoever is going to write waits for its turn.

Prefect begins most of its transactions as a reader, and writes later in them. If another wrote in between, SQLite
refuses that at once, however long it was told to wait (SQLITE_BUSY_SNAPSHOT, https://www.sqlite.org/isolation.html).
The server then answers 503, and its client tries again after 2, 4, 8, 16 and 32 s: a run came into the log seconds
late, or a minute. PrefectHQ/prefect#18934 is open; some of its transactions begin as here by now.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from prefect.server.database.dependencies import set_database_config
from prefect.server.utilities.database import get_dialect
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


class OneWriter(AioSqliteConfiguration):
    """SQLite as Prefect sets it up, but that a transaction begins when no other one is open."""

    @asynccontextmanager
    async def begin_transaction(
        self,
        session: AsyncSession,
        with_for_update: bool = False,  # noqa: ARG002 - Prefect's
    ) -> AsyncGenerator[AsyncSessionTransaction]:
        """Begin a transaction as the one writer, whatever is asked for; what only reads is begun without any."""
        async with session.begin() as transaction:
            # Only for this session: one that is opened within the block reads, and would wait for this one for ever.
            mode = SQLITE_BEGIN_MODE.set("IMMEDIATE")
            try:
                await session.connection()
            finally:
                SQLITE_BEGIN_MODE.reset(mode)
            yield transaction


def use_one_writer() -> None:
    """Let Prefect's server in this process, if its database is on SQLite, write so; call it before its app is made."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if get_dialect(url).name == "sqlite":
        set_database_config(OneWriter(connection_url=url))
