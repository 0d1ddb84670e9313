"""Resolve message: what an outside system told and nobody could make sense of is asked about again, or done with."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from tasks.forms import form_field
from tasks.resolve_message import MessageError, settle_numbered


@flow(name="resolve message", flow_run_name="resolve message · {message}")
async def resolve_message(
    message: int = form_field("Message", "Its number, as the table of what waits for a person shows it", 0),
    again: bool = form_field("Again", "Ask the outside system again; otherwise it is done with", default=False),
    because: str = form_field("Because", "Why; it stands in the journal", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Write down → it is due again, or done with."""
    try:
        said = await settle_numbered(message, again=again, author=author, because=because)
    except MessageError as error:
        return Failed(name="Refused", message=str(error))
    return Completed(name="Done", message=said)
