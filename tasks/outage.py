"""Outages: while an outside system is down, one probe goes ahead of the queue, and the rest is not even begun.

A step that acts outside names its system, by the rules of each order's channel. What an attempt tells about it:

    up       it did what was asked, or found it done
    down     Transient: no connection, no answer in time, a 5xx, or no usable answer
    nothing  everything else: a refusal, a setting, a rule that says there is nothing to do, a defect of ours, and an
             answer that asks to come later (408, 425, 429), for the system is at work then

A system is called down when it failed with ENOUGH different orders in a row, in whatever runs and processes, and with
no success in between. So one order on which it always fails, however often that is tried, stops nobody else.

While a system is down, a batch acts on one order: the probe, if its time has come and no other process has taken it.
If it fails, the next one waits longer, up to half an hour, and is another order: the least tried. What was not begun is
due a little after the probe; by then a probe whose process died has been taken over. If the probe succeeds, the rest of
its batch goes on at once, and all that waits elsewhere is due now, and drains in batches as large as the dispatcher's.
An order in doubt may be the probe: looking up whether something happened is a question like any other.

A system that answers 429 with Retry-After is not down. What a batch has not begun by then is due when it asked for it.

Taking back what was done (undo) is begun by a person and for few orders; it tries the system by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from connectors.errors import Transient
from store import outages
from store.effects import EffectState
from store.outages import Outage
from tasks.installation import Installation
from tasks.pace import LEASE, PATIENCE, until_probe

if TYPE_CHECKING:
    from tasks.step import Attempt

ENOUGH = 3
"""With so many different orders in a row a system fails before it is called down."""
REST_AFTER = 2 * LEASE
"""How long after the probe the rest is due, if nothing is heard of the probe."""

_log = logging.getLogger("kvit")


@dataclass(slots=True)
class _System:
    """A system as one call of a step sees it. failed are the orders with which it failed since it last answered."""

    name: str
    outage: Outage | None = None
    failed: set[int] = field(default_factory=set[int])
    since: datetime | None = None
    reason: str = ""
    retry_after: float | None = None
    answered: bool = False
    probe: Attempt | None = None
    busy_until: datetime | None = None
    seen: bool = False

    @property
    def is_down(self) -> bool:
        return self.outage is not None and self.outage.probe_at is not None

    @property
    def fails(self) -> bool:
        """Whether it failed with enough orders in a row, those before this call counted in."""
        before = self.outage.failed if self.outage and not self.answered else ()
        return len(self.failed.union(before)) >= ENOUGH and bool(self.failed)


class Watch:
    """What one call of a step does about the systems that it acts on: made when its effects are claimed."""

    def __init__(self, opened: Installation, systems: Mapping[int, str], known: Mapping[str, Outage]) -> None:
        """Take the systems, by the effects that are to reach them, and what is known of those that fail."""
        self._opened = opened
        self._of_effect = systems
        self._systems = {name: _System(name, known.get(name), seen=name in known) for name in systems.values()}
        self._waited: dict[str, Outage] = {}
        self._found_down: dict[str, Outage] = {}

    def _of(self, attempt: Attempt) -> _System | None:
        name = self._of_effect.get(attempt.claim.effect_id)
        return self._systems[name] if name else None

    def keeps_out(self, attempt: Attempt) -> bool:
        """Say whether an order must not be begun now, because of what its system told meanwhile."""
        system = self._of(attempt)
        if system is None or attempt is system.probe:
            return False
        busy = system.busy_until is not None and system.busy_until > self._opened.clock()
        return system.is_down or system.fails or busy

    def saw(self, attempt: Attempt) -> None:
        """Take note of how an attempt ended."""
        if (system := self._of(attempt)) is None:
            return
        now, error = self._opened.clock(), attempt.error
        if attempt.state is EffectState.DONE:
            system.answered, system.since = True, None
            system.failed.clear()
        elif isinstance(error, Transient) and (not error.busy or attempt is system.probe):
            system.failed.add(attempt.item.order_id)
            system.since = system.since or now
            system.reason, system.retry_after = str(error), error.retry_after
        elif isinstance(error, Transient) and error.retry_after:
            system.busy_until = now + timedelta(seconds=error.retry_after)

    async def carry_on(self, attempts: Sequence[Attempt], begin: Callable[[Attempt], Awaitable[None]]) -> None:
        """Begin attempts, as many of each system's as it bears; the others end as waiting.

        begin leaves an attempt without a state when `keeps_out` says so.
        """
        free: list[Attempt] = []
        of_system: dict[str, list[Attempt]] = {}
        for attempt in attempts:
            name = self._of_effect.get(attempt.claim.effect_id)
            (of_system.setdefault(name, []) if name else free).append(attempt)
        await asyncio.gather(
            *(self._through(self._systems[name], some, begin) for name, some in of_system.items()),
            *(begin(attempt) for attempt in free),
        )

    async def _through(
        self, system: _System, attempts: Sequence[Attempt], begin: Callable[[Attempt], Awaitable[None]]
    ) -> None:
        if system.is_down:
            await self._probe(system, attempts, begin)
        while True:
            waiting = [attempt for attempt in attempts if attempt.state is None]
            if waiting and not self.keeps_out(waiting[0]):
                await asyncio.gather(*(begin(attempt) for attempt in waiting))
                continue
            await self._note(system)
            # Others may have had an answer meanwhile, so that what failed here is not enough by itself.
            if not waiting or self.keeps_out(waiting[0]):
                break
        self._wait(system, attempts)

    async def _probe(
        self, system: _System, attempts: Sequence[Attempt], begin: Callable[[Attempt], Awaitable[None]]
    ) -> None:
        """Act on one order after the other until one has told whether the system is up."""
        held: datetime | None = None
        for attempt in sorted(attempts, key=lambda one: one.claim.attempts):
            held = await self._take(system, held)
            if held is None:
                return
            system.probe = attempt
            await begin(attempt)
            if system.answered:
                await self._is_up(system)
            if system.answered or system.failed:
                return

    async def _take(self, system: _System, held: datetime | None) -> datetime | None:
        """Take the probe, or see what became of the outage; return until when it is taken."""
        async with self._opened.store.write() as connection:
            now = self._opened.clock()
            until = now + LEASE
            if await outages.take_probe(connection, system.name, until=until, now=now, held=held):
                return until
            system.outage = (await outages.of_systems(connection, [system.name])).get(system.name)
        return None

    async def _is_up(self, system: _System) -> None:
        system.outage, system.seen = None, False
        # Whoever waits goes on a little later by himself, should this fail.
        with suppress(SQLAlchemyError, OSError):
            async with self._opened.store.write() as connection:
                count = await outages.is_up(connection, system.name, now=self._opened.clock())
            _log.info("%s is up again; %d steps go on", system.name, count)

    async def _note(self, system: _System) -> None:
        """Keep for the next calls, of whatever process, what this one saw."""
        if system.failed:
            probed = system.is_down and system.probe is not None
            async with self._opened.store.write() as connection:
                now = self._opened.clock()
                system.outage = await outages.note(
                    connection,
                    system.name,
                    system.failed,
                    since=system.since or now,
                    reason=system.reason,
                    enough=ENOUGH,
                    wait=lambda attempts: until_probe(attempts, system.retry_after),
                    now=now,
                    afresh=system.answered,
                    probed=probed,
                )
            if system.is_down:
                self._found_down[system.name] = system.outage
                _log.warning("%s", _said(system.outage))
        elif system.answered and system.seen:
            await self._is_up(system)

    def _wait(self, system: _System, attempts: Sequence[Attempt]) -> None:
        """End what was not begun, and let what failed wait with it."""
        outage = system.outage
        if outage is not None and outage.probe_at is not None:
            due_at = max(outage.probe_at, self._opened.clock()) + REST_AFTER
            for attempt in attempts:
                if attempt.state is None:
                    self._leave(attempt, _said(outage), due_at)
                    self._waited[system.name] = outage
                elif attempt.item.order_id in system.failed:
                    attempt.due_at = due_at
            return
        for attempt in attempts:
            if attempt.state is None and system.busy_until is not None:
                said = f"{system.name} asks to wait until {_moment(system.busy_until, system.busy_until)}"
                self._leave(attempt, said, system.busy_until)

    @staticmethod
    def _leave(attempt: Attempt, said: str, due_at: datetime) -> None:
        """End an attempt that was not begun; what is in doubt keeps saying why."""
        in_doubt = attempt.claim.state is EffectState.IN_DOUBT
        attempt.end(attempt.claim.state, attempt.claim.reason if in_doubt else said, Transient(said))
        attempt.begun, attempt.due_at = False, due_at

    async def settle(self) -> None:
        """Once this call's effects are recorded, put off all that waits for a system that was found down.

        What a lost connection keeps from being done here is made up for when what waits is due.
        """
        with suppress(SQLAlchemyError, OSError):
            for name, outage in self._found_down.items():
                async with self._opened.store.write() as connection:
                    await outages.put_off(
                        connection,
                        name,
                        reason=_said(outage),
                        rest_after=REST_AFTER,
                        patience=PATIENCE,
                        now=self._opened.clock(),
                    )
            for name, outage in self._waited.items():
                async with self._opened.store.read() as connection:
                    still = await outages.of_systems(connection, [name])
                if name not in still:  # it came up while these were recorded as waiting
                    async with self._opened.store.write() as connection:
                        await outages.release(connection, name, since=outage.since, now=self._opened.clock())


def _moment(at: datetime, now: datetime) -> str:
    return f"{at:%H:%M} UTC" if at.date() == now.date() else f"{at.day} {at:%B}, {at:%H:%M} UTC"


def _said(outage: Outage) -> str:
    probe_at = outage.probe_at or outage.since
    since = _moment(outage.since, probe_at)
    return f"{outage.system} is down since {since}; it is tried again at {_moment(probe_at, probe_at)}"
