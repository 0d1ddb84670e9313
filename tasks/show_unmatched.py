"""Shows the operator's queue in a run; apart from what makes it, which the command line needs without Prefect."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.cells import cells
from tasks.installation import installation
from tasks.step import run_log
from tasks.unmatched import counts_said, cut_said, queue_rows, table_of


@task(name="show unmatched", cache_policy=NO_CACHE)
async def show_unmatched() -> str:
    """Show what waits for a person as a table; return how much that is, in words, or nothing."""
    opened = await installation()
    async with opened.store.read() as connection:
        rows = await queue_rows(connection, opened.clock())
    await acreate_table_artifact(
        key="unmatched-payments",
        table=cells(table_of(rows)),
        description=f"What waits for a person, the first to look at in front. {cut_said(rows)}".strip(),
    )
    said = counts_said(rows)
    run_log().info("unmatched payments · %s", said or "nothing waits for a person")
    return said
