"""Builders shared by the tests of the step machinery: an outside system, steps on it, and what became of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from postgres_server import postgres_server
from sqlalchemy import select, text, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.errors import raise_for_status
from connectors.http import Client, Limits
from domain.orders import Order
from domain.rules import ChannelRules
from store import effects, journal
from store.effects import Standing
from store.tables import EffectRow, StockItem
from tasks.installation import Installation
from tasks.step import CONCURRENT, Batch, Item, Receipt, Step, Transaction, step


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


TEA = "TEA-SEN-100"


async def on_hand(opened: Installation) -> int:
    """Return how many packets of tea lie on the shelf."""
    async with opened.store.read() as connection:
        return await connection.scalar(select(StockItem.on_hand).where(StockItem.sku == TEA)) or 0


async def take_one(transaction: Transaction) -> None:
    """Take one packet of tea from the shelf, in the transaction that records an effect."""
    await transaction.connection.execute(
        update(StockItem).where(StockItem.sku == TEA).values(on_hand=StockItem.on_hand - 1)
    )


def states(found: Sequence[Standing]) -> dict[str, str]:
    """Return states by order number."""
    return {one.number: one.state.value for one in found}


def _nothing(_request: Request) -> None:
    pass


@dataclass
class Office:
    """An outside system that issues a paper whenever it is asked: it never notices a repeat, so that tests do.

    on_arrival is called before a request is carried out, on_issue after that and before the answer, on_look when a
    paper is looked for.
    """

    issued: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Order number and idempotency key of each paper."""
    on_arrival: Callable[[Request], None] = _nothing
    on_issue: Callable[[Request], None] = _nothing
    on_look: Callable[[Request], None] = _nothing

    @property
    def orders(self) -> list[str]:
        """The orders that got a paper, sorted, as often as they got one."""
        return sorted(order for order, _ in self.issued)

    @property
    def app(self) -> Starlette:
        """The system, to be served by a stand-in."""
        return Starlette(routes=[Route("/papers", self._issue, methods=["POST"]), Route("/papers/{key}", self._find)])

    async def _issue(self, request: Request) -> Response:
        paper = await request.json()
        self.on_arrival(request)
        self.issued.append((paper["order"], request.headers["Idempotency-Key"]))
        self.on_issue(request)
        return JSONResponse({"reference": f"P-{paper['order']}"}, 201)

    async def _find(self, request: Request) -> Response:
        self.on_look(request)
        wanted = request.path_params["key"]
        found = [order for order, key in self.issued if key == wanted]
        return JSONResponse({"reference": f"P-{found[0]}"} if found else {}, 200 if found else 404)


class OfficeConnector:
    """What speaks to the office."""

    def __init__(self, url: str, *, timeout_s: float = 5.0, **options: Any) -> None:
        self._client = Client("office", url, Limits(concurrent=CONCURRENT, timeout=timeout_s), **options)

    async def issue(self, number: str, key: str) -> str:
        """Have a paper issued for an order, and return its reference."""
        headers = {"Idempotency-Key": key}
        answer = await self._client.request("POST", "/papers", json={"order": number}, headers=headers)
        raise_for_status("office", answer)
        return answer.json()["reference"]

    async def find(self, key: str) -> str | None:
        """Return the reference of the paper that was issued with a key, or None."""
        answer = await self._client.request("GET", f"/papers/{key}")
        if answer.status_code == 404:
            return None
        raise_for_status("office", answer)
        return answer.json()["reference"]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def issuing(office: OfficeConnector, *, can_look_up: bool = True) -> Step:
    """Make the step that has a paper issued by the office."""

    @step("paper")
    async def issue(order: Order, _rules: ChannelRules, key: str) -> Receipt:
        """Have the office issue a paper."""
        return Receipt(reference=await office.issue(order.number, key), before={"papers": 0}, after={"papers": 1})

    async def find(_order: Order, _rules: ChannelRules, key: str) -> Receipt | None:
        reference = await office.find(key)
        return Receipt(reference=reference) if reference else None

    if can_look_up:
        issue.lookup(find)
    return issue


@contextmanager
def postgres(kept: dict[str, Any] | None = None) -> Generator[Callable[[], str]]:
    """Run a PostgreSQL in a folder of its own; what is given makes an empty database and returns its address.

    kept is where its server is put, for who wants to restart it.
    """
    names = (f"shop_{number}" for number in itertools.count(1))
    socket_folder = ""

    def url(database: str) -> str:
        made = URL.create("postgresql+asyncpg", username="postgres", database=database, query={"host": socket_folder})
        return made.render_as_string(hide_password=False)

    async def run(*statements: str) -> None:
        engine = create_async_engine(url("postgres"), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
        await engine.dispose()

    def new() -> str:
        name = next(names)
        asyncio.run(run(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy"))
        return url(name)

    with postgres_server() as server:
        if kept is not None:
            kept["server"] = server
        socket_folder = str(server.get_postmaster_info().socket_dir)
        # Nothing here is about power failures, and tests wait for the disk otherwise.
        asyncio.run(run("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"))
        yield new
