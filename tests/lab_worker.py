"""A process of the faults laboratory: a dispatcher or the web, as the product runs it, that dies when it is told to.

    python tests/lab_worker.py CONFIG.json

Its clock is the real one plus what the laboratory has moved it by. The laboratory's plan says at which boundary of a
step the process kills itself, and which guard of the product is switched off, if any; the product knows of neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

CONFIG: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text()) if __name__ == "__main__" else {}

import tasks.step  # noqa: E402 - a step takes its retries over when it is made

tasks.step.RETRIES_IN_RUN_S = (0.02, 0.05, 0.1)

import uvicorn  # noqa: E402
from guards import switch_off  # noqa: E402
from sqlalchemy import event, text  # noqa: E402

import tasks.intake  # noqa: E402
import tasks.outage  # noqa: E402
from connectors.errors import Transient, raise_for_status  # noqa: E402
from connectors.http import Client, Limits  # noqa: E402
from connectors.roles import Consignment, IssuedDocument, OutgoingMessage, Shipment  # noqa: E402
from deployments.dispatcher import Dispatcher  # noqa: E402
from domain.documents import Document  # noqa: E402
from flows.scenarios import SCENARIOS  # noqa: E402
from store import effects  # noqa: E402
from tasks.installation import Installation, open_installation, working_on  # noqa: E402
from tasks.step import Step  # noqa: E402
from web.app import create_app  # noqa: E402

_seen: Counter[str] = Counter()


def _boundary(point: str) -> None:
    """Die here, as by `kill -9`, if the plan says so."""
    _seen[point] += 1
    plan = CONFIG.get("kill")
    if plan and plan["point"] == point and _seen[point] >= plan["nth"]:
        os.kill(os.getpid(), signal.SIGKILL)


class Office:
    """Speaks to the laboratory's outside world: accounting, carrier and messenger in one."""

    can_look_up = True

    def __init__(self, url: str) -> None:
        self._client = Client("office", url, Limits(concurrent=64, timeout=CONFIG["timeout"]))

    async def _act(self, service: str, order: str, key: str) -> str:
        answer = await self._client.request(
            "POST", f"/{service}", json={"order": order}, headers={"Idempotency-Key": key}
        )
        raise_for_status("office", answer)
        try:
            told = answer.json()
        except ValueError:
            raise Transient("office: what came is no JSON", in_doubt=True) from None
        if "reference" not in told:
            raise Transient("office: it says that it failed, without having done anything")
        return told["reference"]

    async def _find(self, service: str, key: str) -> str | None:
        answer = await self._client.request("GET", f"/{service}/{key}")
        if answer.status_code == 404:
            return None
        raise_for_status("office", answer)
        try:
            return answer.json()["reference"]
        except (ValueError, KeyError):
            raise Transient("office: what came can't be read") from None

    async def issue(self, document: Document, key: str) -> IssuedDocument | Any:
        """Issue a document."""
        return IssuedDocument(number=await self._act("invoice", document.order_number, key))

    async def create(self, consignment: Consignment, key: str) -> Shipment:
        """Order a consignment."""
        return Shipment(tracking_number=await self._act("label", consignment.order_number, key))

    async def cancel(self, tracking_number: str, key: str) -> None:
        """Cancel a consignment."""
        await self._act("cancel", tracking_number, key)

    async def send(self, message: OutgoingMessage) -> str:
        """Send a message."""
        return await self._act("message", message.message_id, message.message_id)

    async def find(self, subject: Document | Consignment | str, key: str | None = None) -> Any:
        """Look for what was asked for with a key."""
        if isinstance(subject, str):
            return await self._find("message", subject)
        assert key is not None
        if isinstance(subject, Consignment):
            found = await self._find("label", key)
            return Shipment(tracking_number=found) if found else None
        found = await self._find("invoice", key)
        return IssuedDocument(number=found) if found else None

    async def check(self) -> str:
        """Say that it is there."""
        return "office"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _wrap() -> None:
    """Put the boundaries of a step around the product's own functions."""
    claim, end = effects.claim, effects.end
    step: Any = Step
    attempt, record, store_webhook = step._attempt, step._record, tasks.intake.take_webhook

    async def claiming(*given: Any, **named: Any) -> Any:
        _boundary("before claim")
        return await claim(*given, **named)

    async def attempting(self: Any, *given: Any, **named: Any) -> Any:
        _boundary("after claim")
        await attempt(self, *given, **named)
        _boundary("after answer")

    async def ending(*given: Any, **named: Any) -> Any:
        done = await end(*given, **named)
        _boundary("inside record")
        return done

    async def recording(self: Any, *given: Any, **named: Any) -> Any:
        done = await record(self, *given, **named)
        _boundary("after record")
        return done

    async def storing(*given: Any, **named: Any) -> Any:
        done = await store_webhook(*given, **named)
        _boundary("webhook stored")
        return done

    cast("Any", effects).claim = claiming
    cast("Any", effects).end = ending
    step._attempt, step._record = attempting, recording
    import web.app

    cast("Any", web.app).take_webhook = storing


def _sign_requests() -> None:
    """Say in every request to a system which process it comes from, so that a system can have its sender killed."""
    client: Any = Client
    make = client.__init__

    def making(self: Any, system: str, base_url: str, limits: Limits, **options: Any) -> None:
        options["headers"] = {**options.get("headers", {}), "X-Worker": str(os.getpid())}
        make(self, system, base_url, limits, **options)

    client.__init__ = making


def _never_look() -> None:
    """Let connectors find nothing of what they did before."""
    from connectors.bitrix24 import Bitrix24
    from connectors.cdek import Cdek
    from connectors.onec_odata import OneCOData
    from connectors.planfix import Planfix
    from connectors.woocommerce import WooCommerce

    async def nothing(*_: Any) -> None:
        """Find nothing."""

    portal: Any = Bitrix24
    look = portal._noted

    async def card_alone(self: Any, *given: Any) -> tuple[Any, None]:
        return (await look(self, *given))[0], None

    portal._noted = card_alone
    cast("Any", Cdek)._known = cast("Any", Planfix)._noted = cast("Any", WooCommerce)._note = nothing
    cast("Any", OneCOData)._found = nothing


def _clock(file: Path) -> Any:
    def now() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=float(file.read_text() or 0))

    return now


def _fill_disk(opened: Installation, flag: Path) -> None:
    """Let SQLite say that the disk is full, while the flag is up."""
    if not opened.store.is_sqlite:
        return
    engine: Any = cast("Any", opened.store)._engine

    def limit(connection: Any) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {1 if flag.exists() else 1_000_000_000}")

    event.listen(engine.sync_engine, "begin", limit)


async def _web(opened: Installation, stop: asyncio.Event) -> None:
    async def waiting() -> int:
        return 0

    app = create_app(opened, wake=lambda: None, waiting=waiting)
    config = uvicorn.Config(app, host="127.0.0.1", port=CONFIG["port"], log_level="error")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await stop.wait()
    server.should_exit = True
    await serving


async def _again(opened: Installation) -> None:
    """Start the scenario's flow over every payment at once, beside whoever else does."""
    async with opened.store.read() as connection:
        ids = list((await connection.execute(text("SELECT id FROM payments ORDER BY id"))).scalars().all())
    flow: Any = SCENARIOS["card"][0]
    await asyncio.gather(*(flow(payments=ids, return_state=True) for _ in range(2)))


async def main() -> None:
    """Be what the laboratory's plan says, until it is told to stop or dies."""
    _wrap()
    if guard := CONFIG.get("without"):
        switch_off(guard, setattr, between=lambda: _boundary("between"))
    if CONFIG.get("without") == "connectors-look":
        _never_look()
    _sign_requests()
    if not CONFIG.get("outages"):
        cast("Any", tasks.outage).ENOUGH = 1_000_000
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    home = Path(CONFIG["home"])
    opened = await open_installation(home, database_url=CONFIG["url"])
    opened = replace(opened, worker=CONFIG["name"], clock=_clock(Path(CONFIG["clock"])))
    opened.connectors["office"] = Office(CONFIG["office"])
    _fill_disk(opened, home / "disk-full")
    async with working_on(opened):
        if CONFIG["role"] == "web":
            await _web(opened, stop)
        elif CONFIG["role"] == "again":
            with contextlib.suppress(Exception):
                await _again(opened)
        else:
            await Dispatcher(opened, concurrent=CONFIG["concurrent"]).run(stop)


if __name__ == "__main__":
    asyncio.run(main())
