"""Resolve: a person says what came of a step that is in doubt or was refused, and its order goes on."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from tasks.close import name_by_orders
from tasks.forms import form_field
from tasks.resolve import ResolveError, Said, resolve_named


@flow(name="resolve step", flow_run_name=name_by_orders)
async def resolve_step(
    order: str = form_field("Order", "Its number, such as CZ1042", ""),
    step: str = form_field("Step", "As the run's table names it, such as dispatch", ""),
    said: Said | None = form_field(
        "What is so", "It happened; it did not, so it is to be tried again; or it is left undone for good", None
    ),
    reference: str = form_field("Reference", "What the outside system calls it, such as a tracking number", ""),
    because: str = form_field("Because", "How you know; it stands in the order's history", ""),
    channel: str | None = form_field("Channel", "Needed when a number is used in several", None),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Record what a person knows → the order is carried on."""
    if said is None:
        return Failed(name="Refused", message="say whether it happened, is to be tried again, or is to be left")
    try:
        settled = await resolve_named(
            order, step, said, channel=channel, author=author, because=because, reference=reference
        )
    except ResolveError as error:
        return Failed(name="Refused", message=str(error))
    return Completed(name="Done", message=f"step {settled.step} of order {settled.number} is {settled.state}")
