"""Serving: the deployments of prefect.yaml on this machine, each run in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import yaml
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner

ROOT = Path(__file__).parent.parent


def _schedule(stanza: dict[str, Any]) -> CronSchedule | IntervalSchedule:
    if "cron" in stanza:
        return CronSchedule(cron=stanza["cron"], timezone=stanza.get("timezone", "UTC"))
    return IntervalSchedule(interval=timedelta(seconds=stanza["interval"]))


def deployments(file: Path = ROOT / "prefect.yaml") -> list[RunnerDeployment]:
    """Return the deployments that prefect.yaml declares, ready to be served here."""
    document = cast("dict[str, Any]", yaml.safe_load(file.read_text(encoding="utf-8")))
    found: list[RunnerDeployment] = []
    for stanza in cast("list[dict[str, Any]]", document["deployments"]):
        path, _, name = str(stanza["entrypoint"]).partition(":")
        found.append(
            RunnerDeployment.from_entrypoint(
                entrypoint=f"{ROOT / path}:{name}",
                name=stanza["name"],
                description=str(stanza["description"]).strip(),
                tags=stanza.get("tags", []),
                schedules=[_schedule(schedule) for schedule in stanza.get("schedules", [])],
            )
        )
    return found


async def serve() -> None:
    """Serve every deployment until the process is told to stop."""
    runner = Runner(name="kvit", limit=4)
    for deployment in deployments():
        await runner.aadd_deployment(deployment)
    running = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # start() takes SIGTERM over at once, with a handler that never ends it
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(serve())
