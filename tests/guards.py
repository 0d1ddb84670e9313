"""The guards of the product, and how each is switched off, so that tests can show that without it they fail."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

from store import effects
from store.effects import Verdict
from tasks.installation import Installation
from tasks.step import Step

IN_CODE = ("lookup", "lease", "record-transaction")
"""Those that are code; the unique key is the database's own."""

_Put = Callable[[Any, str, Any], None]


def _nothing() -> None:
    pass


def switch_off(guard: str, put: _Put, *, between: Callable[[], None] = _nothing) -> None:
    """Take one guard out of the product: put replaces an attribute, as setattr does.

    between is called after a batch's effects are recorded and before each of them is written down, where without the
    transaction around the two a process can die.
    """
    if guard == "lookup":
        _no_lookup(put)
    elif guard == "lease":
        _no_lease(put)
    elif guard == "record-transaction":
        _no_transaction(put, between)


def _no_lookup(put: _Put) -> None:
    async def never(_self: Any, *_: Any) -> None:
        """Act again without asking."""

    put(Step, "_ask", never)


def _no_lease(put: _Put) -> None:
    verdict: Any = cast("Any", effects)._verdict

    def alone(row: Any, *, now: datetime) -> Verdict:
        found = verdict(row, now=now)
        held = row.lease_owner is not None and row.state in effects.OPEN
        return Verdict.ASK if found is Verdict.STOP and held else found

    put(effects, "_verdict", alone)


def _no_transaction(put: _Put, between: Callable[[], None]) -> None:
    whole: Any = Step
    write, record = whole._write, whole._record
    left: list[Any] = []

    async def later(self: Any, _connection: Any, attempt: Any, *, actor: Any, now: datetime) -> None:
        left.append((self, attempt, actor, now))

    async def apart(self: Any, opened: Installation, *given: Any, **named: Any) -> None:
        await record(self, opened, *given, **named)
        while left:
            between()
            mine, attempt, actor, now = left.pop(0)
            async with opened.store.write() as connection:
                await write(mine, connection, attempt, actor=actor, now=now)

    put(Step, "_write", later)
    put(Step, "_record", apart)
