"""WayForPay and Planfix for the bench's chain, in a process of their own, with a note of every request.

    python tests/bench/outside_chain.py

They are the stand-ins of deployments/sandbox, as strict as in the tests. What no outside system is asked goes to
/bench/…, whose address is the first line that is printed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from deployments.chain_wayforpay_planfix import IN_PRODUCTION, settings
from deployments.sandbox.planfix import DIFFERENCE, PAID, PlanfixStandIn
from deployments.sandbox.standin import StandIn
from deployments.sandbox.wayforpay import WayForPayStandIn

AMOUNT = "8400"
WAYFORPAY, PLANFIX = "wayforpay", "planfix"

Json = dict[str, Any]


def number_of(place: int) -> str:
    """Return the number of an order, which is also its payment's reference."""
    return f"PF{place:06}"


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came to an outside system; times are those of the machine's clock."""

    system: str
    method: str
    target: str
    headers: dict[str, str]
    body: str
    began: float
    answered: float

    def about(self, number: str, task: int) -> bool:
        """Say whether it is a call of an order: not a poll, and not about another order's task."""
        path = self.target.partition("?")[0]
        if self.system == WAYFORPAY:
            return number in self.body
        # An entry is looked for by the payment's own reference, and nothing but a payment looks for one.
        return number in self.body or f"{path}/".startswith(f"/rest/task/{task}/") or path.endswith("/entry/list")


class _Noted:
    """A stand-in's app that notes each request, from its arrival until its answer goes out."""

    def __init__(self, app: ASGIApp, system: str, calls: list[Call]) -> None:
        self._app, self._system, self._calls = app, system, calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, body = time.time(), b""

        async def read() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = {name.decode(): value.decode() for name, value in scope["headers"]}
                headers = {name: sent[name] for name in ("authorization", "content-type") if name in sent}
                query = scope["query_string"].decode()
                target = f"{scope['path']}?{query}" if query else scope["path"]
                now = time.time()
                self._calls.append(Call(self._system, scope["method"], target, headers, body.decode(), began, now))
            await send(message)

        await self._app(scope, read, noted)


class _Gateway(WayForPayStandIn):
    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self._app = _Noted(self._app, WAYFORPAY, calls)


class _Account(PlanfixStandIn):
    """An account that also knows when a task came into production."""

    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self._app = _Noted(self._app, PLANFIX, calls)
        self.in_production: dict[int, float] = {}

    def _apply(self, task: Json, changes: Json) -> None:
        super()._apply(task, changes)
        if task["status"] == IN_PRODUCTION:
            self.in_production.setdefault(task["id"], time.time())


class ChainOutside:
    """What the bench asks of both systems; tasks are the numbers of the orders' tasks."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.gateway, self.account = _Gateway(self.calls), _Account(self.calls)
        self.tasks: dict[int, int] = {}

    def settings(self, *, as_shipped: bool) -> Json:
        """Return kvit.yaml, with Planfix's limit as it is shipped or with none."""
        made = settings(self.gateway, self.account, None)
        (planfix,) = (one for one in made["connectors"] if one["name"] == PLANFIX)
        del planfix["limits"]
        if not as_shipped:
            planfix["limits"] = {"per_second": None}
        return made

    def make_tasks(self, first: int, count: int) -> Json:
        """Make the tasks of orders, as a person does."""
        for place in range(first, first + count):
            self.tasks[place] = self.account.make(number_of(place), status=1)["id"]
        return {}

    def pay(self, place: int) -> Json:
        """Let a customer pay; return the body of the callback, which is signed."""
        self.calls.clear()
        return {"body": self.gateway.body(self.gateway.pay(number_of(place), AMOUNT)).decode()}

    def asked(self, place: int) -> Json:
        """Return what was asked about an order since it was paid, and how its task stands."""
        number, id_ = number_of(place), self.tasks[place]
        task = self.account.tasks[id_]
        calls = sorted((one for one in self.calls if one.about(number, id_)), key=lambda one: one.began)
        return {
            "calls": [asdict(one) for one in calls],
            "in_production": self.account.in_production.get(id_),
            "status": task["status"],
            "paid": str(task["values"].get(PAID, -1)),
            "difference": str(task["values"].get(DIFFERENCE, -1)),
            "comments": sum(one["task"] == id_ for one in self.account.comments.values()),
            "incomes": sum(one["task"] == id_ for one in self.account.entries.values()),
        }


def _routes(outside: ChainOutside) -> Sequence[Route]:
    async def control(request: Request) -> JSONResponse:
        asked = {name: int(value) for name, value in request.query_params.items()}
        match request.path_params["what"]:
            case "settings":
                return JSONResponse(outside.settings(as_shipped=bool(asked["as_shipped"])))
            case "tasks":
                return JSONResponse(outside.make_tasks(asked["first"], asked["count"]))
            case "pay":
                return JSONResponse(outside.pay(asked["place"]))
            case "asked":
                return JSONResponse(outside.asked(asked["place"]))
            case _:
                return JSONResponse({}, status_code=404)

    return [Route("/bench/{what}", control, methods=["POST"])]


@asynccontextmanager
async def serving(outside: ChainOutside) -> AsyncGenerator[str]:
    """Serve both systems; give the address at which the bench asks."""
    async with outside.gateway, outside.account, StandIn(Starlette(routes=_routes(outside))) as control:
        yield control.url


async def _serve() -> None:
    async with serving(ChainOutside()) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
