"""The faults laboratory: runs the product's real processes, breaks things by a seed, lets all come to rest, and counts.

An experiment is a shop of its own with some tens of orders, its dispatchers (real processes, killed with `kill -9`),
an outside world over real sockets that misbehaves, and a clock that the laboratory moves, so that waiting for an hour
takes no time. What must have happened is known from what was delivered; it is compared with what the outside world
recorded and with the store, whose invariants are checked by the audit. Everything random is drawn from the seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml
from guards import IN_CODE
from postgres_server import control
from shop_builders import order_document, payment_of
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.errors import Misconfigured
from deployments.processes import HOST, free_port, prefect_environment
from deployments.sandbox.standin import Misbehavior, Plan, Seen, StandIn
from deployments.sandbox.stripe import StripeStandIn
from domain.order_document import parse_order
from domain.rules import parse_rules
from store import orders, payments, rules, stock, work
from store.audit import audit
from store.journal import Actor
from tasks.installation import Installation, close_installation, open_installation
from tasks.order_intake import take_order
from tasks.revert import RevertError, begin

ROOT = Path(__file__).parents[1]
BOUNDARIES = ("before claim", "after claim", "after answer", "inside record", "after record")
GUARDS = ("unique-key", *IN_CODE, "connectors-look")
WAYS = ("twice", "ten at once", "before the order", "after its refund", "late failure", "once")
_LAB = Actor(name="laboratory")
_STOCK = 100_000
_opening = asyncio.Lock()
DEADLY = 0.004
"""Of requests whose sender is killed before, and of those whose sender is killed after it is carried out."""
_STUCK_S = 20.0
UP_S = 240.0
"""For how long a server is waited for that starts, on a machine that is busy with other things."""
_UNASKED_S = 20.0
"""How long the outside world lets a request lie where two are to meet: long enough for the slower one to get there."""
_SOLD_MORE = 4
"""How many times as many orders as it began with an experiment sells to see enough go wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One experiment as it is drawn from a seed."""

    kind: str
    seed: int
    orders: int = 40
    dispatchers: int = 1
    postgres: bool = False
    share: float = 0.45
    """Of requests to the outside world that go wrong."""
    honours_keys: bool = False
    """Whether the outside world recognises an idempotency key; otherwise the product alone prevents a repeat."""
    webhooks: bool = False
    seconds: float = 15.0
    """For how long things are broken, before all is let run to rest."""
    wrong: int = 0
    """At least so many requests go wrong before that, however slow the machine: until then more orders are sold."""
    rest_s: float = 240.0
    """How long nothing may happen before all is said never to rest; five times as long is waited for everything."""
    without: str | None = None


@dataclass(slots=True)
class Result:
    """What came of experiments."""

    experiments: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    effects: int = 0
    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    unaccounted: list[str] = field(default_factory=list[str])
    in_doubt_accounted: int = 0

    @property
    def wrong(self) -> Counter[str]:
        """How often requests to the outside world went wrong, by what went wrong with them."""
        return Counter({said: self.faults[said] for said in (*_SAID.values(), *_BUSY) if self.faults[said]})

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled or left unaccounted for."""
        return not (self.lost or self.doubled or self.unaccounted)

    def add(self, other: Result) -> None:
        """Count another experiment in."""
        self.experiments += other.experiments
        self.faults += other.faults
        self.effects += other.effects
        self.lost += other.lost
        self.doubled += other.doubled
        self.unaccounted += other.unaccounted
        self.in_doubt_accounted += other.in_doubt_accounted


class World(StandIn):
    """Accounting, carrier and messenger outside: it records each act, and goes wrong as often as it is told to."""

    def __init__(self, random_: random.Random, *, honours_keys: bool, faults: Counter[str]) -> None:
        self.acts: list[tuple[str, str, str]] = []
        """Service, order (or message) and key of everything that was done."""
        self.share = 0.0
        self.down = False
        self.deadly = 0.0
        """Of requests whose sender is killed, before or after it is carried out."""
        self.slow_s = 0.0
        self.unasked_s = 0.0
        """How long a request lies before it is carried out, unless somebody asks about it meanwhile."""
        self.on_act: Callable[[int], None] | None = None
        self._random = random_
        self._honours_keys = honours_keys
        self._faults = faults
        self._asked: dict[tuple[str, str], asyncio.Event] = defaultdict(asyncio.Event)
        super().__init__(
            Starlette(
                routes=[
                    Route("/{service}", self._act, methods=["POST"]),
                    Route("/{service}/{key:path}", self._find, methods=["GET"]),
                ]
            )
        )

    async def _act(self, request: Request) -> Response:
        service, key = request.path_params["service"], request.headers["Idempotency-Key"]
        order = (await request.json())["order"]
        draw = self._random.random()
        if draw < self.deadly:
            self._kill("killed as its request arrived, before it was carried out", request)
            return JSONResponse({})
        # After a pause of this whole process the request and its sender's hanging up are read one after the other: the
        # second needs a moment to be seen, too.
        await asyncio.sleep(self.slow_s or 0.01)
        if self.unasked_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked[service, key].wait(), self.unasked_s)
        if await request.is_disconnected():
            # Here a minute of waiting takes no time, so that the sender may have asked, and have been told no, already.
            # Nobody can do anything against a system that carries out later what it has said it does not know.
            return JSONResponse({})
        if not (self._honours_keys and self._found(service, key)):
            self.acts.append((service, order, key))
        if self.on_act:
            self.on_act(int(request.headers["X-Worker"]))
        if draw > 1 - self.deadly:
            self._kill("killed after its request was carried out, before the answer", request)
        return JSONResponse({"ok": True, "reference": f"{service[:1].upper()}-{order}"})

    def _kill(self, said: str, request: Request) -> None:
        self._faults[said] += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(request.headers["X-Worker"]), signal.SIGKILL)

    def _found(self, service: str, key: str) -> str | None:
        return next((order for of, order, with_ in self.acts if (of, with_) == (service, key)), None)

    async def _find(self, request: Request) -> Response:
        service = request.path_params["service"]
        key = request.path_params["key"]
        self._asked[service, key].set()
        found = self._found(service, key)
        return JSONResponse({"reference": f"{service[:1].upper()}-{found}"} if found else {}, 200 if found else 404)

    def next_plan(self, seen: Seen) -> Plan | None:  # noqa: ARG002 - any request goes wrong alike
        """Draw whether a request goes wrong, and how."""
        if self.down:
            self._faults["down for an hour"] += 1
            return Plan(kind=Misbehavior.STATUS_BEFORE, status=503)
        return drawn_plan(self.share, self._random, self._faults)


class Gateway(StripeStandIn):
    """A stand-in for Stripe that goes wrong as often as it is told to."""

    def __init__(self, random_: random.Random, faults: Counter[str], secret: str) -> None:
        self.share = 0.0
        self._random, self._faults = random_, faults
        super().__init__(webhook_secret=secret)

    def next_plan(self, seen: Seen) -> Plan | None:  # noqa: ARG002 - any request goes wrong alike
        """Draw whether a request goes wrong, and how."""
        return drawn_plan(self.share, self._random, self._faults)


_SAID = {
    Misbehavior.HANG_BEFORE: "timed out before it was carried out",
    Misbehavior.HANG_AFTER: "timed out after it was carried out",
    Misbehavior.STATUS_BEFORE: "answered 503 before it was carried out",
    Misbehavior.STATUS_AFTER: "answered 500 after it was carried out",
    Misbehavior.CUT_BEFORE: "connection cut before it was carried out",
    Misbehavior.CUT_AFTER: "connection cut after it was carried out",
    Misbehavior.CUT_MIDWAY: "connection cut in the middle of the answer",
    Misbehavior.GARBAGE: "answered with garbage after it was carried out",
    Misbehavior.FAILURE: "answered 200 with a failure in the body",
    Misbehavior.TWICE: "answered twice",
}
_BUSY = ("answered 429 without Retry-After", "answered 429 with Retry-After")


def drawn_plan(
    share: float, random_: random.Random, faults: Counter[str], *, without: Collection[Misbehavior] = ()
) -> Plan | None:
    """Draw whether a request goes wrong, and how; without are ways that are not drawn."""
    if random_.random() >= share:
        return None
    # A request that hangs costs a second of real time, the others nothing, so those are drawn more often.
    known = [kind for kind in _SAID if kind not in without]
    quick = [kind for kind in known if kind not in (Misbehavior.HANG_BEFORE, Misbehavior.HANG_AFTER)]
    kind = random_.choice([*known, *quick, *quick, "busy", "busy"])
    if not isinstance(kind, Misbehavior):
        wait = random_.choice([None, "2", "30"])
        faults[_BUSY[wait is not None]] += 1
        return Plan(kind=Misbehavior.STATUS_BEFORE, status=429, retry_after=wait)
    faults[_SAID[kind]] += 1
    return Plan(kind=kind, status=503 if kind is Misbehavior.STATUS_BEFORE else 500)


class Prefect:
    """A real Prefect server, in a folder of its own, that can be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._lives = 0

    @property
    def environment(self) -> dict[str, str]:
        """The environment of whoever talks to it."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "KVIT_"))}
        return {**kept, **prefect_environment(self.home / f"life-{self._lives}", self.port)}

    async def start(self, *, anew: bool = False) -> None:
        """Start it, and wait until it answers; anew with an empty database."""
        self._lives += anew
        (self.home / f"life-{self._lives}" / "prefect").mkdir(parents=True, exist_ok=True)
        log = (self.home / "server.log").open("ab")
        command = [sys.executable, "-m", "deployments.guarded_prefect"]
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it is not waited for
            command, env=self.environment, stdout=log, stderr=log, start_new_session=True
        )
        async with httpx.AsyncClient(timeout=2) as client:
            deadline = time.monotonic() + UP_S
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"http://{HOST}:{self.port}/api/health")).is_success:
                        return
                await asyncio.sleep(0.2)
        raise Misconfigured(f"Prefect's server did not answer; its log is {self.home / 'server.log'}")

    def kill(self) -> None:
        """Kill it and all that it started, as by `kill -9`."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Bench:
    """One experiment under way: its shop, its processes, and the outside world."""

    def __init__(
        self, experiment: Experiment, home: Path, url: str, prefect: Prefect, restart_postgres: Callable[[], None]
    ) -> None:
        self.experiment = experiment
        self.home = home
        self.url = url
        self.prefect = prefect
        self.restart_postgres = restart_postgres
        self.random = random.Random(experiment.seed)
        self.result = Result(experiments=1)
        self.world = World(self.random, honours_keys=experiment.honours_keys, faults=self.result.faults)
        self.gateway = Gateway(self.random, self.result.faults, "whsec_laboratory")
        self.clock = home / "clock"
        self.moved_s = 0.0
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.frozen: set[str] = set()
        self.started = 0
        self.breaking = True
        self.planned: dict[str, str] = {}
        """The boundary at which each worker is to die."""
        self.web_port = free_port()
        self.opened: Installation
        self.sold = 0
        self.expected: dict[str, int] = {}
        """The orders that are paid, by number."""
        self.refunded: set[str] = set()
        self.intents: dict[str, str] = {}
        self.fates: dict[str, str] = {}
        """What became of an order's money after it was paid, by number; those that are missing kept theirs."""

    @property
    def outside(self) -> Sequence[StandIn]:
        """The systems of the outside world."""
        return self.world, self.gateway

    @property
    def tag(self) -> str:
        """What names this experiment in what it finds."""
        return f"{self.experiment.kind} (seed {self.experiment.seed})"

    def now(self) -> datetime:
        """Return the experiment's time."""
        return datetime.now(UTC) + timedelta(seconds=self.moved_s)

    def move(self, seconds: float) -> None:
        """Move the clock of every process."""
        self.moved_s += seconds
        new = self.clock.with_suffix(".new")
        new.write_text(str(self.moved_s))
        new.replace(self.clock)

    def start(self, role: str = "dispatcher", **plan: Any) -> str:
        """Start a process; while things are being broken, every other one is to die at a boundary."""
        self.started += 1
        name = f"{role}-{self.started}"
        kill: dict[str, Any] | None = plan.pop("kill", None)
        if kill is None and self.breaking and self.experiment.without == "record-transaction":
            kill = {"point": "between", "nth": self.random.randint(2, 5)}
        elif kill is None and self.breaking and self.random.random() < 0.5:
            points = ("webhook stored",) if role == "web" else BOUNDARIES
            kill = {"point": self.random.choice(points), "nth": self.random.randint(1, 30)}
        config: dict[str, Any] = {
            "home": str(self.home),
            "url": self.url,
            "role": role,
            "name": name,
            "clock": str(self.clock),
            "office": self.world.url,
            "port": self.web_port,
            "concurrent": 2 if self.experiment.postgres else 1,
            "timeout": 1.5 * _UNASKED_S if self.experiment.kind == "meeting" else 1.0,
            "outages": self.experiment.kind == "outage",
            "without": self.experiment.without,
            "kill": kill,
            **plan,
        }
        file = self.home / f"{name}.json"
        file.write_text(json.dumps(config))
        log = (self.home / f"{name}.log").open("ab")
        environment = self.prefect.environment | {"KVIT_HOME": str(self.home), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        self.workers[name] = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "lab_worker.py"), str(file)],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
        if kill:
            self.planned[name] = kill["point"]
        return name

    def _keep_running(self) -> None:
        """Count the processes that died, and start others in their place."""
        for name, process in list(self.workers.items()):
            code = process.poll()
            if code is None:
                continue
            del self.workers[name]
            if code == -signal.SIGKILL and name in self.planned:
                self.result.faults[f"killed {self.planned[name]}"] += 1
            role = name.partition("-")[0]
            if role in ("dispatcher", "web"):
                self.start(role)

    async def _sql(self, query: str, **values: Any) -> list[Any]:
        """Ask the store; while it is locked, full or away, again."""
        deadline = time.monotonic() + self.experiment.rest_s
        while True:
            try:
                async with self.opened.store.read() as connection:
                    return list((await connection.execute(text(query), values)).all())
            except (SQLAlchemyError, OSError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def _held_by_living(self) -> bool:
        owners = await self._sql(
            "SELECT lease_owner FROM effects WHERE lease_owner IS NOT NULL UNION "
            "SELECT lease_owner FROM work WHERE lease_owner IS NOT NULL UNION "
            "SELECT lease_owner FROM inbox WHERE lease_owner IS NOT NULL AND handled_at IS NULL"
        )
        living = set(self.workers) - self.frozen
        return any(owner.partition("/")[0] in living for (owner,) in owners)

    async def _next_moment(self) -> datetime | None:
        """Return when the next thing that is due may be taken, or None when nothing is left to do.

        A worker that died leaves its lease on what it had: that is taken when it is due and the lease over.
        """
        free = "min(CASE WHEN lease_until > due_at THEN lease_until ELSE due_at END)"
        moments = await self._sql(
            f"SELECT {free} FROM work WHERE due_at IS NOT NULL UNION ALL "  # noqa: S608 - nothing from outside is in it
            f"SELECT {free} FROM inbox WHERE due_at IS NOT NULL"
        )
        found = [_moment(value) for (value,) in moments if value is not None]
        return min(found, default=None)

    async def pass_time(self) -> bool:
        """Move the clock to the next moment at which something happens, if all is quiet; say whether all is done."""
        self._keep_running()
        if await self._held_by_living():
            return False
        moment = await self._next_moment()
        if moment is None:
            return True
        ahead = (moment - self.now()).total_seconds()
        if ahead > 0.5:
            self.move(ahead + 1)
        return False

    def stir(self) -> None:
        """Let the outside world go wrong as often as the experiment says."""
        self.world.share = self.gateway.share = self.experiment.share
        self.world.deadly = DEADLY if self.experiment.share else 0.0

    def calm(self) -> None:
        """Let the outside world do what it is asked for."""
        self.world.share = self.gateway.share = self.world.deadly = self.world.slow_s = self.world.unasked_s = 0.0
        self.world.down = False
        self.world.behave()
        self.gateway.behave()
        self.world.on_act = None

    async def let_rest(self) -> None:
        """Break nothing more, and let everything run until nothing is due."""
        self.breaking = False
        self.calm()
        patience = self.experiment.rest_s
        told, deadline, at_last = -1, 0.0, time.monotonic() + 5 * patience
        while not await self.pass_time():
            ((now_told,),) = await self._sql("SELECT count(*) FROM journal")
            if now_told != told:  # a busy machine takes its time; what stands still is what never rests
                told, deadline = now_told, min(time.monotonic() + patience, at_last)
            if time.monotonic() > deadline:
                due = await self._sql(
                    "SELECT subject, subject_id, scenario, due_at, note FROM work WHERE due_at IS NOT NULL"
                )
                self.result.unaccounted.append(f"{self.tag}: it did not come to rest: {[tuple(r) for r in due[:3]]}")
                return
            await asyncio.sleep(0.15)

    async def run(self) -> Result:
        """Carry the experiment out, and count."""
        async with contextlib.AsyncExitStack() as stack:
            for system in self.outside:
                await stack.enter_async_context(system)
            self.clock.write_text("0")
            self._configure()
            async with _opening:  # Alembic's context belongs to the process
                self.opened = replace(await open_installation(self.home, database_url=self.url), clock=self.now)
            try:
                await self._open_shop()
                if self.experiment.without == "unique-key":
                    await self._drop_unique_key()
                for _ in range(self.experiment.dispatchers):
                    self.start()
                if self.experiment.webhooks:
                    self.start("web")
                self.stir()
                await self._break()
                await self.let_rest()
                await self._count()
            finally:
                for process in self.workers.values():
                    process.kill()
                    process.wait()
                await close_installation(self.opened)
        return self.result

    def _configure(self) -> None:
        stripe = {
            "name": "stripe",
            "type": "stripe",
            "api_key": self.gateway.api_key,
            "webhook_secret": self.gateway.webhook_secret,
            "base_url": self.gateway.base_url,
            "limits": {"timeout": 1.0},
        }
        (self.home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": [stripe]}))

    async def _open_shop(self) -> None:
        file = ROOT / "deployments" / "rules" / "cz.yaml"
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        outside = (
            ("carrier", "messenger") if self.experiment.kind == "returned" else ("accounting", "carrier", "messenger")
        )
        document["connectors"] = dict.fromkeys(outside, "office")
        document["placed"] = {}
        parsed = parse_rules(document, where=file.name).model_dump(mode="json", exclude_unset=True)
        now = self.now()
        async with self.opened.store.write() as connection:
            await rules.save(connection, parsed, channel="cz", author="laboratory", reason="opening", now=now)
            await stock.count(connection, "TEA-SEN-100", "Sencha", _STOCK, now=now)

    async def _drop_unique_key(self) -> None:
        async with self.opened.store.write() as connection:
            await connection.execute(text("ALTER TABLE effects DROP CONSTRAINT uq_effects_order_id_step_cause"))

    async def place(self, number: str) -> None:
        """Take an order in."""
        placed_at = (self.now() - timedelta(days=1)).isoformat()
        document = parse_order(order_document(number, placed_at=placed_at), where="laboratory")
        async with self.opened.store.write() as connection:
            await take_order(connection, self.opened, document, actor=_LAB)

    async def pay(self, number: str) -> None:
        """Let an order be paid by a payment that is stored at once."""
        paid = payment_of(number, booked_on=self.now().date())
        async with self.opened.store.write() as connection:
            for id_, scenario in await payments.add(connection, [paid], now=self.now()):
                await work.add(connection, scenario, "payment", [id_], now=self.now())
        self.expected[number] = 1

    async def _break(self) -> None:
        trouble = asyncio.create_task(getattr(self, f"_{self.experiment.kind}")())
        await self._sell_orders(self.experiment.orders)
        deadline = time.monotonic() + self.experiment.seconds
        done = False
        while not (trouble.done() and self._is_enough(done=done, deadline=deadline)):
            if done and trouble.done():
                await self._sell_orders(self.experiment.orders)
            done = await self.pass_time()
            if not self.world.acts and not done:
                deadline = time.monotonic() + self.experiment.seconds  # the processes are still starting
            await asyncio.sleep(0.15)
        await trouble

    def _is_enough(self, *, done: bool, deadline: float) -> bool:
        """Say whether things were broken for long enough: by time, or all is done; and so that enough went wrong."""
        if self.result.wrong.total() >= self.experiment.wrong:
            return done or time.monotonic() > deadline
        # Where nothing goes wrong, whatever is sold, whoever reads the result is to see that.
        sold_out = done and self.sold >= (1 + _SOLD_MORE) * self.experiment.orders
        return sold_out or time.monotonic() > deadline + 5 * self.experiment.rest_s

    def _more_numbers(self, prefix: str, first: int, count: int) -> list[str]:
        """Return the numbers of orders that are sold now."""
        self.sold += count
        return [f"{prefix}{first + place}" for place in range(self.sold - count, self.sold)]

    async def _sell_orders(self, count: int) -> None:
        numbers = self._more_numbers("CZ", 5001, count)
        if self.experiment.webhooks:
            await asyncio.gather(*(self._sell(number) for number in numbers))
            return
        for number in numbers:
            await self._again_until_done(self.place, number)
            await self._again_until_done(self.pay, number)

    async def _again_until_done(self, act: Callable[[str], Any], number: str) -> None:
        """Do something to the store as whoever sells does it: again, if the database was not there."""
        deadline = time.monotonic() + UP_S
        while True:
            try:
                return await act(number)
            except (SQLAlchemyError, OSError) as error:
                if time.monotonic() > deadline:
                    raise AssertionError("the database did not come back") from error
                await asyncio.sleep(0.2)

    # Ways to be paid by webhook

    async def _sell(self, number: str) -> None:
        ways = ["twice", "ten at once", "before the order", "late failure", "once"]
        if self.experiment.kind != "returned":
            ways.append("after its refund")
        way = self.random.choice(ways)
        event = self.gateway.pay(number, 37_800, "czk", now=self.now())
        intent = event["data"]["object"]["id"]
        if way != "once":
            self.result.faults[f"webhook: {way}"] += 1
        if way != "before the order":
            await self._again_until_done(self.place, number)
        if way == "after its refund":
            refund = self.gateway.refund(intent, now=self.now())
            await self._deliver(refund)
            self.refunded.add(number)
        if way == "late failure":
            failed = self.gateway.fail(number, 37_800, "czk", now=self.now())
            await self._deliver(event)
            await self._deliver(failed)
        elif way == "ten at once":
            await asyncio.gather(*(self._deliver(event) for _ in range(10)))
        elif way == "twice":
            await self._deliver(event)
        await self._deliver(event)
        if way == "before the order":
            await self._again_until_done(self.place, number)
        self.expected[number] = 1
        self.intents[number] = intent

    async def _deliver(self, event: Any) -> None:
        """Deliver a webhook as its sender does: again until it is answered with success."""
        deadline = time.monotonic() + UP_S
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if await self.gateway.deliver(event, f"http://{HOST}:{self.web_port}/webhooks/stripe", self.now()) == [
                    200
                ]:
                    return
            self._keep_running()
            await asyncio.sleep(0.1)
        raise AssertionError("a webhook was never taken")

    # What goes wrong besides

    async def _calls(self) -> None:
        """Nothing but what the outside world does, and workers that die."""

    async def _twice(self) -> None:
        """The same flow is started by hand, twice at once, beside the dispatcher."""
        for _ in range(2):
            await asyncio.sleep(2)
            self.start("again", kill={})
            self.result.faults["flow run started twice"] += 1

    async def _meeting(self) -> None:
        """The same flow is started twice at once and nobody else is at work, so that the two meet at every step.

        The outside world takes its time: while it has what the one wants done, the other comes to the same step.
        """
        self.world.unasked_s = _UNASKED_S
        while len(self.expected) < self.experiment.orders:  # noqa: ASYNC110 - another task sells
            await asyncio.sleep(0.05)
        both = self.start("again", kill={})
        self.result.faults["flow run started twice"] += 1
        deadline = time.monotonic() + UP_S
        while both in self.workers and time.monotonic() < deadline:  # noqa: ASYNC110 - another task looks
            await asyncio.sleep(0.05)
        self.world.unasked_s = 0.0
        self.start(kill={})

    async def _outage(self) -> None:
        """The outside world is down for an hour."""
        await asyncio.sleep(1)
        self.world.down = True
        begun = self.now()
        give_up = time.monotonic() + _STUCK_S
        while (self.now() - begun).total_seconds() < 3600 and time.monotonic() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        self.world.down = False

    async def _prefect(self) -> None:
        """Prefect's server is killed, for a while, and then for good: another one takes its place."""
        for anew in (False, True):
            await asyncio.sleep(2)
            self.prefect.kill()
            self.result.faults["Prefect's server killed " + ("for good" if anew else "for a while")] += 1
            await asyncio.sleep(2)
            await self.prefect.start(anew=anew)
        for process in list(self.workers.values()):
            process.kill()  # their client speaks to a server that knows nothing of them

    async def _database(self) -> None:
        """The database is locked, its disk is full, or it is restarted."""
        for _ in range(3):
            await asyncio.sleep(1.5)
            if self.experiment.postgres:
                self.result.faults["PostgreSQL restarted"] += 1
                await asyncio.to_thread(self.restart_postgres)
            elif self.random.random() < 0.5:
                self.result.faults["SQLite locked by another process"] += 1
                await asyncio.to_thread(_lock_sqlite, self.home / "kvit.sqlite", 2.0)
            else:
                self.result.faults["disk full"] += 1
                (self.home / "disk-full").touch()
                await asyncio.sleep(2)
                (self.home / "disk-full").unlink()

    async def _clock(self) -> None:
        """The clock is set back."""
        for _ in range(3):
            await asyncio.sleep(2)
            self.result.faults["clock set back"] += 1
            self.move(-self.random.randint(10, 7200))

    async def _returned(self) -> None:
        """Orders that are being carried on are refunded, charged back, or taken back by a person."""
        for place in range(self.experiment.orders):
            number = f"CZ{5001 + place}"
            while number not in self.intents:  # noqa: ASYNC110 - another task sells
                await asyncio.sleep(0.05)
            await asyncio.sleep(self.random.uniform(0, 0.3))
            fate = self.random.choice(["kept", "refunded", "charged back", "reverted", "reverted twice"])
            if fate in ("refunded", "charged back"):
                move = self.gateway.refund if fate == "refunded" else self.gateway.dispute
                event = move(self.intents[number], now=self.now())
                for _ in range(self.random.randint(1, 3)):
                    await self._deliver(event)
            if fate == "reverted" and not await self._revert(number):
                continue
            if fate == "reverted twice":
                begun = await asyncio.gather(self._revert(number), self._revert(number))
                if not any(begun):
                    continue
            if fate != "kept":
                self.fates[number] = fate.removesuffix(" twice")
                self.result.faults[f"{fate} while it was carried on"] += 1

    async def _revert(self, number: str) -> bool:
        """Begin to take an order back as soon as nothing is in the way; say whether that was so in time."""
        for _ in range(40):
            with contextlib.suppress(RevertError, SQLAlchemyError, OSError):
                async with self.opened.store.read() as connection:
                    ((order_id, _channel),) = await orders.ids_of(connection, number)
                await begin(self.opened, [order_id], author="laboratory", because="by its plan", force=True)
                return True
            await asyncio.sleep(0.2)
        return False

    async def _frozen(self) -> None:
        """A worker is stopped while its request is being carried out, until its lease has long run out."""
        stopped: list[int] = []

        def stop(pid: int) -> None:
            if not stopped and self.random.random() < 0.2:
                stopped.append(pid)
                os.kill(pid, signal.SIGSTOP)

        for _ in range(2):
            self.world.on_act = stop
            give_up = time.monotonic() + 6
            while not stopped and time.monotonic() < give_up:  # noqa: ASYNC110 - set in another callback
                await asyncio.sleep(0.05)
            if not stopped:
                self.world.on_act = None
                continue
            name = next((name for name, process in self.workers.items() if process.pid == stopped[0]), None)
            if name:
                self.result.faults["lease ran out while its owner was at work"] += 1
                self.frozen.add(name)
                self.start(kill={})
                self.move(200)
                await asyncio.sleep(4)
                self.frozen.discard(name)
            self.world.on_act = None
            with contextlib.suppress(ProcessLookupError):
                os.kill(stopped[0], signal.SIGCONT)
            stopped.clear()

    # What must be

    async def _count(self) -> None:
        """Compare what was delivered with what the outside world and the store have."""
        result, tag = self.result, self.tag
        acts = Counter((service, order) for service, order, _ in self.world.acts)
        rows = await self._sql(
            "SELECT o.number, e.step, e.state, e.cause FROM effects e JOIN orders o ON o.id = e.order_id"
        )
        waits = {row.number for row in rows if row.state in ("in_doubt", "rejected")} | await self._parked()
        result.in_doubt_accounted += len(waits)
        result.effects += len(rows)
        sold = Counter(number for number, _ in await self._deducted())
        for number in self.expected:
            if self.experiment.kind == "returned":
                await self._count_returned(number, acts, rows, waits, tag)
                continue
            if number in self.refunded:
                wrong = {s: acts[s, number] for s in ("invoice", "label") if acts[s, number] > 1}
                result.doubled += [f"{tag}: {number}: {s} {n} times" for s, n in wrong.items()]
                continue
            found = {"invoice": acts["invoice", number], "label": acts["label", number], "stock": sold[number]}
            for service, times in found.items():
                if times > 1:
                    result.doubled.append(f"{tag}: {number}: {service} {times} times")
                if times < 1 and number not in waits:
                    result.lost.append(f"{tag}: {number}: no {service}")
            done = {row.step for row in rows if row.number == number and row.state == "done"}
            missing = {"status", "invoice", "message", "stock", "dispatch", "message dispatch"} - done
            if missing and number not in waits:
                result.lost.append(f"{tag}: {number}: not done: {', '.join(sorted(missing))}")
        sent = Counter(key for service, _, key in self.world.acts if service == "message")
        result.doubled += [f"{tag}: a message was sent {n} times" for n in sent.values() if n > 1]
        unsent = len(await self._sql("SELECT id FROM effects WHERE step LIKE 'message%' AND state = 'done'")) - len(
            sent
        )
        if unsent > 0:
            result.lost.append(f"{tag}: {unsent} messages are told of and were not sent")
        async with self.opened.store.read() as connection:
            findings = await audit(connection, now=self.now())
        result.unaccounted += [f"{tag}: {one.invariant}: {one.subject}: {one.said}" for one in findings]

    async def _count_returned(
        self, number: str, acts: Counter[tuple[str, str]], rows: list[Any], waits: set[str], tag: str
    ) -> None:
        """Compare what is left of an order with what became of its money."""
        fate = self.fates.get(number, "kept")
        label, cancelled = acts["label", number], acts["cancel", f"L-{number}"]
        (left,) = await self._sql(
            "SELECT o.standard_status AS status,"
            " (SELECT count(*) FROM documents d WHERE d.order_id = o.id AND d.kind = 'invoice') AS invoices,"
            " (SELECT count(*) FROM documents d WHERE d.order_id = o.id AND d.kind = 'invoice' AND d.live) AS live,"
            " (SELECT coalesce(sum(CASE m.kind WHEN 'deduct' THEN m.quantity WHEN 'restock' THEN -m.quantity ELSE 0"
            "  END), 0) FROM stock_moves m WHERE m.order_id = o.id) AS out,"
            " (SELECT coalesce(sum(a.amount_minor), 0) FROM allocations a WHERE a.order_id = o.id) AS settled"
            " FROM orders o WHERE o.number = :number",
            number=number,
        )
        seen = f"{tag}: {number}, {fate}"
        self.result.doubled += [
            f"{seen}: {what} {times} times"
            for what, times in (("label", label), ("invoice", left.invoices))
            if times > 1
        ]
        if left.out not in (0, 2):
            self.result.doubled.append(f"{seen}: {left.out} packets are out")
        if number in waits:
            return
        done = {row.step for row in rows if row.number == number and row.state == "done"}
        if fate == "kept":
            missing = {"status", "invoice", "message", "stock", "dispatch", "message dispatch"} - done
            if missing or (label, cancelled, left.live, left.out, left.settled) != (1, 0, 1, 2, 37_800):
                self.result.lost.append(f"{seen}: {left} label {label} cancelled {cancelled} missing {sorted(missing)}")
            return
        if left.settled:
            self.result.lost.append(f"{seen}: {left.settled} is still settled")
        if label and not cancelled:
            self.result.lost.append(f"{seen}: its label was not cancelled")
        if fate != "charged back" and (left.live or left.out):
            self.result.lost.append(f"{seen}: {left.live} invoices in force, {left.out} packets out")
        if fate == "reverted" and left.status != "new":
            self.result.lost.append(f"{seen}: its status is {left.status}")

    async def _parked(self) -> set[str]:
        """Return the orders of webhooks that are left to a person, as the gateway's answer could not be used."""
        rows = await self._sql("SELECT body FROM inbox WHERE due_at IS NULL AND handled_at IS NULL")
        names = {number: {number, self.intents.get(number, number)} for number in self.expected}
        return {
            number for number, of in names.items() for (body,) in rows if any(one.encode() in bytes(body) for one in of)
        }

    async def _deducted(self) -> list[tuple[str, int]]:
        rows = await self._sql(
            "SELECT o.number, m.id FROM stock_moves m JOIN orders o ON o.id = m.order_id WHERE m.kind = 'deduct'"
        )
        return [(row.number, row.id) for row in rows]


def _moment(value: Any) -> datetime:
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _lock_sqlite(file: Path, seconds: float) -> None:
    connection = sqlite3.connect(file, timeout=10, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    time.sleep(seconds)
    connection.execute("ROLLBACK")
    connection.close()


@contextlib.asynccontextmanager
async def laboratory(folder: Path) -> AsyncGenerator[Laboratory]:
    """Start what all experiments share."""
    lab = Laboratory(folder)
    try:
        await lab.prefect.start()
        yield lab
    finally:
        lab.prefect.kill()
        lab.close()


class Laboratory:
    """What experiments share: a Prefect server, and a PostgreSQL for those that want one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefect = Prefect(folder / "prefect")
        self._stack = contextlib.ExitStack()
        self._new: Callable[[], str] | None = None
        self._postgres: dict[str, Any] = {}

    def restart_postgres(self) -> None:
        """Restart PostgreSQL at once, as after a crash."""
        control(self._postgres["server"], "restart", "-m", "immediate")

    def close(self) -> None:
        """End the PostgreSQL."""
        self._stack.close()

    def _url(self, experiment: Experiment, home: Path) -> str:
        if not experiment.postgres:
            return f"sqlite:///{home / 'kvit.sqlite'}"
        if self._new is None:
            from step_builders import postgres

            self._new = self._stack.enter_context(postgres(self._postgres))
        return self._new()

    async def run(self, experiment: Experiment) -> Result:
        """Carry one experiment out in a shop of its own."""
        home = self.folder / f"{experiment.kind}-{experiment.seed}"
        home.mkdir(parents=True)
        async with _opening:  # so does the lock by which PostgreSQL's package starts a server
            url = await asyncio.to_thread(self._url, experiment, home)
        bench = Bench
        if experiment.kind == "systems":
            from lab_systems import SystemsBench

            bench = SystemsBench
        return await bench(experiment, home, url, self.prefect, self.restart_postgres).run()


KINDS = ("calls", "twice", "outage", "prefect", "database", "clock", "frozen", "returned", "systems")


def drawn(seed: int, *, kinds: Sequence[str] = KINDS, without: str | None = None) -> Experiment:
    """Draw an experiment from a seed."""
    random_ = random.Random(seed)
    # What the outside world does is where most money is lost, and each call of it is a fault of its own: so there such
    # experiments are many and large.
    weights = [{"calls": 6, "systems": 3}.get(kind, 1) for kind in kinds]
    kind = random_.choices(list(kinds), weights)[0]
    calls, systems = kind == "calls", kind == "systems"
    webhooks = random_.random() < 0.3 or kind in ("returned", "systems")
    large = 300 if webhooks else random_.choice([800, 1200])
    return Experiment(
        kind=kind,
        seed=seed,
        orders=large if calls else 20 if systems else 40,
        dispatchers=random_.choice([1, 2, 4]),
        postgres=random_.random() < 0.5,
        # What is one request of the office's is several of a real system's, and each may go wrong.
        share=random_.choice([0.5, 0.7, 0.8]) if calls else random_.choice([0.1, 0.15, 0.2]) if systems else 0.3,
        honours_keys=random_.random() < 0.3,
        webhooks=webhooks,
        seconds=120.0 if calls else 60.0 if systems else 15.0,
        without=without,
    )


def aimed(guard: str) -> Experiment:
    """Return the experiment that the product can't pass without one of its guards."""
    common: dict[str, Any] = {"seed": GUARDS.index(guard) + 1, "orders": 40, "without": guard, "honours_keys": False}
    common |= {"seconds": 10.0, "rest_s": 20.0}  # without a guard it may never rest
    return {
        "unique-key": Experiment(kind="twice", postgres=True, dispatchers=4, share=0.0, **common),
        "lookup": replace(Experiment(kind="calls", share=0.5, wrong=30, **common), orders=15),
        "lease": replace(Experiment(kind="meeting", dispatchers=0, share=0.0, **common), orders=10),
        "record-transaction": Experiment(kind="calls", share=0.3, wrong=60, **common),
        "connectors-look": replace(Experiment(kind="systems", share=0.3, webhooks=True, **common), orders=8),
    }[guard]
