"""The processes of one machine: Prefect's server, the deployments, and — in this process — web and dispatcher."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from connectors.errors import Misconfigured
from deployments.prefect_server import log_kept, login_of
from deployments.tracing import tracing
from tasks.installation import Installation, open_installation, utc_now, working_on
from tasks.logged import log_as_json, wants_json

if TYPE_CHECKING:
    from deployments.dispatcher import Dispatcher

HOST = "127.0.0.1"
_SERVER_UP_S = 120.0
_STOP_S = 8.0

_log = logging.getLogger("kvit")

# Measured on Prefect 3.8: larger batches halve what its server costs; its log is pruned; nothing is reported outside.
_SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
}


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_port(port: int, option: str, variable: str, *, host: str = HOST) -> None:
    """Raise Misconfigured, naming what to set, when a port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            if getattr(error, "errno", None) != errno.EADDRINUSE:
                raise Misconfigured(f"nothing can listen on {host}, port {port}: {error}") from None
            raise Misconfigured(
                f"port {port} is in use; stop what uses it, or choose another with {option} or {variable}"
            ) from None


def prefect_environment(home: Path, port: int, login: str | None = None) -> dict[str, str]:
    """Return the environment of this installation's Prefect server, and of everything that talks to it.

    login is what the server asks for, such as user:password. It stands in the environment and nowhere else.
    """
    api = f"http://{HOST}:{port}/api"
    asked = {"PREFECT_SERVER_API_AUTH_STRING": login, "PREFECT_API_AUTH_STRING": login} if login else {}
    return {
        **_SERVER_SETTINGS,
        **log_kept({}),
        **asked,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port},http://localhost:{port}",
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
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


@asynccontextmanager
async def _kept(log: Path, *command: str) -> AsyncGenerator[Callable[[], bool]]:
    """Keep a process of ours running: started again when it ends by itself, ended with all it started afterwards.

    Gives a function that says whether the process that was started first is still running.
    """
    current = [await _start(log, *command)]
    first = current[0]

    async def restart() -> None:
        while True:
            await current[0].wait()
            _log.warning("%s has ended and is started again; its log is %s", command[0], log)
            await asyncio.sleep(1)
            current[0] = await _start(log, *command)

    restarting = asyncio.create_task(restart())
    try:
        yield lambda: first.returncode is None
    finally:
        restarting.cancel()
        await _end(current[0])


async def _answering(url: str, is_running: Callable[[], bool], log: Path) -> None:
    """Wait until Prefect's server answers; say where its log is when it doesn't."""
    async with httpx.AsyncClient(timeout=2) as client:
        try:
            async with asyncio.timeout(_SERVER_UP_S):
                while True:
                    if not is_running():
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
    asks_login: bool
    """Whether Prefect's UI and API ask for a login."""


@asynccontextmanager
async def _web(opened: Installation, dispatcher: Dispatcher, port: int) -> AsyncGenerator[str]:
    """Answer webhooks and orders in this process, so that the dispatcher is woken at once."""
    from web.app import create_app

    async with serving(create_app(opened, wake=dispatcher.wake, waiting=dispatcher.waiting), HOST, port) as url:
        yield url


@asynccontextmanager
async def serving(app: Any, host: str, port: int) -> AsyncGenerator[str]:
    """Serve an app in this process until the block ends; gives its address."""
    config = uvicorn.Config(app, host=host, port=port, lifespan="off", log_config=None, access_log=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # Not serve(): that would take over the process's signals, and the whole machine is stopped by one hand.
    await server.startup()
    ticking = asyncio.create_task(server.main_loop())
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
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


@contextmanager
def observed(opened: Installation) -> Generator[None]:
    """Write the log, and send traces, as the environment asks for; enter it once Prefect has been imported.

    Raises Misconfigured for what it asks for and can't have.
    """
    if wants_json(os.environ):
        log_as_json()
    with tracing(os.environ, worker=opened.worker):
        yield


@asynccontextmanager
async def machine(
    home: Path, *, prefect_port: int, web_port: int, serve: bool = True, clock: Callable[[], datetime] = utc_now
) -> AsyncGenerator[Running]:
    """Bring everything up, and end every process when the block ends.

    Prefect must not have been imported before: it reads its settings once. Raises Misconfigured when a port is taken,
    ui_login in kvit.yaml can't be used, or the server doesn't start.
    """
    if "prefect" in sys.modules:
        raise AssertionError("Prefect was imported before its settings were made, so it would talk to another server")
    logs, state_file = home / "logs", home / "run.json"
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(working_on(replace(await open_installation(home), clock=clock)))
        login = login_of(opened.settings)
        os.environ.update(prefect_environment(home, prefect_port, login) | log_kept(opened.settings))
        api = os.environ["PREFECT_API_URL"]
        await asyncio.to_thread(logs.mkdir, exist_ok=True)
        stack.callback(state_file.unlink, missing_ok=True)
        server_log = logs / "prefect-server.log"
        is_running = await stack.enter_async_context(_kept(server_log, "deployments.guarded_prefect"))
        await _answering(api, is_running, server_log)
        from deployments.dispatcher import Dispatcher

        stack.enter_context(observed(opened))
        dispatcher = Dispatcher(opened)
        web_url = await stack.enter_async_context(_web(opened, dispatcher, web_port))
        if serve:
            await stack.enter_async_context(_kept(logs / "deployments.log", "deployments.serve"))
        known: dict[str, Any] = {"prefect_api_url": api, "web_url": web_url, "pid": os.getpid()}
        await asyncio.to_thread(state_file.write_text, json.dumps(known), encoding="utf-8")
        await stack.enter_async_context(_dispatching(dispatcher))
        yield Running(opened, dispatcher, api.removesuffix("/api"), web_url, asks_login=login is not None)


@asynccontextmanager
async def _dispatching(dispatcher: Dispatcher) -> AsyncGenerator[None]:
    """Run the dispatcher; at the end it finishes what it has begun, and its last log lines are sent."""
    stop = asyncio.Event()
    working = asyncio.create_task(dispatcher.run(stop))
    try:
        yield
    finally:
        stop.set()
        dispatcher.wake()
        await working
        await _send_last_logs()
