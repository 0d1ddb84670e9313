"""Set channel rules: a channel's document is edited by a form, and tried on the channel's own history."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

from prefect import State, flow
from prefect.states import Completed, Failed

from domain.preview import LAST, LAST_MAX
from tasks.forms import form_field
from tasks.rules_form import RulesGiven
from tasks.set_rules import Change, Refused, save_change, try_change


@flow(name="set channel rules", flow_run_name="set channel rules · {channel}")
async def set_channel_rules(
    what: Literal["preview", "save"] = form_field(
        "What to do",
        "Preview: check the rules, and show what they would have made otherwise of past orders and payments. "
        "Save: the same, then a new version of the rules",
        "preview",
    ),
    channel: str = form_field("Channel", "The sales channel whose rules they are, such as cz", ""),
    group: str = form_field("Only for the group", "A customer group that the rules are for; empty: everybody", ""),
    customer: str = form_field("Only for the customer", "The number of a customer that they are for", ""),
    changes: RulesGiven = form_field(
        "Rules",
        "What is filled in is put into the rules, field by field; what is left empty stays as it is. "
        "A list is replaced as a whole. `kvit rules show` prints what is in force",
        {},
    ),
    remove: list[str] = form_field(
        "Take out",
        "Lines to take out of the rules, such as placed.card.status, so that the default holds again, or for a group "
        "or customer what holds for everybody",
        [],
    ),
    since: date | None = form_field(
        "Preview since", "Only orders placed and payments booked on this day or later (UTC)", None
    ),
    last: int = form_field(
        "Preview the last", "At most so many orders, and so many payments, the newest ones", LAST, ge=1, le=LAST_MAX
    ),
    because: str = form_field("Because", "Why; needed to save, and kept in the history of the rules", ""),
    author: str = form_field("Your name", "Who says so; kept in the history of the rules", "an operator"),
) -> State[Any]:
    """Check → preview on the channel's own history → save as a new version of its rules."""
    change = Change(
        channel=channel, given=changes, out=remove, group=group, customer=customer, author=author, because=because
    )
    said = await try_change(change, to_save=what == "save", since=since, last=last)
    if what == "preview" and isinstance(said, str):
        return Completed(name="Done", message=f"{said} Nothing was saved.")
    saved = await save_change(change) if isinstance(said, str) else said
    if isinstance(saved, Refused):
        return Failed(name="Refused", message=saved.said)
    return Completed(name="Done", message=f"{said} {saved}")
