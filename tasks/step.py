"""A step: one action on the world, written for one order, carried out exactly once over a batch.

    @step("invoice")
    async def issue_invoice(order: Order, rules: ChannelRules, key: str) -> Receipt: ...

    @issue_invoice.lookup      # it may have happened: did it? asked before anything is sent again
    async def find_invoice(order: Order, rules: ChannelRules, key: str) -> Receipt | None: ...

    @issue_invoice.unless      # why the rules leave it out for an order, if they do: then nobody is asked anything
    def without_invoice(order: Order, rules: ChannelRules) -> Skip | None: ...

    @issue_invoice.undo        # how it is taken back
    async def credit_invoice(order: Order, entry: Entry, key: str) -> Receipt: ...

    @issue_invoice.told        # a person says that it happened: what is written down then
    async def told_invoice(order: Order, rules: ChannelRules, key: str, reference: str) -> Receipt: ...

Called in a flow with one or more batches, a step takes the orders that are in all of them, and for these

1. claims: one transaction inserts the effects, each with a stored idempotency key and a lease. What is done already
   passes; what another worker holds is left alone.
2. acts: calls the author's function for each, concurrently, with no transaction open.
3. records: one transaction writes what came of each. What the author wants written in our own database is returned
   as `Receipt.write` and commits in that same transaction, or not at all.

and returns the part of the batch that may go on. What comes next follows from how the author's function ended:

    a Receipt, or Skip where a rule says that there is nothing to do    the order goes on
    Rejected                                                            parked for a person
    Transient                                                           tried again: a single order within its run, at
                                                                        first; else when it is due, later each time
    Misconfigured, or any other exception                               an error in the log, and tried again when due

What a worker may have begun and nobody saw end is *in doubt*: a Transient that says so, an exception nobody expected,
a worker that died. It is never sent again before `lookup` has said that it did not happen; without a lookup it waits
for a person. A step that names its outside system leaves its orders waiting while that is down (tasks/outage.py).
A step that acts in our own database alone (`local=True`) can't be in doubt: its transaction tells. Nor can one that the
rules leave out, as `unless` says, where whoever began it went by the same rules.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

from prefect import State, Task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.errors import Misconfigured, OutsideError, Rejected, Transient
from connectors.pacing import place, timed
from domain.orders import Order
from domain.rules import ChannelRules, RulesError
from domain.scenarios import STEPS, TELLING, TIMED, subject_of
from store import bars, cases, effects, journal, orders, outages, rules, work
from store.effects import Claim, EffectState, Ending, Verdict, Wanted
from store.journal import Actor
from tasks.installation import Installation, installation
from tasks.log_entries import join_lines
from tasks.logged import fields
from tasks.metrics import seen_step
from tasks.outage import Watch
from tasks.pace import LEASE, delay

join_lines()

ACT_LIMIT_S = 45.0
"""An attempt is cut off here. It begins only with as much of its lease left, so that nobody else acts meanwhile.

What its requests wait for their turn isn't counted; it never goes on when its lease has run out.
"""
RENEW_S = 12.0
"""How often leases are renewed: with ACT_LIMIT_S less than a lease, so that attempts can begin at any time."""
CONCURRENT = 32
"""Orders of one batch acted on at once; each connector has its own, usually lower, limit."""
RETRIES_IN_RUN_S: tuple[float, ...] = (1, 5, 30)
"""A batch of one is tried again within its run, after these waits; a step takes them over when it is made."""
_JITTER = 0.3
_HELD_OUT_S = 900
"""How often at most an order that is held out of automation is looked at; whoever puts it back makes it due at once."""
_BARRED_S = 15
"""What waits for something else about its order is not tried again within its run, which would only hold that up."""


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
    """Return the orders that are in every batch, each once, in the order of the first."""
    if not batches:
        return Batch()
    first, *others = batches
    common = set(first.items).intersection(*(batch.items for batch in others))
    return Batch(tuple(item for item in dict.fromkeys(first.items) if item in common))


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

    before and after are kept as JSON. write is called in the transaction that records the effect; it may return a
    Receipt with more to say, a Skip when there was nothing to write, or raise Rejected, which undoes what it wrote.
    write_all does the same for many orders at once, with as few statements as it can: it gets the transaction and the
    subject of each receipt that names it, and returns what came of each in their order, a Rejected among them instead
    of raising it. Nothing personal or secret belongs in any of these.
    """

    reference: str | None = None
    before: dict[str, Any] = field(default_factory=dict[str, Any])
    after: dict[str, Any] = field(default_factory=dict[str, Any])
    write: Callable[[Transaction], Awaitable[Receipt | Skip | None]] | None = None
    write_all: WriteAll | None = None
    subject: Any = None

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for what is no JSON, here, where it concerns one order alone."""
        json.dumps((self.before, self.after), allow_nan=False)


WriteAll = Callable[[Sequence[tuple[Transaction, Any]]], Awaitable[Sequence["Receipt | Skip | Rejected | None"]]]


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
Unless = Callable[[Order, ChannelRules], "Skip | None"]
Lookup = Callable[[Order, ChannelRules, str], Awaitable["Receipt | None"]]
Undo = Callable[[Order, "Entry", str], Awaitable["Receipt | Skip"]]
System = Callable[[ChannelRules], str]
When = Callable[[ChannelRules], bool]
UndoLookup = Callable[[Order, "Entry", str], Awaitable["Receipt | None"]]
Told = Callable[[Order, ChannelRules, str, str], Awaitable["Receipt"]]
Prepare = Callable[[Installation, Sequence[Order]], Awaitable[Mapping[int, Any]]]
UndoTold = Callable[[Order, "Entry", str, str], Awaitable["Receipt"]]


@dataclass(slots=True)
class Attempt:
    """One order on its way through claim, act and record.

    retry says that it is tried again: soon, by the caller itself within seconds, or when it is due. begun is False if
    it was left for later, because of what is known of its system.
    """

    item: Item
    claim: Claim
    state: EffectState | None = None
    receipt: Receipt | None = None
    reason: str | None = None
    error: Exception | None = None
    retry: bool = False
    soon: bool = False
    due_at: datetime | None = None
    begun: bool = True

    def end(self, state: EffectState, reason: str | None = None, error: Exception | None = None) -> None:
        """Say how the attempt ended; one that stays open is tried again, unless only a person can tell."""
        self.state, self.reason, self.error = state, _storable(reason), error
        self.retry = state in effects.OPEN and not isinstance(error, NeedsPerson)


class Retries(NamedTuple):
    """How a step's caller tries again by itself: next_s until it does, None if it won't; attempts it makes in all."""

    next_s: float | None = None
    attempts: int = 1


_NO_RETRIES = Retries()


class NeedsPerson(Exception):
    """An effect is in doubt, and nothing can tell whether it happened."""


Bar = Skip | Transient | Rejected
"""Why an effect is not to begin: never again, not yet, or not without a person."""


MISCONFIGURED = "misconfigured: "
"""How the reason of an effect begins that nothing but a change of the configuration can help."""
HELD_OUT = "held out of automation by "
"""How the reason of an effect begins that waits because a person holds its order out of automation."""
_OF_A_DAY = sorted(
    {name for timed in TIMED for one in STEPS[timed] for name in (one, one.replace("message", "sms"))} - TELLING
)
"""Steps that begin because a day has come: they go by the newest rules."""
_NOBODY_KNOWS = "; whether it happened can't be looked up"
_LEASE_LOST = "not begun: the lease could not be kept"


@dataclass(slots=True)
class _Lease:
    """Until when a call holds what it claimed, as far as it knows."""

    until: datetime


_when: dict[str, When] = {}


Begun = tuple[int, str]
"""An order and a cause: what goes by one version of the rules from its first step to its last."""


async def unneeded(connection: AsyncConnection, begun: Sequence[Begun]) -> dict[Begun, set[str]]:
    """Return by order and cause the steps that the rules it goes by know nothing of."""
    versions = await rules.current(connection)
    channels = await orders.channels(connection, sorted({order_id for order_id, _ in begun}))
    kept = await _kept(connection, "", begun, channels, versions)
    spared: dict[tuple[str, int], set[str]] = {}
    for (order_id, _), versioned in kept.items():
        key = (channels[order_id], versioned.version)
        if key not in spared:
            newest = versions[channels[order_id]].rules
            spared[key] = {
                name
                for name, when in _when.items()
                if not _anybody(newest if name in _OF_A_DAY else versioned.rules, when)
            }
    return {one: spared[channels[one[0]], versioned.version] for one, versioned in kept.items()}


_RUNS_KEPT = 64
_asked: OrderedDict[tuple[UUID, frozenset[Begun]], asyncio.Task[dict[Begun, set[str]]]] = OrderedDict()


async def _spared(batch: Batch) -> dict[Begun, set[str]]:
    """Return what `unneeded` says of a batch; what has begun keeps its rules, so a run asks once for each batch."""

    async def ask() -> dict[Begun, set[str]]:
        opened = await installation()
        async with opened.store.read() as connection:
            return await unneeded(connection, begun)

    begun = [_begun(item) for item in batch.items]
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return await ask()
    key = (context.flow_run.id, frozenset(begun))
    if key not in _asked:
        _asked[key] = asyncio.create_task(ask())
        while len(_asked) > _RUNS_KEPT:
            _asked.popitem(last=False)
    try:
        return await asyncio.shield(_asked[key])
    except Exception:
        _asked.pop(key, None)
        raise


async def _kept(
    connection: AsyncConnection,
    step_name: str,
    begun: Sequence[Begun],
    channels: Mapping[int, str],
    versions: dict[str, rules.Versioned],
) -> dict[Begun, rules.Versioned]:
    """Return the rules that each order goes by for a cause: those of its first step, else the newest."""
    kept = {one: versions[channels[one[0]]] for one in begun}
    # A day that has come is a beginning of its own, whenever the order was placed.
    if step_name in _OF_A_DAY or all(newest.version == 1 for newest in kept.values()):
        return kept
    found = await effects.versions_begun(
        connection, step_name, (cause for _, cause in begun), apart=_OF_A_DAY, changed_for=MISCONFIGURED
    )
    older: dict[tuple[str, int], rules.Versioned] = {}
    for one, newest in kept.items():
        channel, version = channels[one[0]], found.get(one, newest.version)
        if version == newest.version:
            continue
        if (channel, version) not in older:
            older[channel, version] = await _older(connection, channel, version) or newest
        kept[one] = older[channel, version]
    return kept


async def _older(connection: AsyncConnection, channel: str, version: int) -> rules.Versioned | None:
    try:
        parsed = await rules.of_version(connection, channel, version)
    except RulesError:
        parsed = None
    if parsed is None:
        run_log().warning("channel %s: version %s of the rules can't be read; the newest is used", channel, version)
        return None
    return rules.Versioned(parsed, version)


async def _begun_as(connection: AsyncConnection, kept: Mapping[Begun, rules.Versioned]) -> dict[Begun, str]:
    """Return the statuses that orders had when what is under way began, where the rules of any depend on them."""
    channels = {id(versioned.rules): versioned.rules for versioned in kept.values()}
    return await cases.begun_as(connection, kept) if any(one.ask_status for one in channels.values()) else {}


def _as_begun(order: Order, status: str | None) -> Order:
    return order if status is None else replace(order, begun_as=status)


_NARROWS = frozenset({"connectors", "scenarios", "cases"})
"""Parts of the rules by which a step can be for one group or customer alone."""


def _anybody(channel: ChannelRules, when: When) -> bool:
    """Say whether a step is for some customer of a channel."""
    if when(channel):
        return True
    groups = [(name, None) for name, part in channel.groups.items() if _NARROWS & part.keys()]
    single = [(None, name) for name, part in channel.customers.items() if _NARROWS & part.keys()]
    return any(when(channel.for_customer(group=group, customer=customer)) for group, customer in groups + single)


_READ_AHEAD_FROM = 2
_prepared: ContextVar[Mapping[int, Any]] = ContextVar("prepared", default=MappingProxyType({}))


def prepared(order: Order) -> Any:
    """Return what the step under way has read ahead for an order, or None."""
    return _prepared.get().get(order.id)


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

    def __init__(
        self,
        name: str,
        act: Act,
        *,
        local: bool,
        compensates: Sequence[str] = (),
        system: System | None = None,
        one_per_order: bool = False,
        reports: bool = False,
        when: When | None = None,
    ) -> None:
        self.name = name
        self.__doc__ = act.__doc__
        self._act = act
        self._local = local
        self._undo_local = local
        self._compensates = tuple(compensates)
        self._system = system
        self._one_per_order = one_per_order
        self._reports = reports
        self._when = when
        if when is not None:
            _when[name] = when
        self._prepare: Prepare | None = None
        self._unless: Unless | None = None
        self._lookup: Lookup | None = None
        self._undo: Undo | None = None
        self._undo_lookup: UndoLookup | None = None
        self._told: Told | None = None
        self._undo_told: UndoTold | None = None
        self._retries_s = RETRIES_IN_RUN_S

        async def run(batches: Sequence[Batch]) -> Batch:
            return await self._run(batches)

        def run_name(parameters: dict[str, Any]) -> str:
            return f"{name} · {in_all(parameters['batches']).named()}"

        self._task = Task(
            run,
            name=name,
            description=act.__doc__,
            task_run_name=cast("Any", run_name),  # called with the parameters, which its type doesn't say
            retries=len(self._retries_s),
            retry_delay_seconds=[*self._retries_s],
            retry_jitter_factor=_JITTER,
            retry_condition_fn=_is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    def prepare(self, function: Prepare) -> Prepare:
        """Register what is read for all orders of a batch at once; `prepared` gives each order's while it is acted on.

        It may leave orders out, and may fail: then each order's part is to be read alone.
        """
        self._prepare = function
        return function

    def unless(self, function: Unless) -> Unless:
        """Register what says why the rules leave the step out for an order, or None: then it is never in doubt.

        It may go by the rules alone, and by what never changes about an order.
        """
        self._unless = function
        return function

    def lookup(self, function: Lookup) -> Lookup:
        """Register how to find out whether the effect happened: its receipt, or None when it certainly did not."""
        self._lookup = function
        return function

    def undo(self, function: Undo) -> Undo:
        """Register how the effect is taken back; a step without it can't be."""
        self._undo = function
        return function

    def undo_here(self, function: Undo) -> Undo:
        """Register how the effect is taken back in our own database alone, wherever the step itself acts."""
        self._undo_local = True
        return self.undo(function)

    def undo_lookup(self, function: UndoLookup) -> UndoLookup:
        """Register how to find out whether the effect was taken back; it may say None where doing so twice is once."""
        self._undo_lookup = function
        return function

    def told(self, function: Told) -> Told:
        """Register what is written down when a person says that the effect happened, with the reference they give.

        It raises Rejected when the reference is missing or can't be one. Without it nothing is written but the effect.
        """
        self._told = function
        return function

    def undo_told(self, function: UndoTold) -> UndoTold:
        """Register what is written down when a person says that the effect was taken back."""
        self._undo_told = function
        return function

    @property
    def reversible(self) -> bool:
        """Whether the step can be taken back."""
        return self._undo is not None

    @property
    def local(self) -> bool:
        """Whether it acts in our own database alone, which then knows what happened better than any person."""
        return self._local

    async def told_by_hand(self, order: Order, rules_: ChannelRules, key: str, reference: str) -> Receipt:
        """Return what is recorded when a person says that the effect happened. Raises Rejected."""
        if self._told is None:
            return Receipt(reference=reference or None)
        return await self._told(order, rules_, key, reference)

    async def take_back(self, opened: Installation, entry: Entry, *, owner: str) -> Attempt:
        """Undo one done effect, once, as an effect of its own that points at the one it reverses.

        Raises Misconfigured when the step can't be taken back.
        """
        item = Item(entry.order_id, entry.number, f"undo:{entry.effect_id}")
        inverse = self.inverse(entry)
        return (await inverse.carry_out(opened, Batch((item,)), owner=owner, reverses=entry.effect_id))[0]

    def inverse(self, entry: Entry) -> Step:
        """Return the step that takes one done effect back. Raises Misconfigured when there is none."""
        undo = self._undo
        if undo is None:
            raise Misconfigured(f"step {self.name} can't be taken back")

        async def act(order: Order, _rules: ChannelRules, key: str) -> Receipt | Skip:
            return await undo(order, entry, key)

        inverse = Step(f"undo {self.name}", act, local=self._undo_local)
        if self._undo_lookup is not None:
            was_undone = self._undo_lookup

            async def find(order: Order, _rules: ChannelRules, key: str) -> Receipt | None:
                return await was_undone(order, entry, key)

            inverse.lookup(find)
        if self._undo_told is not None:
            undo_told = self._undo_told

            async def told(order: Order, _rules: ChannelRules, key: str, reference: str) -> Receipt:
                return await undo_told(order, entry, key, reference)

            inverse.told(told)
        return inverse

    async def __call__(self, *batches: Batch) -> Batch:
        """Carry out the step for the orders that are in all batches; return those that may go on."""
        batch = in_all(batches)
        if batch and self._when is not None:
            spared = await _spared(batch)
            batch = Batch(tuple(item for item in batch.items if self.name not in spared.get(_begun(item), ())))
            batches = (*batches, batch)
        if not batch:
            return Batch()  # no run for nothing
        return await self._task(batches)

    async def _run(self, batches: Sequence[Batch]) -> Batch:
        context = TaskRunContext.get()
        batch = in_all(batches)
        opened = await installation()
        owner = f"{opened.worker[-80:]}/{context.task_run.id if context else uuid4()}"
        retries = self._retries(context.task_run.run_count) if context and len(batch) == 1 else _NO_RETRIES
        try:
            attempts = await self.carry_out(opened, batch, owner=owner, retries=retries)
        except (SQLAlchemyError, OSError) as error:
            # Prefect logs what is raised here, and a database quotes the values of a statement that failed.
            said = f"step {self.name}: the database failed ({type(error).__name__})"
            _log_place(said, error)
            raise Transient(said) from None
        log = run_log()
        for attempt in attempts:
            _tell(log, self.name, attempt)
        if len(attempts) == 1 and attempts[0].soon and attempts[0].error:
            raise attempts[0].error  # Prefect tries again
        going = tuple(a.item for a in attempts if a.state in (EffectState.DONE, EffectState.SKIPPED))
        return Batch(going)

    def _retries(self, run_count: int) -> Retries:
        left = self._retries_s[run_count - 1 :]
        # Prefect's jitter may shorten a wait.
        return Retries(left[0] * (1 - _JITTER) if left else None, 1 + len(self._retries_s))

    @seen_step
    async def carry_out(
        self,
        opened: Installation,
        batch: Batch,
        *,
        owner: str,
        retries: Retries = _NO_RETRIES,
        reverses: int | None = None,
    ) -> list[Attempt]:
        """Claim, act and record, once; owner names this very call in leases."""
        actor = current_actor(opened)
        moves: list[dict[str, Any]] = []
        async with opened.store.write() as connection:
            if self._local:
                # Before anything else, for it may change them: a lock that grows may wait for who waits for it.
                await bars.lock(connection, [item.order_id for item in batch.items])
            lease = _Lease(opened.clock() + LEASE)
            versions = await rules.current(connection)
            found = await orders.load(connection, [item.order_id for item in batch.items])
            kept = {_begun(item): versions[found[item.order_id].channel] for item in batch.items}
            if reverses is None and not self._compensates:
                channels = {id_: order.channel for id_, order in found.items()}
                kept = await _kept(connection, self.name, list(kept), channels, versions)
            begun_as = await _begun_as(connection, kept)
            systems = self._systems(found, kept)
            claims = await effects.claim(
                connection,
                self.name,
                [
                    Wanted(
                        item.order_id,
                        item.cause,
                        kept[_begun(item)].version,
                        reverses,
                        systems.get(_begun(item)),
                    )
                    for item in batch.items
                ],
                owner=owner,
                lease_until=lease.until,
                actor=actor,
                now=opened.clock(),
                local=self._local,
                later=moves,
            )
            quiet_causes = await _quiet(connection, batch.items)
            barred = await self._barred(connection, batch, claims, found, versions, reverses)
            failing = await outages.of_systems(connection, systems.values())
            attempts = [Attempt(item, claim) for item, claim in zip(batch.items, claims, strict=True)]
            mine = [attempt for attempt in attempts if attempt.claim.verdict in (Verdict.ACT, Verdict.ASK)]
            if self._local:
                # Nothing is asked of anybody: what is claimed is done and recorded in the same transaction.
                for attempt in mine:
                    order = _as_begun(found[attempt.item.order_id], begun_as.get(_begun(attempt.item)))
                    own = _own(order, kept[_begun(attempt.item)], quiet=attempt.item.cause in quiet_causes)
                    await self._attempt(attempt, order, own, bar=barred.get(attempt.item))
                await self._record_in(
                    connection, opened, mine, owner=owner, actor=actor, retries=retries, earlier=moves
                )
                mine = []
            else:
                # After the orders are locked, as everywhere.
                await journal.append(connection, moves)
        # What is stopped before it begins doesn't come to its system's door.
        coming = [a.claim for a in mine if a.claim.verdict is Verdict.ASK or a.item not in barred]
        reached = {
            claim.effect_id: systems[claim.order_id, claim.cause]
            for claim in coming
            if (claim.order_id, claim.cause) in systems
        }
        watch = Watch(opened, reached, failing)
        slots = asyncio.Semaphore(CONCURRENT)

        def held_s() -> float:
            return (lease.until - opened.clock()).total_seconds()

        async def carry_on(attempt: Attempt) -> None:
            async with slots, place(reached.get(attempt.claim.effect_id)):
                if watch.keeps_out(attempt):
                    return
                # What begins now is over before the lease is, even if that is never renewed again.
                if opened.clock() + timedelta(seconds=ACT_LIMIT_S) > lease.until:
                    attempt.end(attempt.claim.state, _LEASE_LOST, Transient(_LEASE_LOST))
                    return
                order = _as_begun(found[attempt.item.order_id], begun_as.get(_begun(attempt.item)))
                own = _own(order, kept[_begun(attempt.item)], quiet=attempt.item.cause in quiet_causes)
                await self._attempt(attempt, order, own, bar=barred.get(attempt.item), held_s=held_s)
                if attempt.item not in barred:
                    watch.saw(attempt)

        if mine:
            ready = [found[one.item.order_id] for one in mine if one.item not in barred]
            renewal = asyncio.create_task(_renew(opened, owner, [a.claim.effect_id for a in mine], lease))
            try:
                # On a busy machine this alone can take longer than a lease leaves.
                _prepared.set(await self._read_ahead(opened, ready))
                await watch.carry_on(mine, carry_on)
            finally:
                renewal.cancel()
            await self._record(opened, mine, owner=owner, actor=actor, retries=retries)
            await watch.settle()
        for attempt in attempts:
            if attempt.state is None:
                attempt.state, attempt.reason = attempt.claim.state, attempt.claim.reason
        return attempts

    async def _read_ahead(self, opened: Installation, ready: Sequence[Order]) -> Mapping[int, Any]:
        if self._prepare is None or len(ready) < _READ_AHEAD_FROM:
            return {}
        try:
            return await self._prepare(opened, ready)
        except Exception as error:  # noqa: BLE001 - one order that trips it must not stop the others
            _log_place(f"step {self.name}: what its orders need is read one by one ({type(error).__name__})", error)
            return {}

    def _systems(self, found: dict[int, Order], kept: dict[Begun, rules.Versioned]) -> dict[Begun, str]:
        """Return the outside system that the step acts on for each order, if it acts on any."""
        if self._system is None:
            return {}
        return {one: self._system(_own(found[one[0]], versioned, quiet=False)) for one, versioned in kept.items()}

    async def _barred(
        self,
        connection: AsyncConnection,
        batch: Batch,
        claims: Sequence[Claim],
        found: dict[int, Order],
        versions: dict[str, rules.Versioned],
        reverses: int | None,
    ) -> dict[Item, Bar]:
        """Return what must not begin any more, or not yet, and why."""
        if reverses is not None:
            return {}
        waiting: dict[Item, Bar] = {}
        if self._one_per_order:
            await bars.lock(connection, [item.order_id for item in batch.items])
            behind = await effects.behind(connection, self.name, claims)
            waiting = {
                item: Transient(
                    f"waits until it is known what came of this step for {behind[claim.effect_id]}",
                    retry_after=_BARRED_S,
                )
                for item, claim in zip(batch.items, claims, strict=True)
                if claim.effect_id in behind
            }
        if self._compensates:
            ids = [item.order_id for item in batch.items]
            await bars.lock(connection, ids)
            busy = await effects.going(connection, ids, self._compensates)
            return {
                item: Transient(
                    f"waits until it is known what came of step {busy[item.order_id]}", retry_after=_BARRED_S
                )
                for item in batch.items
                if item.order_id in busy
            }
        facts = await bars.facts(connection, [(item.order_id, item.cause) for item in batch.items])
        barred = {
            item: _bar(item, found[item.order_id], facts[item.order_id, item.cause], versions, reports=self._reports)
            for item in batch.items
        }
        return waiting | {item: bar for item, bar in barred.items() if bar is not None}

    async def _attempt(
        self,
        attempt: Attempt,
        order: Order,
        rules_: ChannelRules,
        *,
        bar: Bar | None,
        held_s: Callable[[], float] | None = None,
    ) -> None:
        """Ask if in doubt, then act. Every way this can end becomes a state of the effect."""
        try:
            async with timed(ACT_LIMIT_S, held_s):
                left_out = self._unless(order, rules_) if self._unless else None
                # Who began it by the same rules left it out, too, and did nothing that could be asked about.
                asked = None if left_out and attempt.claim.same_rules else await self._ask(attempt, order, rules_)
                result = asked or left_out or _stopped(bar) or await self._act(order, rules_, attempt.claim.key)
        except Transient as error:
            in_doubt = error.in_doubt and not self._local
            # Once in doubt, an effect stays so until somebody knows better.
            was = attempt.claim.state
            attempt.end(EffectState.IN_DOUBT if in_doubt else was, str(error), error)
        except Rejected as error:
            attempt.end(EffectState.REJECTED, str(error), error)
        except Misconfigured as error:
            attempt.end(attempt.claim.state, f"{MISCONFIGURED}{error}", error)
        except NeedsPerson as error:
            attempt.end(EffectState.IN_DOUBT, str(error), error)
        except TimeoutError:
            said = f"no end after {ACT_LIMIT_S:g} seconds"
            attempt.end(
                attempt.claim.state if self._local else EffectState.IN_DOUBT, said, Transient(said, in_doubt=True)
            )
        except Exception as error:  # noqa: BLE001 - a defect of ours, which must not stop the other orders
            said = f"unexpected {type(error).__name__} in step {self.name}"
            _log_place(said, error)
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
        why = (attempt.claim.reason or "").partition(_NOBODY_KNOWS)[0]
        if self._lookup is None:
            raise NeedsPerson(f"{why}{_NOBODY_KNOWS}")
        try:
            return await self._lookup(order, rules_, attempt.claim.key)
        except Rejected as error:
            # The question was refused, not what it was about.
            raise NeedsPerson(f"{why}{_NOBODY_KNOWS}: {error}") from None

    async def _record(
        self, opened: Installation, attempts: Sequence[Attempt], *, owner: str, actor: Actor, retries: Retries
    ) -> None:
        async with opened.store.write() as connection:
            await self._record_in(connection, opened, attempts, owner=owner, actor=actor, retries=retries)

    async def _record_in(
        self,
        connection: AsyncConnection,
        opened: Installation,
        attempts: Sequence[Attempt],
        *,
        owner: str,
        actor: Actor,
        retries: Retries,
        earlier: Sequence[dict[str, Any]] = (),
    ) -> None:
        now = opened.clock()
        rows = await effects.lock(connection, [attempt.claim.effect_id for attempt in attempts])
        endings: list[Ending] = []
        # In the order in which orders are locked everywhere, so that no two workers wait for each other.
        in_order = sorted(attempts, key=lambda attempt: attempt.item.order_id)
        open_ones = [attempt for attempt in in_order if rows[attempt.claim.effect_id].state in effects.OPEN]
        together = await self._write_together(connection, open_ones, actor=actor, now=now)
        for attempt in in_order:
            row = rows[attempt.claim.effect_id]
            if row.state in effects.OPEN:
                if attempt not in together:
                    await self._write(connection, attempt, actor=actor, now=now)
                # A worker that lost its lease knows better than the new owner only what it has done.
                if row.lease_owner == owner or attempt.state is EffectState.DONE:
                    endings.append(_ending(attempt, now=now, retries=retries))
                    continue
            # Another worker has it or has ended it: what they record stands.
            attempt.state, attempt.reason, attempt.retry = EffectState(row.state), row.reason, False
            attempt.receipt = Receipt(reference=row.reference)
        await effects.end(connection, self.name, endings, rows, actor=actor, now=now, earlier=earlier)

    async def _write_together(
        self, connection: AsyncConnection, attempts: Sequence[Attempt], *, actor: Actor, now: datetime
    ) -> list[Attempt]:
        """Write at once what orders want written in the same way; return those it was done for.

        Where that fails for any of them nothing is written, and each is left to be written alone.
        """
        ways: dict[WriteAll, list[Attempt]] = {}
        for attempt in attempts:
            if attempt.receipt is not None and attempt.receipt.write_all is not None:
                ways.setdefault(attempt.receipt.write_all, []).append(attempt)
        done: list[Attempt] = []
        for write_all, some in ways.items():
            if len(some) < _READ_AHEAD_FROM:
                continue
            wanted = [(self._transaction(connection, one, actor, now), _subject(one)) for one in some]
            try:
                async with connection.begin_nested():
                    results = await write_all(wanted)
            except Exception as error:
                if isinstance(error, DBAPIError) and error.connection_invalidated:
                    raise
                _log_place(f"step {self.name}: its orders are written one by one ({type(error).__name__})", error)
                continue
            for attempt, result in zip(some, results, strict=True):
                _take_over(attempt, result)
            done += some
        return done

    def _transaction(self, connection: AsyncConnection, attempt: Attempt, actor: Actor, now: datetime) -> Transaction:
        return Transaction(
            connection=connection,
            effect_id=attempt.claim.effect_id,
            cause=attempt.item.cause,
            actor=actor,
            now=now,
        )

    async def _write(self, connection: AsyncConnection, attempt: Attempt, *, actor: Actor, now: datetime) -> None:
        """Write what the step wants written, in a savepoint of its own: one bad order never stops the rest."""
        receipt = attempt.receipt
        if receipt is None or (receipt.write is None and receipt.write_all is None):
            return
        transaction = self._transaction(connection, attempt, actor, now)
        try:
            async with connection.begin_nested():
                more = await written(receipt, transaction)
        except Rejected as error:
            attempt.end(EffectState.REJECTED, str(error), error)
        except Exception as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            kind = str(error) if isinstance(error, OutsideError) else type(error).__name__
            said = f"could not be written down ({kind})"
            _log_place(f"step {self.name}: {said}", error)
            # What was done outside stays done: it must be found again, not done again.
            state = attempt.claim.state if self._local else EffectState.IN_DOUBT
            attempt.end(state, said, Transient(said) if isinstance(error, DBAPIError) else error)
        else:
            _take_over(attempt, more)


async def written(receipt: Receipt, transaction: Transaction) -> Receipt | Skip | None:
    """Write what a receipt of one order wants written. Raises Rejected."""
    if receipt.write is not None:
        return await receipt.write(transaction)
    if receipt.write_all is None:
        return None
    (result,) = await receipt.write_all([(transaction, receipt.subject)])
    if isinstance(result, Rejected):
        raise result
    return result


def _subject(attempt: Attempt) -> Any:
    return attempt.receipt.subject if attempt.receipt else None


def _take_over(attempt: Attempt, more: Receipt | Skip | Rejected | None) -> None:
    """Add to an attempt's receipt what came of writing it down."""
    if isinstance(more, Rejected):
        attempt.end(EffectState.REJECTED, str(more), more)
    elif isinstance(more, Skip):
        attempt.end(EffectState.SKIPPED, more.reason)
    elif more is not None and attempt.receipt is not None:
        attempt.receipt = replace(
            attempt.receipt,
            reference=more.reference or attempt.receipt.reference,
            before=attempt.receipt.before | more.before,
            after=attempt.receipt.after | more.after,
        )


def step(
    name: str,
    *,
    local: bool = False,
    compensates: Sequence[str] = (),
    system: System | None = None,
    one_per_order: bool = False,
    reports: bool = False,
    when: When | None = None,
) -> Callable[[Act], Step]:
    """Make a function that acts for one order into a step of the scenarios.

    local says that it acts in our own database alone, through Receipt.write: then nothing can be in doubt. compensates
    names the steps that it makes up for: it waits until each of these is known to have happened or not, and nothing
    that stops the order stops it. system names the connector that it acts through, by a channel's rules: while
    that is down, its orders wait. one_per_order says that an order has it once, whatever the cause, such as a label:
    for one cause it does not begin while it may be happening, or may have happened, for another. reports says that it
    only tells another system how the order stands, which it does of one that has ended, too. when says by a channel's
    rules whether its orders have the step at all: for others there is no trace of it.
    """

    def make(act: Act) -> Step:
        return Step(
            name,
            act,
            local=local,
            compensates=compensates,
            system=system,
            one_per_order=one_per_order,
            reports=reports,
            when=when,
        )

    return make


def _is_transient(_task: object, _run: object, state: State[Any]) -> bool:
    return isinstance(cast("object", state.data), Transient)


def _ending(attempt: Attempt, *, now: datetime, retries: Retries) -> Ending:
    """Say what is recorded of an attempt, and when it is tried again."""
    state = attempt.state or attempt.claim.state
    receipt = attempt.receipt or Receipt()
    done = state is EffectState.DONE
    due_at: datetime | None = None
    if attempt.retry:
        wanted_s = (attempt.error.retry_after or 0) if isinstance(attempt.error, Transient) else None
        may_be_soon = retries.next_s is not None and attempt.due_at is None
        attempt.soon = may_be_soon and wanted_s is not None and wanted_s <= (retries.next_s or 0)
        rounds = -(-attempt.claim.attempts // retries.attempts)
        due_at = attempt.due_at = None if attempt.soon else attempt.due_at or now + delay(rounds, wanted_s)
    return Ending(
        effect_id=attempt.claim.effect_id,
        state=state,
        # Kept whatever became of our own record: by it a person finds what was done outside.
        reference=_storable(receipt.reference) or attempt.claim.reference,
        reason=attempt.reason,
        before=receipt.before if done else {},
        after=receipt.after if done else {},
        due_at=due_at,
        begun=attempt.begun,
    )


def _storable(text: str | None) -> str | None:
    """Return a text without what databases refuse; an outside system may put anything into its answer."""
    return text and text.replace("\x00", "?").encode("utf-8", "replace").decode()


def _log_place(said: str, error: Exception) -> None:
    """Log where something went wrong, without its own text: that may quote anything, such as a customer's address."""
    place = "".join(traceback.format_tb(error.__traceback__))
    logging.getLogger("kvit").error("%s\n%s", said, place)


def _stopped(bar: Bar | None) -> Skip | None:
    if isinstance(bar, Exception):
        raise bar
    return bar


def _bar(
    item: Item, order: Order, facts: bars.Facts, versions: dict[str, rules.Versioned], *, reports: bool
) -> Bar | None:
    """Return why a step of a scenario must not begin for an order any more, or not yet."""
    held_out = None
    if facts.held_out:
        held_out = Transient(f"{HELD_OUT}{facts.held_out}", retry_after=_HELD_OUT_S)
    if item.cause.startswith("status:"):
        return held_out  # other systems are told of an order's end, too
    if facts.reverting and item.cause.startswith(("payment:", "hand:")):
        # Not "not yet": one in doubt that turns out not to have happened would stay so, in the revert's way, for ever.
        return Skip("the order is being taken back to before its payment")
    if facts.reverting:
        return Transient("the order is being taken back to before its payment", retry_after=_BARRED_S)
    if facts.taken_off:
        return Skip("the payment was taken off this order")
    if held_out:
        return held_out
    if reports:
        return None
    if facts.back and _own(order, versions[order.channel], quiet=False).money_back.of(facts.back).stop:
        return Skip(f"the order's money went back ({facts.back})")
    if facts.closed and item.cause.startswith(("payment:", "hold:")):
        return Rejected(f"the order is {facts.closed}; decide by hand what to do with its money")
    return Skip(f"the order is {facts.closed}") if facts.closed else None


def _begun(item: Item) -> Begun:
    return item.order_id, item.cause


def _own(order: Order, versioned: rules.Versioned, *, quiet: bool) -> ChannelRules:
    effective = versioned.rules.for_customer(group=order.customer.group, customer=order.customer.number)
    return effective.without_messages() if quiet else effective


async def _quiet(connection: AsyncConnection, items: Iterable[Item]) -> set[str]:
    found: set[str] = set()
    for subject in ("payment", "order"):
        of_subject = {item.cause: id_ for item in items for kind, id_ in [subject_of(item.cause)] if kind == subject}
        silent = await work.quiet_ones(connection, subject, sorted(set(of_subject.values())))
        found |= {cause for cause, id_ in of_subject.items() if id_ in silent}
    return found


async def _renew(opened: Installation, owner: str, effect_ids: list[int], lease: _Lease) -> None:
    """Keep the lease while the batch is worked on; a batch may take longer than one."""
    while True:
        await asyncio.sleep(RENEW_S)
        with suppress(SQLAlchemyError, OSError):  # the next renewal may come in time
            async with opened.store.write() as connection:
                now = opened.clock()
                if now >= lease.until:
                    return  # it ran out, and another worker may have taken over
                await effects.renew(connection, owner, effect_ids, now + LEASE)
            lease.until = now + LEASE


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
    doubt = _doubt(attempt) if state is EffectState.IN_DOUBT else None
    parts = [attempt.item.number, name, said, *filter(None, (reference, attempt.reason, doubt))]
    log.log(_level(state, attempt.error), " · ".join(parts), extra=fields(attempt.item, step=name))


def _doubt(attempt: Attempt) -> str:
    claim = attempt.claim
    return effects.doubt_said(key=claim.key, system=claim.system, since=claim.doubt_since)


def _level(state: EffectState, error: Exception | None) -> int:
    if state in (EffectState.DONE, EffectState.SKIPPED):
        return logging.INFO
    expected = error is None or isinstance(error, (Transient, Rejected, NeedsPerson))
    return logging.WARNING if expected else logging.ERROR
