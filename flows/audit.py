"""Audit: money, stock, documents, steps and journal must agree with each other."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed

from tasks.audit import check_invariants
from tasks.ends import needs_person


@flow(name="audit", flow_run_name="audit")
async def audit() -> State[Any]:
    """Check → show."""
    breaches, digest = await check_invariants()
    if breaches:
        return needs_person(f"{breaches} breaches, see the artifact `audit`")
    return Completed(name="Done", message=f"everything holds; digest of the journal {digest}")
