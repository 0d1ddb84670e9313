"""Resolve message: a person says that what an outside system told is to be asked about again, or is done with."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from store import inbox, journal
from store.journal import Actor
from tasks.installation import Installation, installation
from tasks.step import current_actor

_MAX_ID = 1 << 63


class MessageError(ValueError):
    """A message can't be settled; its text says why."""


async def settle(opened: Installation, message: int, *, again: bool, author: str, because: str) -> str:
    """Take a message up again that was left to a person, or be done with it; return what was done, in a sentence.

    Raises MessageError.
    """
    if not because.strip():
        raise MessageError("say why; it stands in the journal")
    async with opened.store.write() as connection:
        now = opened.clock()
        known = 0 < message < _MAX_ID
        source = await inbox.settle(connection, message, again=again, now=now) if known else None
        if source is None:
            raise MessageError(f"no message {message} waits for a person; `kvit payments list --unmatched` lists them")
        actor = Actor(name=author[:200], run=current_actor(opened).run)
        entry = journal.entry(
            actor,
            at=now,
            step="message",
            move="again" if again else "done",
            reference=f"message {message} of {source}",
            reason=because.strip()[:2_000],
        )
        await journal.append(connection, [entry])
    what = f"{source} is asked about it again" if again else "nobody is asked about it any more"
    return f"message {message} of {source}: {what}"


@task(name="settle", cache_policy=NO_CACHE)
async def settle_numbered(message: int, *, again: bool, author: str, because: str) -> str:
    """Do that for the form. Raises MessageError."""
    return await settle(await installation(), message, again=again, author=author, because=because)
