"""Held out: a step that is claimed sees who holds its order out, and putting back makes all that waits due."""

from __future__ import annotations

from datetime import datetime, timedelta

from store_builders import MINUTE, NOW, WORKER, place

from store import bars, effects, held_out, work
from store.database import Store
from store.effects import Claim, EffectState, Ending, Verdict, Wanted

LATER = NOW + timedelta(days=1)


async def claim(store: Store, order_id: int, step: str, cause: str) -> Claim:
    async with store.write() as connection:
        (claimed,) = await effects.claim(
            connection,
            step,
            [Wanted(order_id, cause, 1)],
            owner="one",
            lease_until=NOW + MINUTE,
            actor=WORKER,
            now=NOW,
        )
    return claimed


async def wait(store: Store, order_id: int, step: str, cause: str, *, until: datetime = LATER) -> None:
    """Let a step be claimed, and wait until then."""
    claimed = await claim(store, order_id, step, cause)
    async with store.write() as connection:
        rows = await effects.lock(connection, [claimed.effect_id])
        ending = Ending(
            effect_id=claimed.effect_id, state=EffectState.INTENDED, before={}, after={}, due_at=until, reason="held"
        )
        await effects.end(connection, step, [ending], rows, actor=WORKER, now=NOW)


async def test_who_claims_a_step_sees_who_holds_the_order_out_and_of_which_order(store: Store) -> None:
    held, free = await place(store), await place(store)
    async with store.write() as connection:
        await bars.lock(connection, [held])
        await held_out.say(connection, held, "jana: other tea")
    async with store.write() as connection:
        facts = await bars.facts(connection, [(held, "payment:1"), (free, "payment:2")])
    assert (facts[held, "payment:1"].held_out, facts[free, "payment:2"].held_out) == ("jana: other tea", None)


async def test_all_that_an_order_waits_for_is_due_at_once_and_nothing_else_is(store: Store) -> None:
    mine, other = await place(store), await place(store)
    async with store.write() as connection:
        await work.add(connection, "card", "payment", [1, 2], now=NOW, due_at=LATER)
        for scenario in ("remind", "overdue"):
            await work.add(connection, scenario, "order", [mine], now=NOW, due_at=LATER)
    await wait(store, mine, "invoice", "payment:1")
    await wait(store, mine, "sms reminder", f"order:{mine}")
    await wait(store, other, "invoice", "payment:2")
    assert (await claim(store, mine, "invoice", "payment:1")).verdict is Verdict.STOP
    async with store.write() as connection:
        await held_out.wake(connection, mine, now=NOW)
        due = await work.take(connection, owner="one", now=NOW, lease_until=NOW + MINUTE, limit=9)
    assert sorted((row.scenario, row.subject_id) for row in due) == [("card", 1), ("remind", mine)]
    assert (await claim(store, mine, "invoice", "payment:1")).verdict is Verdict.ACT
    assert (await claim(store, other, "invoice", "payment:2")).verdict is Verdict.STOP
    async with store.read() as connection:
        assert await held_out.being_tried(connection, mine, now=NOW) == "invoice"
        assert await held_out.being_tried(connection, other, now=NOW) is None
        assert await held_out.open_steps(connection, mine) == ["invoice", "sms reminder"]
