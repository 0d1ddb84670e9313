"""Report transitions: how long orders stay in a status before they come to the next, which shows where the delay is."""

from __future__ import annotations

from datetime import date
from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from domain.transitions import ReportError
from tasks.forms import form_field
from tasks.transitions import asked, show_transitions, work_out


@flow(name="report transitions", flow_run_name="report transitions")
async def report_transitions(
    channel: str | None = form_field("Channel", "Only this sales channel, such as cz; empty: all of them", None),
    since: date | None = form_field("Since", "The first day; empty: twelve weeks ago, or as said below", None),
    until: date | None = form_field("Until", "The last day; empty: today", None),
    before_after: date | None = form_field(
        "Before and after",
        "A day on which something was changed: times before it are compared with times from it on, by default over as "
        "many days before as after",
        None,
    ),
) -> State[Any]:
    """Read the history of statuses → work out the times → draw and show."""
    try:
        period = await asked(channel=channel or None, since=since, until=until, before_after=before_after)
    except ReportError as error:
        return Failed(name="Refused", message=str(error))
    said = await show_transitions(await work_out(period, channel or None), period)
    return Completed(name="Done", message=said)
