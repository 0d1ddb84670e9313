"""The way of a payment on PostgreSQL, for a database user who has the rights that the product says it needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from shop_builders import Clock, buy, carry_on, done_outside, order_of, pay, payment_row, shop, steps_of, stock_up
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from step_builders import postgres

from deployments.dispatcher import Dispatcher
from store.audit import audit
from store.database import open_store
from store.rights import product_rights
from tasks.installation import Installation
from tasks.revert import begin

OWNER, APP = "kvit_owner", "kvit_app"


async def _run(url: str, *statements: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


async def _prepare(url: str) -> None:
    database = make_url(url).database
    await _run(
        url, f"CREATE ROLE {OWNER} LOGIN", f"CREATE ROLE {APP} LOGIN", f"ALTER DATABASE {database} OWNER TO {OWNER}"
    )
    owners = make_url(url).set(username=OWNER).render_as_string(hide_password=False)
    await (await open_store(owners)).close()
    await _run(owners, *product_rights(APP))


@pytest.fixture(scope="module")
def apps_url() -> Generator[str]:
    """Make a database with its tables by their owner, and give the running product's user its rights."""
    with postgres() as new:
        url = new()
        asyncio.run(_prepare(url))
        yield make_url(url).set(username=APP).render_as_string(hide_password=False)


@pytest.fixture
async def opened(apps_url: str, tmp_path: Path, clock: Clock) -> AsyncGenerator[Installation]:
    """Open an installation as that user, with rules and stock."""
    async with shop(tmp_path / "shop", url=apps_url, clock=clock) as working:
        await stock_up(working)
        yield working


async def test_orders_are_paid_carried_on_and_taken_back(opened: Installation) -> None:
    by_card = await buy(opened, "CZ5001")
    card = await pay(opened, "CZ5001")
    assert (await carry_on("card", card)).name == "Done"
    by_transfer = await buy(opened, "CZ5002", "bank_transfer")
    assert (await carry_on("order_placed", by_transfer)).name == "Done"
    transfer = await pay(opened, "CZ5002", method="bank_transfer")
    assert (await carry_on("bank_transfer", transfer)).name == "Done"
    unknown = await pay(opened, None)
    await carry_on("card", unknown)
    begun = await begin(opened, [by_card], author="jana", because="the rights allow it", force=True)
    assert (await carry_on("revert", *begun)).name == "Done"

    outcomes = {id_: (await payment_row(opened, id_))["outcome"] for id_ in (card, transfer, unknown)}
    assert outcomes == {card: "taken_back", transfer: "exact", unknown: "unknown"}
    assert (await order_of(opened, by_card)).status != (await order_of(opened, by_transfer)).status
    assert (await done_outside(opened))["labels"] >= 1
    async with opened.store.read() as connection:
        assert await audit(connection, now=opened.clock()) == []


async def test_the_dispatcher_works_off_what_is_due(opened: Installation, clock: Clock) -> None:
    order_id = await buy(opened, "CZ5003")
    payment_id = await pay(opened, "CZ5003")
    clock.forward(seconds=1)
    assert await Dispatcher(opened).work_off() >= 2
    assert (await payment_row(opened, payment_id))["outcome"] == "exact"
    assert (await steps_of(opened, order_id))["invoice"]["state"] == "done"
