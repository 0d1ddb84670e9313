"""Pacing: requests to an outside system wait in line for their turn, and whoever waits loses no time by it.

A block can make them more slowly than the system's own limit says. It holds for what the block does and starts itself;
what the same process does beside it goes on as fast as before.

What is bounded in time and makes several requests (`timed`) is not charged for the waiting: behind the requests of a
whole batch, at one a second, the line alone would be longer than its time.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Semaphore, sleep
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

from connectors.errors import Transient

LINE_LIMIT_S = 600.0
"""How long a request stands in line at most: whatever is wrong with the line, it ends."""
_WAIT_S = 5.0
"""How long a request waits for its turn at most, if the rate allows for it; so few orders are begun at once."""
_ANYWHERE: AbstractAsyncContextManager[Any] = nullcontext()


class Pace:
    """So many requests in a second, of which each of several runs has its part."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._next_start = 0.0
        self.share(1)

    def share(self, runs: int) -> None:
        """Leave this run its part, of so many; only while none of its requests is under way."""
        self._own_per_second = self._per_second / runs
        self.places = Semaphore(max(1, int(self._own_per_second * _WAIT_S)))

    async def turn(self, system: str) -> None:
        """Wait in line until the next request to a system may be made."""
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 1 / self._own_per_second
        if start > now:
            async with in_line(system):
                await sleep(start - now)


_paces: ContextVar[Mapping[str, Pace]] = ContextVar("paces")


@contextmanager
def paced(paces: Mapping[str, Pace]) -> Generator[None]:
    """Let requests to outside systems, by their connectors' names, wait for their turn while the block runs."""
    token = _paces.set(paces)
    try:
        yield
    finally:
        _paces.reset(token)


async def turn(system: str) -> None:
    """Wait in line until a request to a system may be made; at once where no block paces it."""
    paces = _paces.get(None)
    if paces and system in paces:
        await paces[system].turn(system)


def place(system: str | None) -> AbstractAsyncContextManager[Any]:
    """Return what to hold while something is done with a system that takes one request or several.

    It waits before that is begun, so that the time which it has is not spent on waiting for its turn.
    """
    paces = _paces.get(None)
    return paces[system].places if paces and system is not None and system in paces else _ANYWHERE


class _Time:
    """What is left of somebody's time; it stands still while a request of theirs is in line."""

    def __init__(self, timeout: asyncio.Timeout, end: float, held_s: Callable[[], float] | None) -> None:
        self._timeout = timeout
        self._end = end
        self._held_s = held_s
        self.stands = self.over = False

    def _end_at(self, when: float | None) -> None:
        if not (self.over or self._timeout.expired()):
            self._timeout.reschedule(when)

    @contextmanager
    def standing(self, system: str) -> Generator[None]:
        clock = asyncio.get_running_loop().time
        left = held = self._end - clock()
        self._end_at(None)
        self.stands = True
        try:
            yield
        finally:
            if self._held_s is not None:
                held = self._held_s()
            self._end = clock() + min(left, held)
            self._end_at(self._end)
            self.stands = False
        if self._held_s is not None and held <= 0:
            raise Transient(f"{system}: not sent: it was no longer held when its turn came", busy=True)


_time: ContextVar[_Time | None] = ContextVar("time", default=None)


@asynccontextmanager
async def timed(seconds: float, held_s: Callable[[], float] | None = None) -> AsyncGenerator[None]:
    """Bound the block in time, without what requests made in it wait for their turn. Raises TimeoutError.

    held_s tells for how many seconds more it may go on in any case: the time never lasts longer than that.
    """
    async with asyncio.timeout(seconds) as timeout:
        mine = _Time(timeout, asyncio.get_running_loop().time() + seconds, held_s)
        token = _time.set(mine)
        try:
            yield
        finally:
            mine.over = True  # what was started in the block may outlive it
            _time.reset(token)


@asynccontextmanager
async def in_line(system: str) -> AsyncGenerator[None]:
    """Wait in the block for the turn of a request; the time of whoever makes it stands still meanwhile.

    Raises Transient when the turn doesn't come, or comes too late: nothing was sent then.
    """
    mine = _time.get()
    if mine is None or mine.stands or mine.over:
        yield
        return
    with mine.standing(system):
        limit = asyncio.timeout(LINE_LIMIT_S)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            said = f"{system}: not sent: its turn did not come in {LINE_LIMIT_S:g} seconds"
            raise Transient(said, busy=True) from None


@asynccontextmanager
async def its_turn(system: str, of: asyncio.Semaphore | asyncio.Lock) -> AsyncGenerator[None]:
    """Hold one of a system's places, or a lock, while the block runs; it is waited for in line. Raises as that does."""
    held = False
    try:
        if isinstance(of, asyncio.Semaphore) and not of.locked():
            held = await of.acquire()  # at once, which a lock that is free may not be: others may wait for it already
        else:
            async with in_line(system):
                held = await of.acquire()
        yield
    finally:
        if held:
            of.release()


class Turns:
    """One at a time: what is about the same thing, such as an order, and must not be done twice at once."""

    def __init__(self, system: str) -> None:
        self._system = system
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    def of(self, what: Hashable) -> AbstractAsyncContextManager[None]:
        """Return what to hold while something is done about a thing. Raises as `in_line` does."""
        lock = self._locks.get(what)
        if lock is None:
            lock = self._locks[what] = asyncio.Lock()
        return its_turn(self._system, lock)
