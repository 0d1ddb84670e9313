"""Placed: the orders that begin their way before any money has come."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from store import orders
from tasks.installation import installation
from tasks.step import Batch, Item, run_log


@task(name="take orders", cache_policy=NO_CACHE)
async def placed_orders(ids: Sequence[int]) -> Batch:
    """Take the placed orders; no step begins any more for one that is closed, and each says so itself.

    A closed order is not left out: a step of it that had begun would stay due for ever.
    """
    opened = await installation()
    async with opened.store.read() as connection:
        found = await orders.load(connection, ids)
    log = run_log()
    items: list[Item] = []
    for id_ in ids:
        order = found.get(id_)
        if order is None:
            log.info("order %s · left alone: it is not in the store", id_)
        else:
            items.append(Item(id_, order.number, f"order:{id_}"))
    return Batch(tuple(items))
