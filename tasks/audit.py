"""Audit: what must always hold, checked by query and shown."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from store import journal
from store.audit import audit
from tasks.cells import TABLE_ROWS, cells
from tasks.installation import installation
from tasks.step import run_log


@task(name="audit", cache_policy=NO_CACHE)
async def check_invariants() -> tuple[int, str]:
    """Check what must always hold and show what does not; return how much that is, and the digest of the journal."""
    opened = await installation()
    async with opened.store.read() as connection:
        findings = await audit(connection, now=opened.clock())
        digest = await journal.digest(connection)
    await acreate_table_artifact(
        key="audit",
        table=cells(
            {"Invariant": one.invariant, "Where": one.subject, "What": one.said} for one in findings[:TABLE_ROWS]
        ),
        description=f"{len(findings)} breaches. Digest of the journal: {digest}",
    )
    run_log().info("%s breaches; digest of the journal %s", len(findings), digest)
    return len(findings), digest
