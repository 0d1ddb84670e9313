"""Starts what is measured: the outside systems, a database, and `kvit up` on an installation of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from bench.case import rules, settings
from bench.system import System
from bench.watch import APART
from postgres_server import postgres_server
from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from deployments.processes import free_port
from store import stock
from store.database import open_store
from tasks.rules import save_rules

ROOT = Path(__file__).parents[2]
DATABASES = ("sqlite", "postgresql")
WEB = "Kvit: web and dispatcher"

_START_S, _STOP_S = 180.0, 60.0


@dataclass(frozen=True, slots=True)
class Database:
    """The store's database: its URL, and the numbers of the processes that serve it, by role."""

    url: str
    roots: dict[int, str]


@dataclass(frozen=True, slots=True)
class Outside:
    """The outside systems' address, and the number of their process."""

    url: str
    pid: int


@contextmanager
def outside_systems(script: str = "outside.py") -> Generator[Outside]:
    """Run outside systems in a process of their own; script prints where they are asked."""
    command = [sys.executable, str(Path(__file__).with_name(script))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield Outside(process.stdout.readline().strip() if process.stdout else "", process.pid)
        finally:
            process.terminate()


@contextmanager
def database(kind: str, home: Path) -> Generator[Database]:
    """Give an empty database: a file of the installation's, or a PostgreSQL that is started for it."""
    if kind == "sqlite":
        yield Database(f"sqlite:///{home / 'kvit.sqlite'}", {})
        return
    with postgres_server("kvit-bench-pg-") as server:
        told = server.get_postmaster_info()
        url = URL.create("postgresql", username="postgres", database="kvit", query={"host": str(told.socket_dir)})
        asyncio.run(_make_database(url))
        yield Database(url.render_as_string(hide_password=False), {told.pid: "PostgreSQL"})


async def _make_database(url: URL) -> None:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg", database="postgres"))
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("CREATE DATABASE kvit"))
    await engine.dispose()


def environment(home: Path, kind: Database) -> dict[str, str]:
    """Return the environment of a command that is given to the installation."""
    return os.environ | {"KVIT_HOME": str(home), "KVIT_DATABASE_URL": kind.url}


def _write_settings(home: Path, kvit: Mapping[str, Any]) -> None:
    file = home / "kvit.yaml"
    file.write_text(yaml.safe_dump(dict(kvit), allow_unicode=True), encoding="utf-8")
    file.chmod(0o600)


@asynccontextmanager
async def up(
    home: Path,
    kept: Database,
    outside: Outside,
    kvit: Mapping[str, Any] | None = None,
    document: Mapping[str, Any] | None = None,
) -> AsyncGenerator[System]:
    """Fill an installation's settings, rules and stock, and let `kvit up` serve it, as an operator would.

    kvit and document are its kvit.yaml and its rules, instead of those of the payment by card. Raises SystemExit when
    it doesn't come up.
    """
    await asyncio.to_thread(_write_settings, home, kvit or settings(outside.url))
    now = datetime.now(UTC)
    async with AsyncExitStack() as stack:
        store = await open_store(kept.url)
        async with store.write() as connection:
            await save_rules(connection, dict(document or rules()), author="bench", reason="bench", now=now)
            await stock.count(connection, "TEA", "Čaj", 10_000_000, now=now)
        web, prefect, log = free_port(), free_port(), home / "up.log"
        file = await asyncio.to_thread(log.open, "ab")
        stack.callback(file.close)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deployments", "up", "--port", str(web), "--prefect-port", str(prefect)),
            cwd=ROOT,
            env=environment(home, kept),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        stack.push_async_callback(stopped, process)
        roots = {process.pid: WEB, **kept.roots}
        apart = {outside.pid: f"{APART}outside systems", os.getpid(): f"{APART}sender of webhooks"}
        system = System(home, f"http://127.0.0.1:{web}", outside.url, store, roots, apart)
        stack.push_async_callback(system.aclose)
        await answering(f"{system.url}/health", process, "kvit up", log)
        await system.quiet()
        try:
            yield system
        except SystemExit as error:
            raise SystemExit(f"{error}\n{await asyncio.to_thread(said_last, log)}".strip()) from None


def said_last(log: Path) -> str:
    """Return the end of a log, since its folder is gone once the bench has ended."""
    return log.read_bytes()[-2000:].decode(errors="replace") if log.exists() else ""


async def answering(url: str, process: asyncio.subprocess.Process, what: str, log: Path | None = None) -> None:
    """Wait until an address answers 200; raises SystemExit, naming what was to answer, when it doesn't."""
    deadline = time.monotonic() + _START_S
    async with aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            if process.returncode is not None or time.monotonic() > deadline:
                said = await asyncio.to_thread(said_last, log) if log else ""
                raise SystemExit(f"{what} did not come up\n{said}".strip())
            await asyncio.sleep(0.2)


async def stopped(process: asyncio.subprocess.Process) -> None:
    """End it as Ctrl-C does, which also ends what it has started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(sign)
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
