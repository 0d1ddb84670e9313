"""Pull payments: every source is polled for what its webhooks missed."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed

from tasks.ends import needs_person
from tasks.forms import form_field
from tasks.reconcile import pull_sources


@flow(name="pull payments", flow_run_name="pull payments")
async def pull_payments(
    sources: list[str] = form_field("Sources", "Names of connectors as in kvit.yaml; empty: every source", []),
) -> State[Any]:
    """Ask each source what is new, and store it; the dispatcher carries it on."""
    said, failed = await pull_sources(sources)
    message = "; ".join(said) or "no source can be polled"
    if failed:
        return needs_person(message)
    return Completed(name="Done", message=message)
