"""A shop on several machines, as far as one machine can play them: each process on a loopback address of its own.

One PostgreSQL that listens on TCP, one Prefect server, and any number of `kvit dispatcher` and `kvit web`, each started
by the real command line. A dispatcher reaches the database over a line that can be cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from lab import ROOT, Gateway, World
from line import Line
from postgres_server import control, postgres_server
from shop_builders import order_document, payment_of
from sqlalchemy import URL, text

from deployments.processes import free_port, prefect_environment
from domain.order_document import parse_order
from domain.rules import parse_rules
from store import payments, rules, stock, work
from store.database import Store
from store.journal import Actor
from tasks.installation import Installation, close_installation, open_installation
from tasks.order_intake import take_order

DATABASE, PREFECT = "127.0.0.2", "127.0.0.3"
"""The addresses of the database and of Prefect's server; the others have 127.0.0.11 and on."""
_CLUSTER = Actor(name="cluster")
_UP_S = 120.0
_DEBIAN = Path("/usr/lib/postgresql")

_KVIT = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import connectors
connectors.__path__.append({str(ROOT / "tests" / "faults" / "kinds")!r})
from deployments.cli import main
sys.exit(main())
"""


@dataclass(slots=True)
class Member:
    """A process of the shop: how it was started, on which address, and its line to the database."""

    name: str
    host: str
    port: int
    process: subprocess.Popen[bytes]
    line: Line | None = None


@contextlib.contextmanager
def postgres_on_tcp(port: int) -> Generator[URL]:
    """Run a PostgreSQL that listens on its loopback address, with an empty database."""
    with postgres_server("kvit-cluster-pg-") as server:
        sockets = server.get_postmaster_info().socket_dir
        server.psql("CREATE DATABASE kvit")
        control(server, "stop")
        # Started as it was, it would go on listening on its socket alone. Nothing here is about power failures.
        options = f"-c listen_addresses={DATABASE} -p {port} -k {sockets} -c max_connections=300 -c fsync=off"
        control(server, "start", "-o", options)
        yield URL.create("postgresql", username="postgres", host=DATABASE, port=port, database="kvit")


@contextlib.contextmanager
def prefects_postgres(folder: Path) -> Generator[str | None]:
    """Run a PostgreSQL for Prefect, which needs the extension pg_trgm, where this machine has Debian's; else None."""
    found = sorted(_DEBIAN.glob("*/bin/initdb")) if os.geteuid() == 0 else []
    if not found or not list(Path("/usr/share/postgresql").glob("*/extension/pg_trgm.control")):
        yield None
        return
    programs, data, port = found[-1].parent, folder / "data", free_port()
    folder.mkdir()
    for path in (folder, *folder.parents):
        if path != Path("/tmp") and str(path).startswith("/tmp/"):  # noqa: S108 - where temporary folders are
            path.chmod(0o755)
    shutil.chown(folder, "postgres")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user="postgres", capture_output=True, timeout=60, cwd=folder)

    run(str(programs / "initdb"), "-D", str(data), "-A", "trust")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -c fsync=off -k {folder} -c max_connections=200"
    control = (str(programs / "pg_ctl"), "-w", "-D", str(data))
    run(*control, "-l", str(folder / "log"), "-o", options, "start")
    try:
        run(str(programs / "createdb"), "-h", str(folder), "-p", str(port), "prefect")
        yield f"postgresql+asyncpg://postgres@127.0.0.1:{port}/prefect"
    finally:
        run(*control, "-m", "immediate", "stop")


@dataclass(slots=True)
class Cluster:
    """The shop under way."""

    home: Path
    url: URL
    prefect_port: int
    prefect_on: str
    opened: Installation
    world: World
    gateway: Gateway
    members: dict[str, Member] = field(default_factory=dict[str, Member])
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    paid: list[str] = field(default_factory=list[str])

    @property
    def store(self) -> Store:
        """The database, as this process sees it."""
        return self.opened.store

    def _environment(self, url: URL) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVIT_"))}
        return {
            **kept,
            **prefect_environment(self.home / "prefect-client", self.prefect_port),
            "PREFECT_API_URL": f"http://{PREFECT}:{self.prefect_port}/api",
            "KVIT_HOME": str(self.home),
            "KVIT_DATABASE_URL": url.render_as_string(hide_password=False),
        }

    async def start(self, role: str = "dispatcher", *, own_line: bool = True) -> Member:
        """Start a dispatcher or a web process, and wait until its page answers."""
        number = next(self.numbers)
        host, port = f"127.0.0.{10 + number}", free_port()
        url, line = self.url, None
        if own_line:
            line = Line(DATABASE, self.url.port or 0)
            await line.mend()
            url = self.url.set(host="127.0.0.1", port=line.port)
        options = ("--metrics-port" if role == "dispatcher" else "--port", str(port))
        log = (self.home / f"{role}-{number}.log").open("ab")
        process = subprocess.Popen(  # noqa: ASYNC220 - it is not waited for
            [sys.executable, "-c", _KVIT, role, "--host", host, *options],
            env=self._environment(url),
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
        log.close()
        member = Member(f"{role}-{number}", host, port, process, line)
        self.members[member.name] = member
        await answering(f"http://{host}:{port}/metrics", process)
        return member

    async def ask(self, query: str, **values: Any) -> list[Any]:
        """Ask the database."""
        async with self.store.read() as connection:
            return list((await connection.execute(text(query), values)).all())

    async def place(self, count: int) -> list[str]:
        """Take so many orders in; return their numbers."""
        first = 50_001 + len(await self.ask("SELECT id FROM orders"))
        numbers = [f"CZ{first + place}" for place in range(count)]
        async with self.store.write() as connection:
            for number in numbers:
                await take_order(
                    connection, self.opened, parse_order(order_document(number), where="cluster"), actor=_CLUSTER
                )
        return numbers

    async def pay(self, numbers: Sequence[str]) -> None:
        """Let orders be paid by payments that are stored together."""
        now = self.opened.clock()
        async with self.store.write() as connection:
            new = await payments.add(connection, [payment_of(number) for number in numbers], now=now)
            await work.add(connection, "card", "payment", [id_ for id_, _ in new], now=now)
        self.paid += numbers

    async def deliver(self, number: str) -> None:
        """Let an order be paid, told by a webhook to one web process after the other until one takes it."""
        event = self.gateway.pay(number, 37_800, "czk", now=self.opened.clock())
        self.paid.append(number)
        for _ in range(300):
            for web in [one for name, one in self.members.items() if name.startswith("web")]:
                with contextlib.suppress(httpx.HTTPError):
                    url = f"http://{web.host}:{web.port}/webhooks/stripe"
                    if await self.gateway.deliver(event, url, self.opened.clock()) == [200]:
                        return
            await asyncio.sleep(0.1)
        raise AssertionError("a webhook was never taken")

    async def left(self) -> int:
        """Return how much is due, now or later."""
        ((count,),) = await self.ask(
            "SELECT (SELECT count(*) FROM work WHERE due_at IS NOT NULL) +"
            " (SELECT count(*) FROM inbox WHERE due_at IS NOT NULL)"
        )
        return count

    async def rest(self, *, within_s: float) -> bool:
        """Wait until nothing is due any more; say whether that was so in time.

        What waits for a later moment, and that nobody holds, is made due at once, as if the time had passed.
        """
        deadline = time.monotonic() + within_s
        while await self.left():
            if time.monotonic() > deadline:
                return False
            await self._pass_time()
            await asyncio.sleep(0.2)
        return True

    async def _pass_time(self) -> None:
        now = self.opened.clock()
        busy = await self.ask(
            "SELECT 1 FROM work WHERE due_at <= :now OR lease_until > :now UNION ALL"
            " SELECT 1 FROM inbox WHERE due_at <= :now UNION ALL"
            " SELECT 1 FROM effects WHERE lease_until > :now LIMIT 1",
            now=now,
        )
        if busy:
            return
        async with self.store.write() as connection:
            for moment in ("UPDATE effects SET due_at", "UPDATE work SET due_at", "UPDATE inbox SET due_at"):
                column = moment.rpartition(" ")[2]
                await connection.execute(text(f"{moment} = :now WHERE {column} > :now"), {"now": now})
            await connection.execute(text("UPDATE outages SET probe_at = :now WHERE probe_at > :now"), {"now": now})

    def faults(self) -> list[str]:
        """Return which orders got something twice, or not at all, from the outside world."""
        acts = Counter((service, order) for service, order, _ in self.world.acts)
        said = [
            f"{number}: {service} {acts[service, number]} times"
            for number in self.paid
            for service in ("invoice", "label")
            if acts[service, number] != 1
        ]
        messages = Counter(key for service, _, key in self.world.acts if service == "message")
        said += [f"a message was sent {times} times" for times in messages.values() if times > 1]
        if len(messages) != 2 * len(self.paid):
            said.append(f"{len(messages)} messages instead of {2 * len(self.paid)}")
        return said

    def end(self, member: Member) -> None:
        """End a process for good."""
        member.process.kill()
        member.process.wait()
        if member.line is not None:
            member.line.cut()
        self.members.pop(member.name, None)


async def answering(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a page answers."""
    deadline = time.monotonic() + _UP_S
    async with httpx.AsyncClient(timeout=2) as client:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(url)).is_success:
                    return
            await asyncio.sleep(0.1)
    raise AssertionError(f"{url} does not answer; the process ended with {process.poll()}")


@contextlib.asynccontextmanager
async def _prefect(folder: Path, port: int, database: str | None) -> AsyncGenerator[None]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "KVIT_"))}
    environment |= prefect_environment(folder, port) | {"PREFECT_SERVER_API_HOST": PREFECT}
    environment |= {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database} if database else {}
    (folder / "prefect").mkdir(parents=True, exist_ok=True)
    log = (folder / "server.log").open("ab")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", PREFECT, "--port", str(port)]
    server = subprocess.Popen(  # noqa: ASYNC220 - it is not waited for
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    log.close()
    try:
        await answering(f"http://{PREFECT}:{port}/api/health", server)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextlib.asynccontextmanager
async def cluster(folder: Path, *, seed: int = 1) -> AsyncGenerator[Cluster]:
    """Bring up what all processes share, with a shop in it; whoever is started in it is ended with it."""
    home = folder / "shop"
    home.mkdir(parents=True)
    prefect_port, postgres_port = free_port(), free_port()
    random_, faults = random.Random(seed), Counter[str]()
    async with contextlib.AsyncExitStack() as stack:
        url = stack.enter_context(postgres_on_tcp(postgres_port))
        database = stack.enter_context(prefects_postgres(folder / "prefect-pg"))
        world = await stack.enter_async_context(World(random_, honours_keys=False, faults=faults))
        gateway = await stack.enter_async_context(Gateway(random_, faults, "whsec_cluster"))
        await stack.enter_async_context(_prefect(folder / "prefect-server", prefect_port, database))
        (home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": _connectors(world, gateway)}))
        made = await _open(home, url)
        stack.push_async_callback(close_installation, made)
        shop = Cluster(home, url, prefect_port, "PostgreSQL" if database else "SQLite", made, world, gateway)
        await _open_shop(made)
        try:
            yield shop
        finally:
            for member in list(shop.members.values()):
                shop.end(member)


async def _open(home: Path, url: URL) -> Installation:
    import connectors

    kinds = str(ROOT / "tests" / "faults" / "kinds")
    connectors.__path__.append(kinds)
    try:
        return await open_installation(home, database_url=url.render_as_string(hide_password=False))
    finally:
        connectors.__path__.remove(kinds)


def _connectors(world: World, gateway: Gateway) -> list[dict[str, Any]]:
    return [
        {"name": "office", "type": "office", "base_url": world.url},
        {
            "name": "stripe",
            "type": "stripe",
            "api_key": gateway.api_key,
            "webhook_secret": gateway.webhook_secret,
            "base_url": gateway.base_url,
        },
    ]


async def _open_shop(opened: Installation) -> None:
    document = yaml.safe_load((ROOT / "deployments" / "rules" / "cz.yaml").read_text(encoding="utf-8"))
    document["connectors"] = dict.fromkeys(("accounting", "carrier", "messenger"), "office")
    document["placed"] = {}
    parsed = parse_rules(document, where="cz.yaml").model_dump(mode="json", exclude_unset=True)
    now = opened.clock()
    async with opened.store.write() as connection:
        await rules.save(connection, parsed, channel="cz", author="cluster", reason="opening", now=now)
        await stock.count(connection, "TEA-SEN-100", "Sencha", 100_000, now=now)
