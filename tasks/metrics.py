"""Metrics: what a dispatcher and its steps count and time, for Prometheus, and the spans of their traces."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from prometheus_client import Counter, Histogram
from sqlalchemy.exc import SQLAlchemyError

from connectors.observed import REGISTRY, is_traced, span
from store import gauges
from store.effects import EffectState, Verdict
from tasks.ends import NEEDS_PERSON
from tasks.installation import Installation

if TYPE_CHECKING:
    from domain.payments import Payment
    from store.work import Due
    from tasks.step import Attempt, Batch, Step

_P = ParamSpec("_P")
_R = TypeVar("_R")

_ON_THE_WAY = (0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21_600, 86_400)
"""Bounds in seconds: a payment takes a tenth of a second, or a day when a system is down."""

RUNS = Counter("kvit_runs", "Runs of scenarios, by how they ended", ["scenario", "result"], registry=REGISTRY)
RUN_SECONDS = Histogram(
    "kvit_run_seconds", "Durations of runs", ["scenario"], buckets=_ON_THE_WAY[:12], registry=REGISTRY
)
RUN_SUBJECTS = Histogram(
    "kvit_run_subjects",
    "Payments or orders in one run",
    ["scenario"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
    registry=REGISTRY,
)
STEPS = Counter("kvit_steps", "Steps of orders, by what came of each attempt", ["step", "result"], registry=REGISTRY)
STEP_SECONDS = Histogram(
    "kvit_step_seconds",
    "Durations of a step for its whole batch: claimed, acted, recorded",
    ["step"],
    buckets=_ON_THE_WAY[:11],
    registry=REGISTRY,
)
OUTCOMES = Counter("kvit_payments_matched", "Payments matched, by outcome", ["method", "outcome"], registry=REGISTRY)
MATCHED_SECONDS = Histogram(
    "kvit_payment_matched_seconds",
    "From a payment stored to its match recorded",
    ["method"],
    buckets=_ON_THE_WAY,
    registry=REGISTRY,
)
DONE_SECONDS = Histogram(
    "kvit_payment_done_seconds",
    "From a payment stored to its last effect recorded",
    ["method"],
    buckets=_ON_THE_WAY,
    registry=REGISTRY,
)

_RUN_RESULTS = {
    name: name.lower().replace(" ", "_")
    for name in ("Done", NEEDS_PERSON, "Will go on", "Waits for the rest", "Nothing to do", "Crashed")
}
_STEP_RESULTS = {
    EffectState.DONE: "done",
    EffectState.SKIPPED: "skipped",
    EffectState.REJECTED: "rejected",
    EffectState.IN_DOUBT: "in_doubt",
    EffectState.INTENDED: "later",
}


class Run:
    """One run of a scenario under way, counted and timed when it is over."""

    def __init__(self, opened: Installation, group: Sequence[Due]) -> None:
        self._opened = opened
        self._group = group
        self._began_at = opened.clock()
        self._began = time.perf_counter()

    async def over(self, state: str | None) -> None:
        """Count a run that ended in a state of this name, None if it could not be carried out, and its payments.

        The database is asked once, after the run's effects; when it can't be, these payments are not in the histograms.
        """
        scenario = self._group[0].scenario
        RUNS.labels(scenario, "not_run" if state is None else _RUN_RESULTS.get(state, "failed")).inc()
        RUN_SECONDS.labels(scenario).observe(time.perf_counter() - self._began)
        RUN_SUBJECTS.labels(scenario).observe(len(self._group))
        ids = [due.id for due in self._group if due.subject == "payment"]
        if not ids:
            return
        with suppress(SQLAlchemyError, OSError):
            async with self._opened.store.read() as connection:
                _see_ways(await gauges.ways(connection, ids), since=self._began_at)


def _see_ways(ways: Sequence[gauges.Way], *, since: datetime) -> None:
    for way in ways:
        if way.matched_at is not None and way.matched_at >= since:
            OUTCOMES.labels(way.method, way.outcome or "unknown").inc()
            MATCHED_SECONDS.labels(way.method).observe((way.matched_at - way.received_at).total_seconds())
        if way.finished_at is not None and way.finished_at >= since:
            DONE_SECONDS.labels(way.method).observe((way.finished_at - way.received_at).total_seconds())


def _result(attempt: Attempt) -> str:
    if attempt.claim.verdict is Verdict.PASS:
        return "done_before"
    return _STEP_RESULTS[attempt.state or attempt.claim.state]


_Carry = Callable[Concatenate["Step", Installation, "Batch", _P], Coroutine[Any, Any, "list[Attempt]"]]


def seen_step(carry_out: _Carry[_P]) -> _Carry[_P]:
    """Count, time and trace what a step does for a batch."""

    @wraps(carry_out)
    async def seen(
        step: Step, opened: Installation, batch: Batch, *args: _P.args, **kwargs: _P.kwargs
    ) -> list[Attempt]:
        began = time.perf_counter()
        with span("step", _of_batch(step.name, batch) if is_traced() else None):
            attempts = await carry_out(step, opened, batch, *args, **kwargs)
        STEP_SECONDS.labels(step.name).observe(time.perf_counter() - began)
        for result, count in Tally(map(_result, attempts)).items():
            STEPS.labels(step.name, result).inc(count)
        return attempts

    return seen


def _of_batch(name: str, batch: Batch) -> dict[str, str | list[str] | list[int]]:
    return {
        "kvit.step": name,
        "kvit.orders": [item.order_id for item in batch.items],
        "kvit.causes": [item.cause for item in batch.items],
    }


_Match = Callable[[Any, Installation, Sequence["Payment"]], Coroutine[Any, Any, _R]]


def seen_match(match: _Match[_R]) -> _Match[_R]:
    """Trace the matching of payments."""

    @wraps(match)
    async def seen(connection: Any, opened: Installation, unmatched: Sequence[Payment]) -> _R:
        with span("match", {"kvit.payments": [payment.id for payment in unmatched]} if is_traced() else None):
            return await match(connection, opened, unmatched)

    return seen
