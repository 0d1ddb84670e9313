"""Pace: how long a worker holds what it took, and how long what failed waits before it is tried again."""

from __future__ import annotations

import random
from datetime import timedelta

LEASE = timedelta(seconds=60)
"""How long a worker may hold something without saying that it is still at work."""

_DELAYS = [timedelta(minutes=m) for m in (1, 5, 30, 120, 360, 1440)]


def delay(attempts: int, retry_after: float | None = None) -> timedelta:
    """Return how long to wait before the next attempt: growing to a day, with jitter, at least what was asked for."""
    wait = _DELAYS[min(attempts, len(_DELAYS)) - 1] * random.uniform(0.8, 1.0)  # noqa: S311 - jitter, no secret
    return max(wait, timedelta(seconds=retry_after or 0))


_PROBE_MAX = timedelta(minutes=30)
PATIENCE = timedelta(days=1)
"""What is still not done after so long is shown to a person, though it goes on being tried."""


def until_probe(attempts: int, retry_after: float | None = None) -> timedelta:
    """Return how long to wait before a system that is down is asked again: growing to half an hour.

    No longer, because one question costs nobody anything, and a whole shop's backlog waits for its answer.
    """
    return max(min(delay(attempts), _PROBE_MAX), timedelta(seconds=retry_after or 0))
