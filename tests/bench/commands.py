"""Commands as an operator gives them, watched; the server of Prefect that they need; and how large databases are."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.start import ROOT, Database, answering, environment, stopped
from bench.watch import Watch, mb
from sqlalchemy import text

from deployments.processes import free_port, prefect_environment
from store.database import Store

PREFECT = "Prefect's server"
_LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command printed, how long it took, and what it cost."""

    printed: Any
    seconds: float
    watch: Watch


@dataclass(frozen=True, slots=True)
class Shop:
    """An installation in a folder that nothing serves; extra is what its commands need in their environment."""

    home: Path
    kept: Database
    extra: Mapping[str, str]
    roots: Mapping[int, str]

    async def run(
        self, *words: str, look: Callable[[], Coroutine[Any, Any, None]] | None = None, name: str | None = None
    ) -> Ran:
        """Give a command; look is called again and again meanwhile. Raises SystemExit when the command fails."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deployments", *words, "--json"),
            cwd=ROOT,
            env=environment(self.home, self.kept) | dict(self.extra),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        known = {process.pid: name or f"kvit {words[0]}", **self.roots}

        def role(pid: int, command: str) -> str:
            return known.get(pid) or ("PostgreSQL" if "postgres" in command else "others")

        async def looking() -> None:
            while look is not None:
                await asyncio.sleep(_LOOK_S)
                await look()

        began = time.perf_counter()
        beside = asyncio.create_task(looking())
        with Watch(set(known), role) as watch:
            out, said = await process.communicate()
            seconds = time.perf_counter() - began
        beside.cancel()
        if process.returncode not in (0, 1):
            raise SystemExit(f"kvit {' '.join(words)} ended with {process.returncode}: {said.decode()[-2000:]}")
        return Ran(json.loads(out), seconds, watch)

    async def sizes_mb(self, store: Store) -> dict[str, float]:
        """Return how large Kvit's database and Prefect's are, with what is not yet written into their files."""
        kvit = size_mb(self.home / "kvit.sqlite")
        if not store.is_sqlite:
            async with store.read() as connection:
                kvit = mb(await connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)
        return {"kvit": kvit, "prefect": size_mb(self.home / "prefect" / "prefect.db")}


def size_mb(file: Path) -> float:
    """Return how large a database of SQLite is, with its log."""
    parts = (file, file.with_name(f"{file.name}-wal"))
    return mb(sum(part.stat().st_size for part in parts if part.exists()))


@asynccontextmanager
async def prefect_server(home: Path) -> AsyncGenerator[tuple[dict[str, str], dict[int, str]]]:
    """Run Prefect's server as `kvit up` does; gives the environment of what uses it, and its process by role."""
    extra = {
        name: value for name, value in prefect_environment(home, free_port()).items() if name.startswith("PREFECT")
    }
    log = home / "prefect-server.log"
    file = await asyncio.to_thread(log.open, "ab")
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deployments.guarded_prefect"),
            cwd=ROOT,
            env=environment(home, Database("", {})) | extra,
            stdout=file,
            stderr=file,
        )
    finally:
        file.close()
    try:
        await answering(f"{extra['PREFECT_API_URL']}/health", process, "Prefect's server", log)
        yield extra, {process.pid: PREFECT}
    finally:
        await stopped(process)
