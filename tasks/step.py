"""A step: one action on the world, written for one order, carried out exactly once over a batch.

    @step("invoice")
    async def issue_invoice(order: Order, rules: ChannelRules, key: str) -> Receipt: ...

    @issue_invoice.lookup      # it may have happened: did it? asked before anything is sent again
    async def find_invoice(order: Order, rules: ChannelRules, key: str) -> Receipt | None: ...

    @issue_invoice.undo        # how it is taken back
    async def credit_invoice(order: Order, entry: Entry, key: str) -> Receipt: ...

Called in a flow with one or more batches, a step takes the orders that are in all of them, and for these

1. claims: one transaction inserts the effects, each with a stored idempotency key and a lease. What is done already
   passes; what another worker holds is left alone.
2. acts: calls the author's function for each, concurrently, with no transaction open.
3. records: one transaction writes what came of each. What the author wants written in our own database is returned
   as `Receipt.write` and commits in that same transaction, or not at all.

and returns the part of the batch that may go on. The author raises Transient, Rejected or Misconfigured for what an
outside system does, and returns Skip where a rule says that there is nothing to do.

What a worker may have begun and nobody saw end is *in doubt*. It is never sent again before `lookup` has said that
it did not happen; without a lookup it waits for a person.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple, cast
from uuid import uuid4

from prefect import State, Task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.errors import Misconfigured, Rejected, Transient
from domain.orders import Order
from domain.rules import ChannelRules
from store import effects, orders, rules, work
from store.effects import Claim, EffectState, Ending, Verdict, Wanted
from store.journal import Actor
from tasks.installation import Installation, installation
from tasks.pace import LEASE, delay

ACT_LIMIT_S = 45.0
"""An attempt is cut off here: well before its lease runs out, so that nobody else can be acting meanwhile."""
CONCURRENT = 32
"""Orders of one batch acted on at once; each connector has its own, usually lower, limit."""

_RETRIES_IN_RUN = [1, 5, 30]


class Item(NamedTuple):
    """One order in a batch, and why it is there: the cause, such as `payment:17`, is part of each effect's key."""

    order_id: int
    number: str
    cause: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Orders that a scenario carries on together; one payment is a batch of one."""

    items: tuple[Item, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def named(self, noun: str = "orders") -> str:
        """Return what a run over this batch is called."""
        return self.items[0].number if len(self.items) == 1 else f"{len(self.items)} {noun}"


def in_all(batches: Sequence[Batch]) -> Batch:
    """Return the orders that are in every batch, in the order of the first."""
    if len(batches) == 1:
        return batches[0]
    common = set(batches[0].items).intersection(*(batch.items for batch in batches[1:]))
    return Batch(tuple(item for item in batches[0].items if item in common))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """The transaction in which an effect is recorded, for what the step writes in our own database."""

    connection: AsyncConnection
    effect_id: int
    cause: str
    actor: Actor
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What came of an effect: the reference an operator can look up, and what was there before and after.

    write is called in the transaction that records the effect; it may return a Receipt with more to say, a Skip, or
    raise Rejected, which undoes what it wrote. Nothing personal or secret belongs in any of these.
    """

    reference: str | None = None
    before: dict[str, Any] = field(default_factory=dict[str, Any])
    after: dict[str, Any] = field(default_factory=dict[str, Any])
    write: Callable[[Transaction], Awaitable[Receipt | Skip | None]] | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """There is nothing to do for this order; reason names the rule that says so."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A done effect as the journal has it, for whoever takes it back."""

    effect_id: int
    order_id: int
    number: str
    reference: str | None
    before: dict[str, Any]
    after: dict[str, Any]
    rules: ChannelRules


Act = Callable[[Order, ChannelRules, str], Awaitable["Receipt | Skip"]]
Lookup = Callable[[Order, ChannelRules, str], Awaitable["Receipt | None"]]
Undo = Callable[[Order, "Entry", str], Awaitable["Receipt | Skip"]]


@dataclass(slots=True)
class Attempt:
    """One order on its way through claim, act and record."""

    item: Item
    claim: Claim
    state: EffectState | None = None
    receipt: Receipt | None = None
    reason: str | None = None
    error: Exception | None = None
    retry: bool = False
    retry_after: float | None = None

    def end(self, state: EffectState, reason: str | None = None, error: Exception | None = None) -> None:
        """Say how the attempt ended; one that stays open is tried again, unless only a person can tell."""
        self.state, self.reason, self.error = state, reason, error
        self.retry = state in effects.OPEN and not isinstance(error, NeedsPerson)


class NeedsPerson(Exception):
    """An effect is in doubt, and nothing can tell whether it happened."""


def run_log() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Return the log of the current run, or the ordinary one outside of runs."""
    with suppress(MissingContextError):
        return get_run_logger()
    return logging.getLogger("kvit")


def current_actor(opened: Installation) -> Actor:
    """Return who acts: this worker, in the current flow run if there is one."""
    context = FlowRunContext.get()
    return Actor(name=opened.worker, run=str(context.flow_run.id) if context and context.flow_run else None)


class Step:
    """A step of the scenarios; call it with batches inside a flow. Made by `@step`."""

    def __init__(self, name: str, act: Act, *, local: bool) -> None:
        self.name = name
        self.__doc__ = act.__doc__
        self._act = act
        self._local = local
        self._lookup: Lookup | None = None
        self._undo: Undo | None = None

        async def run(batches: Sequence[Batch]) -> Batch:
            return await self._run(batches)

        def run_name(parameters: dict[str, Any]) -> str:
            return f"{name} · {in_all(parameters['batches']).named()}"

        self._task = Task(
            run,
            name=name,
            description=act.__doc__,
            task_run_name=cast("Any", run_name),  # called with the parameters, which its type doesn't say
            retries=len(_RETRIES_IN_RUN),
            retry_delay_seconds=[*_RETRIES_IN_RUN],
            retry_jitter_factor=0.3,
            retry_condition_fn=_is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    def lookup(self, function: Lookup) -> Lookup:
        """Register how to find out whether the effect happened: its receipt, or None when it certainly did not."""
        self._lookup = function
        return function

    def undo(self, function: Undo) -> Undo:
        """Register how the effect is taken back; a step without it can't be."""
        self._undo = function
        return function

    @property
    def reversible(self) -> bool:
        """Whether the step can be taken back."""
        return self._undo is not None

    async def take_back(self, opened: Installation, entry: Entry, *, owner: str) -> Attempt:
        """Undo one done effect, once, as an effect of its own that points at the one it reverses.

        Raises Misconfigured when the step can't be taken back.
        """
        undo = self._undo
        if undo is None:
            raise Misconfigured(f"step {self.name} can't be taken back")

        async def act(order: Order, _rules: ChannelRules, key: str) -> Receipt | Skip:
            return await undo(order, entry, key)

        inverse = Step(f"undo {self.name}", act, local=self._local)
        item = Item(entry.order_id, entry.number, f"undo:{entry.effect_id}")
        return (await inverse.carry_out(opened, Batch((item,)), owner=owner, reverses=entry.effect_id))[0]

    async def __call__(self, *batches: Batch) -> Batch:
        """Carry out the step for the orders that are in all batches; return those that may go on."""
        if not in_all(batches):
            return Batch()  # no run for nothing
        return await self._task(batches)

    async def _run(self, batches: Sequence[Batch]) -> Batch:
        context = TaskRunContext.get()
        batch = in_all(batches)
        opened = await installation()
        owner = f"{opened.worker}/{context.task_run.id if context else uuid4()}"
        retried = context is not None and context.task_run.run_count <= len(_RETRIES_IN_RUN)
        attempts = await self.carry_out(opened, batch, owner=owner[:120], retried=retried and len(batch) == 1)
        log = run_log()
        for attempt in attempts:
            _tell(log, self.name, attempt)
        if len(batch) == 1 and retried and attempts[0].retry and isinstance(attempts[0].error, Transient):
            raise attempts[0].error  # Prefect tries again
        going = tuple(a.item for a in attempts if a.state in (EffectState.DONE, EffectState.SKIPPED))
        return Batch(going)

    async def carry_out(
        self, opened: Installation, batch: Batch, *, owner: str, retried: bool = False, reverses: int | None = None
    ) -> list[Attempt]:
        """Claim, act and record, once.

        owner names this very call in leases. retried says that the caller tries again by itself within seconds.
        """
        actor = current_actor(opened)
        async with opened.store.write() as connection:
            versions = await rules.current(connection)
            found = await orders.load(connection, [item.order_id for item in batch.items])
            claims = await effects.claim(
                connection,
                self.name,
                [
                    Wanted(item.order_id, item.cause, versions[found[item.order_id].channel].version, reverses)
                    for item in batch.items
                ],
                owner=owner,
                lease_until=opened.clock() + LEASE,
                actor=actor,
                now=opened.clock(),
            )
            quiet = await _quiet(connection, batch.items)
        attempts = [Attempt(item, claim) for item, claim in zip(batch.items, claims, strict=True)]
        mine = [attempt for attempt in attempts if attempt.claim.verdict in (Verdict.ACT, Verdict.ASK)]
        if mine:
            slots = asyncio.Semaphore(CONCURRENT)
            renewal = asyncio.create_task(_renew(opened, owner, [a.claim.effect_id for a in mine]))
            try:
                await asyncio.gather(
                    *(
                        self._attempt(
                            attempt,
                            found[attempt.item.order_id],
                            _rules_for(found[attempt.item.order_id], versions, quiet=attempt.item.cause in quiet),
                            slots,
                        )
                        for attempt in mine
                    )
                )
            finally:
                renewal.cancel()
            await self._record(opened, mine, owner=owner, actor=actor, retried=retried)
        for attempt in attempts:
            if attempt.state is None:
                attempt.state, attempt.reason = attempt.claim.state, attempt.claim.reason
        return attempts

    async def _attempt(self, attempt: Attempt, order: Order, rules_: ChannelRules, slots: asyncio.Semaphore) -> None:
        """Ask if in doubt, then act. Every way this can end becomes a state of the effect."""
        try:
            async with slots, asyncio.timeout(ACT_LIMIT_S):
                result = await self._ask(attempt, order, rules_) or await self._act(order, rules_, attempt.claim.key)
        except Transient as error:
            in_doubt = error.in_doubt and not self._local
            # Once in doubt, an effect stays so until somebody knows better.
            was = attempt.claim.state
            attempt.end(EffectState.IN_DOUBT if in_doubt else was, str(error), error)
            attempt.retry_after = error.retry_after
        except Rejected as error:
            attempt.end(EffectState.REJECTED, str(error), error)
        except Misconfigured as error:
            attempt.end(attempt.claim.state, str(error), error)
        except NeedsPerson as error:
            attempt.end(EffectState.IN_DOUBT, str(error), error)
        except TimeoutError:
            said = f"no end after {ACT_LIMIT_S:.0f} seconds"
            attempt.end(
                attempt.claim.state if self._local else EffectState.IN_DOUBT, said, Transient(said, in_doubt=True)
            )
        except Exception as error:
            # A defect of ours. Its text may hold anything, so only its kind is kept; the log has the traceback's place.
            said = f"unexpected {type(error).__name__} in step {self.name}"
            logging.getLogger("kvit").exception(said)
            attempt.end(attempt.claim.state if self._local else EffectState.IN_DOUBT, said, error)
        else:
            if isinstance(result, Skip):
                attempt.end(EffectState.SKIPPED, result.reason)
            else:
                attempt.end(EffectState.DONE)
                attempt.receipt = result

    async def _ask(self, attempt: Attempt, order: Order, rules_: ChannelRules) -> Receipt | None:
        if attempt.claim.verdict is not Verdict.ASK or self._local:
            return None
        if self._lookup is None:
            raise NeedsPerson(f"{attempt.claim.reason}; whether it happened can't be looked up")
        return await self._lookup(order, rules_, attempt.claim.key)

    async def _record(
        self, opened: Installation, attempts: Sequence[Attempt], *, owner: str, actor: Actor, retried: bool
    ) -> None:
        async with opened.store.write() as connection:
            now = opened.clock()
            rows = await effects.lock(connection, [attempt.claim.effect_id for attempt in attempts])
            endings: list[Ending] = []
            for attempt in attempts:
                row = rows[attempt.claim.effect_id]
                lost = row.lease_owner != owner and attempt.state in effects.OPEN
                if row.state not in effects.OPEN or lost:
                    # Another worker has it or has ended it: what they record stands.
                    attempt.state, attempt.reason, attempt.retry = EffectState(row.state), row.reason, False
                    continue
                await self._write(connection, attempt, actor=actor, now=now)
                endings.append(_ending(attempt, now=now, retried=retried))
            await effects.end(connection, self.name, endings, rows, actor=actor, now=now)

    async def _write(self, connection: AsyncConnection, attempt: Attempt, *, actor: Actor, now: datetime) -> None:
        """Write what the step wants written, in a savepoint of its own: one bad order never stops the rest."""
        receipt = attempt.receipt
        if receipt is None or receipt.write is None:
            return
        transaction = Transaction(
            connection=connection,
            effect_id=attempt.claim.effect_id,
            cause=attempt.item.cause,
            actor=actor,
            now=now,
        )
        try:
            async with connection.begin_nested():
                more = await receipt.write(transaction)
        except Rejected as error:
            attempt.end(EffectState.REJECTED, str(error), error)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            said = f"could not be written down ({type(error.orig).__name__})"
            logging.getLogger("kvit").exception("step %s: %s", self.name, said)
            # What was done outside stays done: it must be found again, not done again.
            state = attempt.claim.state if self._local else EffectState.IN_DOUBT
            attempt.end(state, said, Transient(said))
        else:
            if isinstance(more, Skip):
                attempt.end(EffectState.SKIPPED, more.reason)
            elif more is not None:
                attempt.receipt = replace(
                    receipt,
                    reference=more.reference or receipt.reference,
                    before=receipt.before | more.before,
                    after=receipt.after | more.after,
                )


def step(name: str, *, local: bool = False) -> Callable[[Act], Step]:
    """Make a function that acts for one order into a step of the scenarios.

    local says that it acts in our own database alone, through Receipt.write: then nothing can be in doubt.
    """

    def make(act: Act) -> Step:
        return Step(name, act, local=local)

    return make


def _is_transient(_task: object, _run: object, state: State[Any]) -> bool:
    return isinstance(cast("object", state.data), Transient)


def _ending(attempt: Attempt, *, now: datetime, retried: bool) -> Ending:
    state = attempt.state or attempt.claim.state
    receipt = attempt.receipt if state is EffectState.DONE and attempt.receipt else Receipt()
    due_at: datetime | None = None
    if attempt.retry:
        soon = retried and isinstance(attempt.error, Transient)
        due_at = None if soon else now + delay(attempt.claim.attempts, attempt.retry_after)
    return Ending(
        effect_id=attempt.claim.effect_id,
        state=state,
        reference=receipt.reference,
        reason=attempt.reason,
        before=receipt.before,
        after=receipt.after,
        due_at=due_at,
    )


def _rules_for(order: Order, versions: dict[str, rules.Versioned], *, quiet: bool) -> ChannelRules:
    effective = versions[order.channel].rules.for_customer(group=order.customer.group, customer=order.customer.number)
    return effective.without_messages() if quiet else effective


async def _quiet(connection: AsyncConnection, items: Iterable[Item]) -> set[str]:
    found: set[str] = set()
    for subject in ("payment", "order"):
        ids = {int(i.cause.partition(":")[2]) for i in items if i.cause.startswith(f"{subject}:")}
        found |= {f"{subject}:{some}" for some in await work.quiet_ones(connection, subject, sorted(ids))}
    return found


async def _renew(opened: Installation, owner: str, effect_ids: list[int]) -> None:
    """Keep the leases while the batch is worked on; a batch may take longer than one lease."""
    pause = LEASE.total_seconds() / 3
    while True:
        await asyncio.sleep(pause)
        began = time.monotonic()
        with suppress(DBAPIError):
            async with opened.store.write() as connection:
                await effects.renew(connection, owner, effect_ids, opened.clock() + LEASE)
        pause = max(1.0, LEASE.total_seconds() / 3 - (time.monotonic() - began))


_SAID = {
    EffectState.DONE: "done",
    EffectState.SKIPPED: "skipped",
    EffectState.REJECTED: "parked for a person",
    EffectState.IN_DOUBT: "in doubt",
    EffectState.INTENDED: "not yet",
}


def _tell(log: logging.Logger | logging.LoggerAdapter[logging.Logger], name: str, attempt: Attempt) -> None:
    """Write one line for an order: what came of the step, with its reference."""
    state = attempt.state or attempt.claim.state
    said = "done before" if attempt.claim.verdict is Verdict.PASS else _SAID[state]
    if attempt.claim.verdict is Verdict.STOP and state in effects.OPEN:
        said = "left alone: another worker has it, or it is not due yet"
    reference = attempt.receipt.reference if attempt.receipt else attempt.claim.reference
    parts = [attempt.item.number, name, said, *filter(None, (reference, attempt.reason))]
    level = logging.WARNING if state in (*effects.OPEN, EffectState.REJECTED) else logging.INFO
    log.log(level, " · ".join(parts))
