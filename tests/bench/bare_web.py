"""The yardstick of taking webhooks in: a page that stores each body once in one plain table, and answers.

    python tests/bench/bare_web.py --port 8000 --database FILE|postgresql://…

Nothing is verified, nothing follows from it. Each is committed before it is answered, and SQLite waits for the disk as
it does for Kvit.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

_TABLE = "CREATE TABLE IF NOT EXISTS letters (id {} PRIMARY KEY, body {})"


class _Sqlite:
    def __init__(self, file: str) -> None:
        self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(_TABLE.format("INTEGER", "BLOB"))
        self._turn = asyncio.Lock()

    async def put(self, body: bytes) -> None:
        async with self._turn:
            await asyncio.to_thread(self._connection.execute, "INSERT INTO letters (body) VALUES (?)", (body,))


class _Postgres:
    def __init__(self, url: str) -> None:
        self._engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), pool_size=10)
        self._made = False
        self._turn = asyncio.Lock()

    async def put(self, body: bytes) -> None:
        async with self._turn:
            if not self._made:
                async with self._engine.begin() as connection:
                    await connection.execute(text(_TABLE.format("bigserial", "bytea")))
                self._made = True
        async with self._engine.begin() as connection:
            await connection.execute(text("INSERT INTO letters (body) VALUES (:body)"), {"body": body})


def _app(kept: _Sqlite | _Postgres) -> FastAPI:
    app = FastAPI()

    async def take(request: Request) -> JSONResponse:
        await kept.put(await request.body())
        return JSONResponse({"status": "stored"})

    async def health() -> dict[str, Any]:
        return {"status": "ok"}

    app.add_api_route("/webhooks/stripe", take, methods=["POST"])
    app.add_api_route("/health", health, methods=["GET"])
    return app


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="Webhooks, stored bare")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True)
    given = parser.parse_args()
    kept = _Postgres(given.database) if "://" in given.database else _Sqlite(given.database)
    uvicorn.run(_app(kept), host="127.0.0.1", port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
