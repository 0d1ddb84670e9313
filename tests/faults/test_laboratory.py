"""The faults laboratory: a sample of what `make soak` does at length, and the proof that it would notice."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from lab import GUARDS, KINDS, Experiment, Laboratory, Result, aimed, drawn, laboratory

pytestmark = pytest.mark.timeout(420)
together = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Laboratory]:
    """Return the laboratory; its Prefect server takes seconds to start, so the experiments share it."""
    async with laboratory(tmp_path_factory.mktemp("laboratory")) as made:
        yield made


def found(result: Result) -> list[str]:
    """Return all that is wrong."""
    return [*result.lost, *result.doubled, *result.unaccounted]


def test_a_seed_draws_the_same_experiment_again() -> None:
    assert [drawn(seed) for seed in range(50)] == [drawn(seed) for seed in range(50)]
    assert {drawn(seed).kind for seed in range(200)} == set(KINDS)


@together
async def test_while_calls_fail_and_workers_die_nothing_is_lost_and_nothing_doubled(lab: Laboratory) -> None:
    experiment = Experiment(
        kind="calls", seed=7, orders=40, dispatchers=2, share=0.5, webhooks=True, seconds=10, wrong=60
    )
    result = await lab.run(experiment)
    assert found(result) == []
    assert result.effects > 40 * 6
    assert result.wrong.total() >= 60
    assert len(result.wrong) > 5
    assert {f"webhook: {way}" for way in ("twice", "ten at once", "before the order")} < set(result.faults)


@together
async def test_while_the_database_goes_away_nothing_is_lost_and_nothing_doubled(lab: Laboratory) -> None:
    experiment = Experiment(kind="database", seed=8, orders=20, dispatchers=2, share=0.2, postgres=True, seconds=5)
    result = await lab.run(experiment)
    assert found(result) == []
    assert result.faults["PostgreSQL restarted"] == 3


@together
async def test_while_real_systems_fail_their_orders_come_to_rest_once_everywhere(lab: Laboratory) -> None:
    experiment = Experiment(
        kind="systems", seed=1, orders=8, dispatchers=1, share=0.15, webhooks=True, seconds=10, wrong=20
    )
    result = await lab.run(experiment)
    assert found(result) == []
    assert result.wrong.total() >= 20
    assert len(result.wrong) > 3
    assert result.in_doubt_accounted <= 6  # of eight orders, or more if little went wrong with those


LONG = {"unique-key", "lease", "record-transaction"}
"""Guards whose absence takes a minute to tell, or more than one try."""


@pytest.mark.parametrize(
    "guard",
    [
        pytest.param(guard, marks=[pytest.mark.long] if guard in LONG else [])
        for guard in GUARDS
        if guard != "connectors-look"
    ],
)
@together
async def test_without_one_of_the_guards_it_fails(lab: Laboratory, guard: str) -> None:
    result = await lab.run(aimed(guard))
    assert not result.is_clean
    if guard in ("lookup", "lease"):
        assert result.doubled  # and it is not that nothing came to rest


@pytest.mark.long
@together
async def test_connectors_that_do_not_look_before_they_write_are_seen_to_do_things_twice(lab: Laboratory) -> None:
    result = await lab.run(aimed("connectors-look"))
    assert [one for one in result.doubled if "consignments" in one or "income noted" in one or "notes to" in one]
