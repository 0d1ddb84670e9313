"""Sources that announce news are polled at that moment, and what they bring is carried on; a failure is waited out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from elsewhere import Saying
from shop_builders import buy, order_of, payment_of

from connectors.errors import Misconfigured, Transient
from connectors.roles import Announces, Page, PaymentSource
from deployments.announced import listen
from deployments.dispatcher import Dispatcher
from store import inbox
from tasks.installation import Installation

WITHIN_S = 200
"""What must come about does so in a second; a busy machine, or a Prefect whose database is locked, is waited for."""


class Mailbox(Saying):
    """A source that announces what comes in; `fails` are raised by the next waits for news, one each.

    loses is how many polls fail.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0
        self.polled = 0
        self.fails: list[Exception] = []
        self.loses = 0
        self._events: list[tuple[str, bytes]] = []
        self._rung = asyncio.Event()

    def receive(self, id_: str, *told: Any) -> None:
        """Let something come in that means what is told."""
        self.says[id_.encode()] = list(told)
        self._events.append((id_, id_.encode()))
        self._rung.set()

    async def news(self) -> None:
        """Wait for what comes in."""
        self.waited += 1
        if self.fails:
            raise self.fails.pop(0)
        await self._rung.wait()
        self._rung.clear()

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return what came in after a cursor, which is how many were returned."""
        assert now.tzinfo
        self.polled += 1
        if self.loses:
            self.loses -= 1
            raise Transient("mailbox: no answer")
        return Page(tuple(self._events[int(cursor or 0) :]), str(len(self._events)), more=False)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - the database tells by no event
            await asyncio.sleep(0.01)


class Pauses:
    """Waits that end at once, written down."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Wait for no time."""
        self.seconds.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def listening(opened: Installation, woken: Callable[[], None], pause: Pauses) -> AsyncGenerator[None]:
    task = asyncio.create_task(listen(opened, woken, pause=pause))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
def mailbox(opened: Installation) -> Mailbox:
    made = Mailbox()
    assert isinstance(made, Announces)
    assert isinstance(made, PaymentSource)
    opened.connectors["mailbox"] = made
    return made


async def test_what_is_announced_is_polled_and_carried_on_with_nobody_asking(
    opened: Installation, mailbox: Mailbox
) -> None:
    order_id = await buy(opened)
    stop = asyncio.Event()
    working = asyncio.create_task(Dispatcher(opened).run(stop))
    mailbox.receive("letter 1", payment_of("CZ5001"))
    async with asyncio.timeout(WITHIN_S):
        while not (await order_of(opened, order_id)).settled:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    stop.set()
    await working
    assert mailbox.polled == 1
    assert (await order_of(opened, order_id)).to_pay.minor == 0


async def test_what_comes_in_wakes_and_what_is_known_does_not(opened: Installation, mailbox: Mailbox) -> None:
    woken: list[int] = []
    async with listening(opened, lambda: woken.append(mailbox.polled), Pauses()):
        mailbox.receive("letter 1")
        await until(lambda: mailbox.waited == 2)
        mailbox.receive("letter 1")
        await until(lambda: mailbox.waited == 3)
        mailbox.receive("letter 2")
        await until(lambda: mailbox.waited == 4)
    assert woken == [1, 3]
    async with opened.store.read() as connection:
        assert await inbox.count_due(connection, opened.clock()) == 2


async def test_a_source_that_fails_is_asked_again_after_longer_and_longer(
    opened: Installation, mailbox: Mailbox
) -> None:
    pause = Pauses()
    mailbox.fails = [Transient("mailbox: no connection"), Transient("mailbox: no answer", retry_after=100)]
    mailbox.fails += [Misconfigured("mailbox: it doesn't accept the login"), RuntimeError("a defect"), OSError()]
    async with listening(opened, lambda: None, pause):
        mailbox.receive("letter 1")
        await until(lambda: mailbox.waited == 7)
        assert mailbox.polled == 1
        mailbox.fails = [Transient("mailbox: no connection")]
        mailbox.receive("letter 2")
        await until(lambda: mailbox.waited == 9)
    first, second, third, fourth, fifth, polled, _, failed = pause.seconds
    assert polled < 2 < third < fourth < fifth
    assert second == 100  # as long as the system asked for
    assert max(first, failed) < 2  # what failed before a success doesn't count


async def test_news_that_could_not_be_fetched_are_fetched_without_being_announced_anew(
    opened: Installation, mailbox: Mailbox
) -> None:
    woken: list[int] = []
    mailbox.loses = 2
    async with listening(opened, lambda: woken.append(mailbox.polled), Pauses()):
        mailbox.receive("letter 1")
        await until(lambda: mailbox.waited == 2)
    assert woken == [3]
