"""The guard: an effect is claimed by one worker at a time, ends once, and never goes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert
from store_builders import MINUTE, NOW, WORKER, column, place, place_many

from store import effects
from store.database import Store
from store.effects import Claim, EffectState, Ending, Verdict, Wanted
from store.tables import EffectRow

LEASE = MINUTE
DONE, SKIPPED, REJECTED = EffectState.DONE, EffectState.SKIPPED, EffectState.REJECTED
INTENDED, IN_DOUBT = EffectState.INTENDED, EffectState.IN_DOUBT


async def claim(
    store: Store,
    wanted: Sequence[Wanted],
    *,
    owner: str = "one",
    now: datetime = NOW,
    step: str = "invoice",
    local: bool = False,
) -> list[Claim]:
    async with store.write() as connection:
        return await effects.claim(
            connection, step, wanted, owner=owner, lease_until=now + LEASE, actor=WORKER, now=now, local=local
        )


async def end(store: Store, claimed: Claim, state: EffectState, *, now: datetime = NOW, **said: Any) -> None:
    """Record how an attempt ended, as a step does."""
    async with store.write() as connection:
        rows = await effects.lock(connection, [claimed.effect_id])
        ending = Ending(effect_id=claimed.effect_id, state=state, before={}, after={}, **said)
        await effects.end(connection, "invoice", [ending], rows, actor=WORKER, now=now)


async def moves(store: Store, effect_id: int) -> list[str]:
    return await column(store, "SELECT move FROM journal WHERE effect_id = :id ORDER BY id", id=effect_id)


async def state(store: Store, effect_id: int) -> str:
    return (await column(store, "SELECT state FROM effects WHERE id = :id", id=effect_id))[0]


async def a_claim(store: Store, **how: Any) -> tuple[Wanted, Claim]:
    """Claim an effect of a new order for the first time."""
    wanted = Wanted(await place(store), "payment:17", rule_version=3)
    return wanted, (await claim(store, [wanted], **how))[0]


async def test_the_first_claim_makes_the_effect_and_may_act(store: Store) -> None:
    wanted, first = await a_claim(store)

    assert (first.verdict, first.state, first.attempts) == (Verdict.ACT, INTENDED, 1)
    assert (first.order_id, first.cause) == (wanted.order_id, "payment:17")
    assert first.key.startswith("kvit-")
    assert await moves(store, first.effect_id) == ["intended"]


async def test_who_holds_the_order_does_not_wait_for_an_effect_that_is_being_claimed(
    store: Store, other: Store, url: str
) -> None:
    _, first = await a_claim(store)
    async with store.write() as connection:
        assert list(await effects.lock(connection, [first.effect_id], wait=False)) == [first.effect_id]
        if url.startswith("sqlite"):  # all who write take turns there
            return
        async with other.write() as claiming, asyncio.timeout(30):
            assert await effects.lock(claiming, [first.effect_id], wait=False) == {}


async def test_each_order_step_and_cause_has_an_effect_and_a_key_of_its_own(store: Store) -> None:
    order, another = await place(store), await place(store)
    wanted = [Wanted(order, "payment:17", 3), Wanted(order, "payment:18", 3), Wanted(another, "payment:17", 3)]

    claims = [*(await claim(store, wanted)), *(await claim(store, wanted, step="dispatch"))]

    assert [claimed.verdict for claimed in claims] == [Verdict.ACT] * 6
    assert len({claimed.key for claimed in claims}) == 6
    assert [(claimed.order_id, claimed.cause) for claimed in claims[:3]] == [(w.order_id, w.cause) for w in wanted]


@pytest.mark.parametrize(
    ("ended", "verdict"), [(DONE, Verdict.PASS), (SKIPPED, Verdict.PASS), (REJECTED, Verdict.STOP)]
)
async def test_what_has_ended_is_never_acted_on_again(store: Store, ended: EffectState, verdict: Verdict) -> None:
    wanted, first = await a_claim(store)
    await end(store, first, ended, reference="2026-1", reason="said so")

    [again] = await claim(store, [wanted], owner="two", now=NOW + 10 * LEASE)

    assert (again.verdict, again.state, again.key) == (verdict, ended, first.key)
    assert (again.reference, again.reason, again.attempts) == ("2026-1", "said so", 1)
    assert await moves(store, first.effect_id) == ["intended", ended]


async def test_what_a_living_worker_holds_is_left_alone(store: Store) -> None:
    wanted, first = await a_claim(store)

    [again] = await claim(store, [wanted], owner="two", now=NOW + LEASE - timedelta(seconds=1))

    assert (again.verdict, again.attempts) == (Verdict.STOP, 1)
    assert await column(store, "SELECT lease_owner FROM effects") == ["one"]
    assert await moves(store, first.effect_id) == ["intended"]


async def test_what_a_dead_worker_left_is_in_doubt_and_must_be_asked_about(store: Store) -> None:
    wanted, first = await a_claim(store)

    [again] = await claim(store, [wanted], owner="two", now=NOW + LEASE)

    assert (again.verdict, again.state, again.key) == (Verdict.ASK, IN_DOUBT, first.key)
    assert again.reason == "the worker that had begun it is gone"
    assert await moves(store, first.effect_id) == ["intended", "in_doubt"]
    assert await column(store, "SELECT lease_owner FROM effects") == ["two"]


async def test_what_a_dead_worker_left_of_a_step_in_this_database_alone_is_simply_done_again(store: Store) -> None:
    wanted, first = await a_claim(store)

    [early] = await claim(store, [wanted], owner="two", local=True)
    [again] = await claim(store, [wanted], owner="two", now=NOW + LEASE, local=True)

    assert early.verdict is Verdict.STOP
    assert (again.verdict, again.state, again.attempts) == (Verdict.ACT, INTENDED, 2)
    assert await moves(store, first.effect_id) == ["intended"]


async def test_what_is_asked_about_stays_in_doubt_when_that_worker_dies_too(store: Store) -> None:
    wanted, first = await a_claim(store)
    await claim(store, [wanted], owner="two", now=NOW + LEASE)

    [third] = await claim(store, [wanted], owner="three", now=NOW + 2 * LEASE)

    assert (third.verdict, third.state, third.attempts) == (Verdict.ASK, IN_DOUBT, 3)
    assert await moves(store, first.effect_id) == ["intended", "in_doubt"]


async def test_an_attempt_that_ended_cleanly_may_be_made_again(store: Store) -> None:
    wanted, first = await a_claim(store)
    await end(store, first, INTENDED, reason="connection refused")

    [again] = await claim(store, [wanted], owner="two")

    assert (again.verdict, again.attempts, again.key) == (Verdict.ACT, 2, first.key)
    assert await moves(store, first.effect_id) == ["intended", "to retry"]


async def test_an_attempt_that_ended_in_doubt_is_asked_about(store: Store) -> None:
    wanted, first = await a_claim(store)
    await end(store, first, IN_DOUBT, reason="no answer")

    [again] = await claim(store, [wanted], owner="two")

    assert (again.verdict, again.state, again.reason) == (Verdict.ASK, IN_DOUBT, "no answer")


@pytest.mark.parametrize("left", [INTENDED, IN_DOUBT])
async def test_what_is_due_later_is_left_alone_until_then(store: Store, left: EffectState) -> None:
    wanted, first = await a_claim(store)
    await end(store, first, left, due_at=NOW + 5 * MINUTE)

    [early] = await claim(store, [wanted], now=NOW + 4 * MINUTE)
    [due] = await claim(store, [wanted], now=NOW + 5 * MINUTE)

    assert early.verdict is Verdict.STOP
    assert due.verdict is (Verdict.ACT if left is INTENDED else Verdict.ASK)


async def test_each_move_tells_the_version_of_the_rules_it_was_made_by(store: Store) -> None:
    wanted, first = await a_claim(store)
    await end(store, first, INTENDED, reason="connection refused")
    await claim(store, [replace(wanted, rule_version=4)], owner="dead")

    [again] = await claim(store, [replace(wanted, rule_version=5)], owner="two", now=NOW + LEASE)
    await end(store, again, DONE)

    assert await column(store, "SELECT rule_version FROM effects") == [5]
    assert await moves(store, first.effect_id) == ["intended", "to retry", "in_doubt", "done"]
    assert await column(store, "SELECT rule_version FROM journal ORDER BY id") == [3, 3, 5, 5]


async def test_a_worker_that_renews_its_lease_keeps_what_it_holds(store: Store) -> None:
    wanted, first = await a_claim(store)
    async with store.write() as connection:
        await effects.renew(connection, "two", [first.effect_id], NOW + 9 * LEASE)
    assert (await claim(store, [wanted], owner="three", now=NOW + LEASE))[0].verdict is Verdict.ASK

    async with store.write() as connection:
        await effects.renew(connection, "three", [first.effect_id], NOW + 9 * LEASE)
    assert (await claim(store, [wanted], owner="four", now=NOW + 8 * LEASE))[0].verdict is Verdict.STOP


async def test_an_effect_wanted_twice_in_one_batch_is_acted_on_once(store: Store) -> None:
    wanted = Wanted(await place(store), "payment:17", 3)

    claims = await claim(store, [wanted, wanted])

    assert [claimed.verdict for claimed in claims] == [Verdict.ACT, Verdict.STOP]
    assert claims[0].effect_id == claims[1].effect_id
    assert await moves(store, claims[0].effect_id) == ["intended"]
    assert await column(store, "SELECT attempts FROM effects") == [1]


async def test_a_large_batch_is_claimed_and_ended_whole(store: Store) -> None:
    orders = await place_many(store, 300)
    wanted = [Wanted(order, f"payment:{order}", 3) for order in reversed(orders)]

    claims = await claim(store, wanted)
    async with store.write() as connection:
        rows = await effects.lock(connection, [claimed.effect_id for claimed in claims])
        endings = [
            Ending(effect_id=claimed.effect_id, state=DONE, reference=f"for {claimed.order_id}", before={}, after={})
            for claimed in claims
        ]
        await effects.end(connection, "invoice", endings, rows, actor=WORKER, now=NOW)

    assert [(claimed.order_id, claimed.verdict) for claimed in claims] == [(w.order_id, Verdict.ACT) for w in wanted]
    assert Counter(await column(store, "SELECT state FROM effects")) == {"done": 300}
    assert await column(store, "SELECT reference FROM effects ORDER BY order_id") == [f"for {id_}" for id_ in orders]
    assert Counter(await column(store, "SELECT move FROM journal")) == {"intended": 300, "done": 300}


async def test_of_workers_that_claim_at_once_exactly_one_may_act(store: Store, other: Store) -> None:
    orders = [await place(store) for _ in range(4)]
    for payment in range(25):
        wanted = [Wanted(order, f"payment:{payment}", 3) for order in orders]

        by_one, by_two, by_three = await asyncio.gather(
            claim(store, wanted, owner="one"),
            claim(other, wanted[::-1], owner="two"),
            claim(store, wanted, owner="three"),
        )

        for of_one, of_two, of_three in zip(by_one, by_two[::-1], by_three, strict=True):
            assert len({of_one.effect_id, of_two.effect_id, of_three.effect_id}) == 1
            assert len({of_one.key, of_two.key, of_three.key}) == 1
            verdicts = Counter([of_one.verdict, of_two.verdict, of_three.verdict])
            assert verdicts == {Verdict.ACT: 1, Verdict.STOP: 2}
    assert Counter(await column(store, "SELECT move FROM journal")) == {"intended": 100}


async def test_of_workers_that_find_a_dead_one_at_once_exactly_one_may_ask(store: Store, other: Store) -> None:
    orders = [await place(store) for _ in range(4)]
    for payment in range(15):
        wanted = [Wanted(order, f"payment:{payment}", 3) for order in orders]
        await claim(store, wanted, owner="dead")

        by_one, by_two = await asyncio.gather(
            claim(store, wanted, owner="one", now=NOW + LEASE), claim(other, wanted, owner="two", now=NOW + LEASE)
        )

        for of_one, of_two in zip(by_one, by_two, strict=True):
            assert {of_one.verdict, of_two.verdict} == {Verdict.ASK, Verdict.STOP}


@pytest.mark.parametrize("reached", [IN_DOUBT, DONE, SKIPPED, REJECTED])
async def test_no_effect_goes_back(store: Store, reached: EffectState) -> None:
    _, first = await a_claim(store)
    await end(store, first, reached)

    for to in [INTENDED] if reached is IN_DOUBT else list(EffectState):
        with pytest.raises(ValueError, match=f"is {reached} and can't become {to}"):
            await end(store, first, to)

    assert await state(store, first.effect_id) == reached
    assert await moves(store, first.effect_id) == ["intended", reached]


async def test_not_even_a_worker_that_looked_too_early_takes_an_effect_back(store: Store) -> None:
    _, first = await a_claim(store)
    async with store.write() as connection:
        seen_before = await effects.lock(connection, [first.effect_id])
    await end(store, first, DONE, reference="2026-1")

    async with store.write() as connection:
        late = Ending(effect_id=first.effect_id, state=REJECTED, before={}, after={})
        await effects.end(connection, "invoice", [late], seen_before, actor=WORKER, now=NOW)

    assert await state(store, first.effect_id) == "done"
    assert await column(store, "SELECT reference FROM effects") == ["2026-1"]


async def test_a_reversal_points_at_what_it_reverses(store: Store) -> None:
    order = await place(store)
    [first] = await claim(store, [Wanted(order, "payment:17", 3)])
    await end(store, first, DONE)

    undo = Wanted(order, f"undo:{first.effect_id}", 3, reverses=first.effect_id)
    [claimed] = await claim(store, [undo], step="undo invoice")

    assert claimed.verdict is Verdict.ACT
    assert await column(store, "SELECT reverses_id FROM effects ORDER BY id") == [None, first.effect_id]


_RANK = {INTENDED: 0, IN_DOUBT: 1, DONE: 2, SKIPPED: 2, REJECTED: 2}

_ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["claim", *EffectState]),
        st.sampled_from(["one", "two"]),
        st.integers(min_value=0, max_value=90),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@given(actions=_ACTIONS)
async def test_whatever_happens_states_move_forward_and_the_journal_tells_them(
    store: Store, actions: list[tuple[str, str, int, bool]]
) -> None:
    wanted, first = await a_claim(store)
    now, held_by, reached = NOW, "one", INTENDED
    for action, worker, seconds, later in actions:
        now += timedelta(seconds=seconds)
        if action == "claim":
            [claimed] = await claim(store, [wanted], owner=worker, now=now)
            assert claimed.key == first.key
            if claimed.verdict in (Verdict.ACT, Verdict.ASK):
                assert reached in effects.OPEN
                held_by = worker
        elif held_by == worker and reached in effects.OPEN and not (reached is IN_DOUBT and action == INTENDED):
            due_at = now + MINUTE if later and action in effects.OPEN else None
            await end(store, first, EffectState(action), now=now, due_at=due_at)
            held_by = ""

        last = EffectState(await state(store, first.effect_id))
        assert _RANK[last] >= _RANK[reached]
        assert last is reached or reached in effects.OPEN
        reached = last
        told = (await moves(store, first.effect_id))[-1]
        assert told == reached or (told, reached) == ("to retry", INTENDED)


async def test_what_a_run_began_can_be_watched_by_its_causes(store: Store) -> None:
    order = await place(store, "2001")
    [mine, _] = await claim(store, [Wanted(order, "payment:17", 3), Wanted(order, "payment:18", 3)])
    await end(store, mine, IN_DOUBT, reason="no answer", due_at=NOW + MINUTE)

    async with store.read() as connection:
        [standing] = await effects.of_causes(connection, ["payment:17", "payment:99"])
        shown = await effects.of_order(connection, order)

    assert (standing.number, standing.step, standing.state) == ("2001", "invoice", IN_DOUBT)
    assert (standing.due_at, standing.lease_until, standing.reason) == (NOW + MINUTE, None, "no answer")
    assert [row["cause"] for row in shown] == ["payment:17", "payment:18"]


async def test_workers_with_large_batches_that_overlap_do_not_wait_for_each_other_for_ever(
    store: Store, other: Store
) -> None:
    order = await place(store)
    wanted = [Wanted(order, f"payment:{number:04}", 3) for number in range(600)]
    row: dict[str, Any] = {"order_id": order, "step": "invoice", "state": "intended", "before": {}, "after": {}}
    row |= {"attempts": 1, "lease_owner": "dead", "lease_until": NOW, "created_at": NOW, "updated_at": NOW}
    async with store.write() as connection:
        # Their rows stand in another order than their causes.
        rows = [{**row, "cause": effect.cause, "key": f"key {effect.cause}"} for effect in reversed(wanted)]
        await connection.execute(insert(EffectRow), rows)

    for _ in range(3):
        await asyncio.gather(claim(store, wanted, owner="one"), claim(other, wanted[100:], owner="two"))

    assert Counter(await column(store, "SELECT state FROM effects")) == {"in_doubt": 600}
