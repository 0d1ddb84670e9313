"""`kvit web`: webhooks and orders are taken in, apart from the dispatchers that carry them on."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deployments.command import DONE, Wrong, opened_home
from deployments.prefect_server import login_of, point_at_prefect

if TYPE_CHECKING:
    from tasks.installation import Installation

LOOPBACK = "127.0.0.1"
Host = Annotated[
    str,
    Parameter(env_var="KVIT_HOST", help="Address of this machine to listen on; 0.0.0.0 is all of them."),
]
MetricsPort = Annotated[
    int | None, Parameter(env_var="KVIT_METRICS_PORT", help="Port of a page with metrics; none by default.")
]


_CLOCK_OFF_S = 5.0


async def check_clock(opened: Installation) -> None:
    """Raise Wrong when this machine's clock is not the database's: others would take over what it still holds."""
    from store import gauges

    async with opened.store.read() as connection:
        ahead = await gauges.ahead_s(connection, opened.clock())
    if abs(ahead) > _CLOCK_OFF_S:
        off = "ahead of" if ahead > 0 else "behind"
        raise Wrong(
            f"the clock of this machine is {abs(ahead):.0f} s {off} the database's; several machines hold what they "
            "work on by their clocks, so set it by NTP first"
        )


@asynccontextmanager
async def metrics_page(opened: Installation, host: str, port: int | None) -> AsyncGenerator[None]:
    """Serve the metrics of a process that has no other page, if a port is given.

    Raises Misconfigured if it is taken.
    """
    if port is None:
        yield
        return
    from deployments.processes import check_port, serving
    from web.metrics import metrics_app

    check_port(port, "--metrics-port", "KVIT_METRICS_PORT", host=host)
    async with serving(metrics_app(opened), host, port):
        yield


async def web(
    *,
    host: Host = LOOPBACK,
    port: Annotated[int, Parameter(env_var="KVIT_PORT", help="Port of webhooks, orders, health and metrics.")] = 8080,
) -> int:
    """Take webhooks and orders in, until Ctrl-C or SIGTERM; dispatchers carry on what comes. Several may run.

    KVIT_DATABASE_URL=postgresql://kvit@db/kvit kvit web --host 0.0.0.0
    """
    async with opened_home() as opened:
        # Nothing runs here, but what stores a webhook shares its code with what does.
        point_at_prefect(opened.home, login=login_of(opened.settings))
        from deployments.processes import check_port, observed, serving
        from store import inbox, work
        from store.bell import Bell
        from web.app import create_app

        check_port(port, "--port", "KVIT_PORT", host=host)
        bell = Bell(opened.store)

        async def waiting() -> int:
            now = opened.clock()
            async with opened.store.read() as connection:
                return await work.count_due(connection, now) + await inbox.count_due(connection, now)

        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, stop.set)
        with observed(opened):
            async with serving(create_app(opened, wake=bell.ring, waiting=waiting), host, port) as url:
                sys.stderr.write(f"kvit: webhooks and orders are taken at {url}; Ctrl-C stops it\n")
                ringing = asyncio.create_task(bell.run())
                await stop.wait()
                ringing.cancel()
    return DONE
