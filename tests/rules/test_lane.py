"""A lane: letters go in their order, and nothing else of a scenario waits for them until it ends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tasks.lane import lane


class Post:
    """Sends letters: each begins when it is its turn, and is sent when it is let go."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._may_go: dict[str, asyncio.Event] = {}

    def let_go(self, *names: str) -> None:
        """Let letters be sent."""
        for name in names:
            self._may_go.setdefault(name, asyncio.Event()).set()

    async def send(self, name: str) -> None:
        """Send a letter."""
        self.said.append(f"{name} begins")
        await self._may_go.setdefault(name, asyncio.Event()).wait()
        self.said.append(f"{name} sent")

    async def until(self, said: str) -> None:
        """Wait until something was said."""
        while said not in self.said:  # noqa: ASYNC110 - it is said by what goes on meanwhile
            await asyncio.sleep(0)


async def test_nothing_waits_for_a_letter_until_the_scenario_ends() -> None:
    post = Post()
    async with asyncio.timeout(10):
        async with lane() as letters:
            letters(post.send("paid"))
            await post.until("paid begins")
            post.said.append("dispatched")
            post.let_go("paid")
    assert post.said == ["paid begins", "dispatched", "paid sent"]


async def test_letters_go_in_their_order_and_those_of_one_call_together() -> None:
    post = Post()
    async with asyncio.timeout(10):
        async with lane() as letters:
            letters(post.send("paid"), post.send("short"))
            letters(post.send("shipped"))
            await post.until("short begins")
            post.let_go("shipped", "paid")
            await post.until("paid sent")
            assert "shipped begins" not in post.said
            post.let_go("short")
    assert post.said[:2] == ["paid begins", "short begins"]
    assert post.said[-2:] == ["shipped begins", "shipped sent"]


async def fail(reason: str) -> None:
    """Fail, as a step does whose database is away."""
    raise ValueError(reason)


async def test_what_a_step_of_the_lane_raises_is_raised_when_all_have_ended() -> None:
    post = Post()
    post.let_go("paid", "shipped")

    async def carry_on() -> None:
        async with lane() as letters:
            letters(fail("first"), post.send("paid"))
            letters(post.send("shipped"), fail("second"))
            await asyncio.sleep(0)
            post.said.append("dispatched")

    with pytest.raises(ValueError, match="first"):
        await carry_on()
    assert {"dispatched", "paid sent", "shipped sent"} <= set(post.said)


async def test_what_fails_outside_of_the_lane_ends_once_the_letters_are_sent() -> None:
    post = Post()
    post.let_go("paid")

    async def carry_on() -> None:
        async with lane() as letters:
            letters(post.send("paid"))
            await fail("the database")

    with pytest.raises(ValueError, match="the database"):
        await carry_on()
    assert post.said == ["paid begins", "paid sent"]


async def test_a_scenario_that_is_cancelled_leaves_no_letter_behind() -> None:
    post = Post()
    left: list[Coroutine[Any, Any, None]] = []

    async def carry_on(put: Callable[[Coroutine[Any, Any, None]], Any]) -> None:
        async with lane() as letters:
            for name in ("paid", "shipped"):
                step = post.send(name)
                put(step)
                letters(step)

    running = asyncio.create_task(carry_on(left.append))
    await post.until("paid begins")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert post.said == ["paid begins"]
    assert [inspect.getcoroutinestate(step) for step in left] == [inspect.CORO_CLOSED] * 2
