"""Python's collector of cyclic garbage, set for a process that loads much and keeps it.

As Python sets it, the collector looks through what is new after every 700 objects that stay, and every so often through
everything. While modules are loaded everything stays, so that is a sixth of a command's start; afterwards it holds up
whoever waits meanwhile. Garbage without cycles, which is nearly all, is gone at once in any case.
"""

from __future__ import annotations

import gc

_LOADING = 500_000
_AT_WORK = 5_000


def loading() -> None:
    """Look for garbage seldom, since what comes now stays; call it first."""
    gc.set_threshold(_LOADING, 10, 10)


def loaded() -> None:
    """Look no more through what there is by now, and at what is new from time to time; may be called again."""
    gc.freeze()
    gc.set_threshold(_AT_WORK, 10, 10)
