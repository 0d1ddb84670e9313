"""Backfill: chosen orders are carried on again, in chunks; messages stay off unless they are asked for."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from flows.scenarios import SCENARIOS
from tasks.backfill import Progress, Selection, by_scenario, choose, set_aside, show_plan, show_results
from tasks.forms import form_field


@flow(name="backfill", flow_run_name="backfill")
async def backfill(
    selection: Selection = form_field("Orders", "Which orders to carry on; what is empty chooses all", Selection()),
    dry_run: bool = form_field("Dry run", "Only show what would be carried on; nothing is done", default=True),
    notify: bool = form_field("Send messages", "Customers get the messages they have not got yet", default=False),
) -> State[Any]:
    """Choose → show → carry on, chunk by chunk → report."""
    planned = await choose(selection)
    await show_plan(planned, dry_run=dry_run, notify=notify)
    if dry_run:
        return Completed(name="Dry run", message=f"{len(planned)} would be carried on; nothing was done")
    await set_aside(planned, notify=notify)
    progress, done, persons = Progress(len(planned)), 0, 0
    results: list[dict[str, str]] = []
    for scenario, ids in by_scenario(planned):
        run, parameter = SCENARIOS[scenario]
        state: State[Any] = await run(**{parameter: ids}, return_state=True)
        done += len(ids)
        await progress.show(done)
        result = {"Scenario": scenario.replace("_", " "), "Count": str(len(ids)), "Result": str(state.name)}
        results.append({**result, "Said": state.message or ""})
        persons += state.name == "Needs a person" or not state.is_completed()
    await show_results(results)
    message = f"{done} carried on; in {persons} of {len(results)} chunks something needs a person"
    return Failed(name="Needs a person", message=message) if persons else Completed(name="Done", message=message)
