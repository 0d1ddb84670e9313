"""Placed: the orders that begin their way before any money has come."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from domain.orders import CLOSED
from store import orders
from tasks.installation import installation
from tasks.step import Batch, Item, run_log


@task(name="take orders", cache_policy=NO_CACHE)
async def placed_orders(ids: Sequence[int]) -> Batch:
    """Take the placed orders that are still open."""
    opened = await installation()
    async with opened.store.read() as connection:
        found = await orders.load(connection, ids)
    log = run_log()
    items: list[Item] = []
    for id_ in ids:
        order = found.get(id_)
        if order is None or order.standard_status in CLOSED:
            log.info("order %s · left alone: it is %s", id_, order.status if order else "not in the store")
        else:
            items.append(Item(id_, order.number, f"order:{id_}"))
    return Batch(tuple(items))
