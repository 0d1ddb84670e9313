"""Ends: how a run says that somebody must look, by one name and in one colour."""

from __future__ import annotations

from typing import Any

from prefect import State
from prefect.states import Failed

NEEDS_PERSON = "Needs a person"


def needs_person(message: str, *, data: dict[str, Any] | None = None) -> State[Any]:
    """Return the state of a run that leaves something to a person: red in Prefect's UI, and not tried again for it."""
    return Failed(name=NEEDS_PERSON, message=message, data=data)
