"""The processes of one machine: Prefect's server, the deployments, and — in this process — web and dispatcher."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from web.app import create_app

from connectors.errors import Misconfigured
from tasks.installation import Installation, open_installation, working_on

if TYPE_CHECKING:
    from deployments.dispatcher import Dispatcher

HOST = "127.0.0.1"
_SERVER_UP_S = 120.0
_STOP_S = 10.0

# Measured on Prefect 3.8: larger batches halve what its server costs; its log is pruned; nothing is reported outside.
_SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "true",
}


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_port(port: int, option: str, variable: str) -> None:
    """Raise Misconfigured, naming what to set, when a port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise Misconfigured(
                f"port {port} is in use; stop what uses it, or choose another with {option} or {variable}"
            ) from None


def prefect_environment(home: Path, port: int) -> dict[str, str]:
    """Return the environment of everything that talks to this installation's Prefect server."""
    api = f"http://{HOST}:{port}/api"
    return {
        **_SERVER_SETTINGS,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_UI_API_URL": api,
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        # The log is in the UI; the terminal gets what somebody should look at.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        "KVIT_HOME": str(home),
        "KVIT_CODE": str(Path(__file__).parent.parent),
    }


async def _start(log: Path, *command: str) -> Process:
    """Start a process of ours in a session of its own, so that it and all that it starts can be ended together."""
    file = await asyncio.to_thread(log.open, "ab")
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    finally:
        file.close()


async def _end(process: Process) -> None:
    """End a process and all that it started, gently at first."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await process.wait()
                break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _answering(url: str, process: Process, log: Path) -> None:
    """Wait until Prefect's server answers; say where its log is when it doesn't."""
    async with httpx.AsyncClient(timeout=2) as client:
        try:
            async with asyncio.timeout(_SERVER_UP_S):
                while True:
                    if process.returncode is not None:
                        raise Misconfigured(f"Prefect's server did not start; its log is {log}")
                    with suppress(httpx.HTTPError):
                        if (await client.get(f"{url}/health")).is_success:
                            return
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise Misconfigured(
                f"Prefect's server did not answer within {_SERVER_UP_S:.0f} s; its log is {log}"
            ) from None


@dataclass(frozen=True, slots=True)
class Running:
    """A machine that is up."""

    opened: Installation
    dispatcher: Dispatcher
    prefect_url: str
    web_url: str


@asynccontextmanager
async def _web(opened: Installation, dispatcher: Dispatcher, port: int) -> AsyncGenerator[str]:
    """Answer webhooks and orders in this process, so that the dispatcher is woken at once."""
    app = create_app(opened, wake=dispatcher.wake, waiting=dispatcher.waiting)
    config = uvicorn.Config(app, host=HOST, port=port, lifespan="off", log_config=None, access_log=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # Not serve(): that would take over the process's signals, and the whole machine is stopped by one hand.
    await server.startup()
    ticking = asyncio.create_task(server.main_loop())
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.should_exit = True
        await ticking
        await server.shutdown()


async def _send_last_logs() -> None:
    """Let Prefect's client send what it has logged while the server is still there."""
    from prefect.logging.handlers import APILogHandler

    with suppress(TimeoutError):
        async with asyncio.timeout(_STOP_S):
            await APILogHandler.aflush()


@asynccontextmanager
async def machine(home: Path, *, prefect_port: int, web_port: int, serve: bool = True) -> AsyncGenerator[Running]:
    """Bring everything up, and end every process when the block ends.

    Prefect must not have been imported before: it reads its settings once. Raises Misconfigured when a port is taken
    or the server doesn't start.
    """
    os.environ.update(prefect_environment(home, prefect_port))
    logs = home / "logs"
    await asyncio.to_thread(logs.mkdir, parents=True, exist_ok=True)
    processes: list[Process] = []
    state_file = home / "run.json"
    opened = await open_installation(home)
    try:
        server_log = logs / "prefect-server.log"
        server = await _start(server_log, "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port))
        processes.append(server)
        api = os.environ["PREFECT_API_URL"]
        await _answering(api, server, server_log)
        from deployments.dispatcher import Dispatcher

        async with working_on(opened):
            dispatcher = Dispatcher(opened)
            stop = asyncio.Event()
            async with _web(opened, dispatcher, web_port) as web_url:
                if serve:
                    processes.append(await _start(logs / "deployments.log", "deployments.serve"))
                known: dict[str, Any] = {"prefect_api_url": api, "web_url": web_url, "pid": os.getpid()}
                await asyncio.to_thread(state_file.write_text, json.dumps(known), encoding="utf-8")
                working = asyncio.create_task(dispatcher.run(stop))
                try:
                    yield Running(opened, dispatcher, api.removesuffix("/api"), web_url)
                finally:
                    stop.set()
                    dispatcher.wake()
                    await working
                    await _send_last_logs()
    finally:
        state_file.unlink(missing_ok=True)
        await asyncio.gather(*(_end(process) for process in processes))
