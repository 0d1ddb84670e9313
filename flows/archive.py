"""Archive: orders that were closed long ago leave the tables that every payment is looked up in."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from tasks.archive import ArchiveError, Progress, archive_before, day_ago, plan, said_of, show
from tasks.forms import form_field
from tasks.installation import installation


@flow(name="archive", flow_run_name="archive")
async def archive(
    older_than_days: int = form_field("Older than", "Days since anything happened to an order", 730, ge=30, le=36_500),
    plan_only: bool = form_field("Plan only", "Only show what would be archived; nothing is moved", default=True),
) -> State[Any]:
    """Look → archive, piece by piece → show what went and what stays."""
    opened = await installation()
    day = day_ago(opened, older_than_days)
    progress = Progress()
    try:
        found = await (plan if plan_only else archive_before)(opened, day, told=progress.show)
    except ArchiveError as error:
        return Failed(name="Refused", message=str(error))
    await show(found, planned=plan_only)
    return Completed(name="Plan" if plan_only else "Done", message=said_of(found, planned=plan_only))
