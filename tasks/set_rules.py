"""Set rules: what a form says is put into a channel's document, tried on its history, and saved."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.preview import LAST
from domain.rule_changes import RuleChange, rule_changes
from domain.rules import ChannelRules, RulesError
from domain.wording import counted
from store import rules
from tasks.cells import TABLE_ROWS, cells
from tasks.installation import installation
from tasks.preview import preview_rules, show_preview
from tasks.rules import checked_rules, save_rules
from tasks.rules_form import example_said, put_in, take_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a form asks for: fields filled in and lines taken out, for a channel or for one group or customer of it."""

    channel: str
    given: dict[str, Any]
    out: list[str]
    group: str = ""
    customer: str = ""
    author: str = ""
    because: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a change can't be taken, a line per mistake. Returned, as the log has a traceback of what a task raises."""

    said: str


_BEGINNING = ("title", "currency", "seller")


async def _changed(connection: AsyncConnection, change: Change) -> tuple[dict[str, Any], ChannelRules]:
    """Return a channel's document in force, and its rules with a change.

    Raises RulesError, a line per mistake, also for a channel that is not known and not described.
    """
    channel, group, customer = change.channel.strip(), change.group.strip(), change.customer.strip()
    if not channel:
        raise RulesError("Channel is empty; write it")
    document = await rules.document(connection, channel)
    if document is None and not all(change.given.get(field) for field in _BEGINNING):
        known = ", ".join(await rules.current(connection)) or "none yet"
        raise RulesError(
            f"channel “{channel}” is not known; there is {known}. For a new one fill in Title, Currency and Seller"
        )
    made = put_in(document or {"channel": channel}, change.given, group=group, customer=customer)
    made = take_out(made, change.out, group=group, customer=customer)
    return document or {}, checked_rules(made, where=f"channel {channel}")


@task(name="preview rules", cache_policy=NO_CACHE)
async def try_change(
    change: Change, *, to_save: bool = False, since: date | None = None, last: int = LAST
) -> str | Refused:
    """Check a change, show its lines and what it would have made otherwise of the past; say both in a sentence.

    One that is to be saved needs a name and a reason.
    """
    for value, name in ((change.because, "Because"), (change.author, "Your name")):
        if to_save and not value.strip():
            return Refused(f"{name} is empty; write it")
    opened = await installation()
    try:
        async with opened.store.read() as connection:
            before, made = await _changed(connection, change)
    except RulesError as error:
        return Refused(str(error))
    lines = rule_changes(before, made.model_dump(mode="json", exclude_unset=True))
    if not lines:
        return f"{made.channel}: these rules are in force already."
    await acreate_table_artifact(
        key="rules-change",
        table=cells(_row(line) for line in lines[:TABLE_ROWS]),
        description=f"The lines of the rules of {made.channel} that differ: {len(lines)}.",
    )
    said = await show_preview(await preview_rules(opened, made, since=since, limit=last))
    return f"{made.channel}: {counted(len(lines), 'line')} changed. {said}"


def _row(line: RuleChange) -> dict[str, str]:
    before, after = ("" if said is None else example_said(said) for said in (line.before, line.after))
    return {"Line": line.path, "Before": before, "After": after}


@task(name="save rules", cache_policy=NO_CACHE)
async def save_change(change: Change) -> str | Refused:
    """Put a change into force as a new version of the rules, and say which."""
    opened = await installation()
    try:
        async with opened.store.write() as connection:
            _, made = await _changed(connection, change)
            saved = await save_rules(
                connection,
                made.model_dump(mode="json", exclude_unset=True),
                author=change.author.strip(),
                reason=change.because.strip(),
                now=opened.clock(),
                run=_run_id(),
                where=f"channel {made.channel}",
            )
    except RulesError as error:  # somebody else has saved other rules since
        return Refused(str(error))
    return f"Saved as version {saved.version}." if saved.changed else f"Nothing changed, version {saved.version}."


def _run_id() -> str | None:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None
