"""Unmatched payments: what waits for a person, ranked, with the reason, the evidence and what can be done."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed

from tasks.ends import needs_person
from tasks.show_unmatched import show_unmatched


@flow(name="unmatched payments", flow_run_name="unmatched payments")
async def unmatched_payments() -> State[Any]:
    """Look → rank → show."""
    waits = await show_unmatched()
    if waits:
        return needs_person(waits)
    return Completed(name="Done", message="nothing waits for a person")
