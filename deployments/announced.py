"""Announced: sources that say when there is something new, such as a mailbox, are polled at that moment."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from connectors.errors import OutsideError, Transient
from connectors.roles import Announces
from tasks.installation import Installation
from tasks.intake import poll

_PAUSES_S = (1.0, 5.0, 30.0, 60.0, 300.0)
"""After a failure, each time longer. Every source is polled on a schedule too, so nothing is lost meanwhile."""

_BETWEEN_S = 1.0
"""Between two polls of a source at least, so that a flood of news makes few of them."""

_log = logging.getLogger("kvit.announced")


async def listen(
    opened: Installation, wake: Callable[[], None], *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Poll each source that announces news whenever it does, and call wake when that brought some; until cancelled.

    One that fails is waited for, and stops no other. pause is how to wait for so many seconds.
    """
    sources = opened.playing(Announces).items()
    await asyncio.gather(*(_hear(opened, name, source, wake, pause) for name, source in sources))


async def _hear(
    opened: Installation,
    name: str,
    source: Announces,
    wake: Callable[[], None],
    pause: Callable[[float], Awaitable[None]],
) -> None:
    failures, announced = 0, False
    while True:
        try:
            if not announced:
                await source.news()
            announced = True  # until it was polled
            found = (await poll(opened, [name])).get(name, 0)
        except OutsideError as error:
            _log.warning("%s can't be listened to now: %s", name, error)
            asked = error.retry_after if isinstance(error, Transient) else None
            failures += 1
        except Exception as error:  # noqa: BLE001 - the database may be away, or a source trip us: it is tried again
            _log.warning("%s can't be listened to now (%s)", name, type(error).__name__)
            asked = None
            failures += 1
        else:
            failures, asked, announced = 0, None, False
            if found:
                wake()
        await pause(_after(failures, asked) if failures else _BETWEEN_S)


def _after(failures: int, asked: float | None) -> float:
    """Return how long to wait after so many failures in a row, at least what the system asked for."""
    wait = _PAUSES_S[min(failures, len(_PAUSES_S)) - 1]
    return max(wait * random.uniform(0.8, 1.0), asked or 0.0)  # noqa: S311 - jitter, no secret
