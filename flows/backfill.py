"""Backfill: chosen orders are carried on again, in chunks; messages stay off unless they are asked for."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from flows.scenarios import SCENARIOS
from tasks.backfill import (
    BackfillError,
    Progress,
    Selection,
    begin,
    choose,
    end_chunk,
    held,
    open_chunks,
    set_aside,
    show_plan,
    show_results,
    take_chunk,
    write_report,
)
from tasks.forms import form_field
from tasks.installation import installation


@flow(name="backfill", flow_run_name="backfill")
async def backfill(
    selection: Selection = form_field("Orders", "Which orders to carry on; what is empty chooses all", Selection()),
    dry_run: bool = form_field("Dry run", "Only show what would be carried on; nothing is done", default=True),
    notify: bool = form_field(
        "Send messages",
        "Customers get the messages that were not begun yet; one that an earlier run left out stays left out",
        default=False,
    ),
    author: str = form_field("Your name", "It stands in the list of backfills", ""),
    because: str = form_field("Why", "It stands in the list of backfills", ""),
    resume: int | None = form_field(
        "Go on with", "The number of a backfill that was cut short; what is above is then not looked at", None
    ),
) -> State[Any]:
    """Choose → show → carry on, chunk by chunk → report."""
    opened = await installation()
    if resume is None:
        planned = await choose(selection)
        await show_plan(planned, dry_run=dry_run, notify=notify)
        if dry_run:
            return Completed(name="Dry run", message=f"{len(planned)} would be carried on; nothing was done")
        resume = await begin(selection, planned, notify=notify, author=author, because=because)
        await set_aside(planned, notify=notify)
    try:
        async with held(opened, resume) as row:
            chunks = await open_chunks(opened, resume)
            progress = Progress(row["chunks"])
            for chunk in chunks:
                parts = await take_chunk(opened, resume, chunk, notify=row["notify"])
                run, parameter = SCENARIOS[parts[0].scenario]
                name = f"backfill {resume} · chunk {chunk} of {row['chunks']} · {run.name}"
                named = run.with_options(flow_run_name=name)
                state: State[Any] = await named(**{parameter: [part.subject_id for part in parts]}, return_state=True)
                cut_short = None if state.is_completed() or state.name == "Needs a person" else str(state.message)
                await end_chunk(opened, row, parts, failed=cut_short)
                await progress.show(chunk)
    except BackfillError as error:
        return Failed(name="Refused", message=str(error))
    path, totals = await write_report(opened, resume)
    await show_results(opened, resume, totals, path)
    persons = sum(totals.get(result, 0) for result in ("parked", "in doubt", "failed"))
    message = f"backfill {resume}: " + (", ".join(f"{n} {result}" for result, n in totals.items()) or "nothing chosen")
    return Failed(name="Needs a person", message=message) if persons else Completed(name="Done", message=message)
