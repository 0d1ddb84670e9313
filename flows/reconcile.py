"""Reconcile: what every source has, compared with what we have; what stays open is shown with its reason."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from tasks.reconcile import match_again, pull_sources, report_payments


@flow(name="reconcile", flow_run_name="reconcile")
async def reconcile() -> State[Any]:
    """Pull → match again → report."""
    said, failed = await pull_sources([])
    again = await match_again()
    persons = await report_payments()
    message = f"{again} unmatched payments tried again; {persons} need a person"
    if failed:
        return Failed(name="Needs a person", message="; ".join([*said, message]))
    return Completed(name="Needs a person" if persons else "Done", message=message)
