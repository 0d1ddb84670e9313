"""`kvit up`: everything on this machine, in the foreground."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from connectors.errors import Misconfigured
from deployments.demo import play, print_report, report_of, stopped_by_signals
from deployments.processes import Running, check_port, machine
from deployments.sample_shop import prepare
from deployments.sandbox.stripe import StripeStandIn

PREFECT_PORT = 4200
WEB_PORT = 8080

_log = Console(stderr=True)


async def up(home: Path, *, sample: bool = False, prefect_port: int | None = None, port: int | None = None) -> int:
    """Bring everything up on this machine and stay until Ctrl-C; sample fills an empty installation with the shop.

    Raises Misconfigured when a port is in use or something doesn't start.
    """
    prefect_port, port = prefect_port or PREFECT_PORT, port or WEB_PORT
    check_port(prefect_port, "--prefect-port", "KVIT_PREFECT_PORT")
    check_port(port, "--port", "KVIT_PORT")
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(stopped_by_signals(stop))
        stripe: StripeStandIn | None = None
        if sample:
            if (home / "kvit.yaml").exists() and not (home / "sample").exists():
                raise Misconfigured(f"{home} is an installation of its own; set KVIT_HOME to an empty folder")
            stripe = await stack.enter_async_context(StripeStandIn())
            prepare(home, stripe)
            (home / "sample").touch()
        with _log.status("Prefect's server starts …"):
            running = await stack.enter_async_context(machine(home, prefect_port=prefect_port, web_port=port))
        from deployments.watched import watch

        watching = asyncio.create_task(watch(running.opened, running.dispatcher.wake))
        stack.callback(watching.cancel)
        if stripe is not None:
            await _show_sample(running, stripe, home, stop)
        tell_where(running, home)
        await stop.wait()
        _log.print("stopping …")
    return 0


async def _show_sample(running: Running, stripe: StripeStandIn, home: Path, stop: asyncio.Event) -> None:
    played = home / "sample"
    if played.read_text(encoding="utf-8"):
        _log.print("The sample files were worked off when this installation was first started.")
        return
    playing = asyncio.ensure_future(play(running, stripe))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not playing.done():
        playing.cancel()
        return
    print_report(await report_of(running.opened, playing.result()))
    played.write_text("worked off\n", encoding="utf-8")


def tell_where(running: Running, home: Path) -> None:
    """Print where everything is, and whether the UI is open to whoever uses this machine."""
    console = Console()
    console.print(f"Task log (Prefect UI):   {running.prefect_url}/runs")
    console.print(f"Start things by hand:    {running.prefect_url}/deployments")
    console.print(f"Webhooks and orders:     {running.web_url}")
    console.print(f"Statement files go into: {home / 'inbox'}")
    console.print(f"One order in detail:     kvit orders show NUMBER   (KVIT_HOME={home})")
    if not running.asks_login:
        console.print("The UI asks no login:    whoever uses this machine may use it; ui_login in kvit.yaml sets one")
    console.print("Ctrl-C ends everything.")
