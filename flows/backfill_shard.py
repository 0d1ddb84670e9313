"""Backfill shard: one of several runs that carry a backfill on together."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from flows.backfill import carry_on
from tasks.backfill import BackfillError, open_backfill
from tasks.forms import form_field
from tasks.installation import installation


@flow(name="backfill shard", flow_run_name="backfill shard")
async def backfill_shard(
    backfill: int = form_field("Backfill", "The number of the backfill that is being carried on", 0),
    runs: int = form_field(
        "Runs", "How many runs share it, this one included; each keeps its part of the rates", 1, ge=1
    ),
) -> State[Any]:
    """Take chunks that no other run has → carry on, until none is left."""
    opened = await installation()
    try:
        row = await open_backfill(opened, backfill)
    except BackfillError as error:
        return Failed(name="Refused", message=str(error))
    count = await carry_on(opened, row, runs=runs)
    return Completed(name="Done", message=f"backfill {backfill}: {count} chunks carried on here")
