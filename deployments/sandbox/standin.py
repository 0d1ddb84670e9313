"""What every stand-in shares: a real server on 127.0.0.1 that records its requests and misbehaves when told to."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, cast

import uvicorn
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_BODY_BYTES = 4 * 1024 * 1024
_END_S = 5.0
"""How long requests under way are waited for when a stand-in ends; none has anybody left to answer."""


class Misbehavior(StrEnum):
    """What can go wrong with a request. BEFORE means before the request was carried out, AFTER that it was."""

    HANG_BEFORE = "hang_before"
    HANG_AFTER = "hang_after"
    STATUS_BEFORE = "status_before"
    STATUS_AFTER = "status_after"
    CUT_BEFORE = "cut_before"
    CUT_AFTER = "cut_after"
    CUT_MIDWAY = "cut_midway"
    """Carried out, and the line is lost in the middle of the answer."""
    GARBAGE = "garbage"
    """Carried out, and answered 200 with a page that is in no format of the system's."""
    FAILURE = "failure"
    """Not carried out, and answered 200 with the failure in the body."""
    TWICE = "twice"
    """Carried out, and the answer comes twice."""
    EARLIER = "earlier"
    """Carried out, and answered with what an earlier request was answered: let that one pass, by skip."""
    LATE = "late"
    """Carried out, and answered as it should be, but not before it is allowed to."""


_ACTS = frozenset(
    {
        Misbehavior.HANG_AFTER,
        Misbehavior.STATUS_AFTER,
        Misbehavior.CUT_AFTER,
        Misbehavior.CUT_MIDWAY,
        Misbehavior.GARBAGE,
        Misbehavior.TWICE,
        Misbehavior.EARLIER,
        Misbehavior.LATE,
    }
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that arrived; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class Plan:
    """What goes wrong with requests. acted is called once one was carried out, before it is answered.

    status and retry_after are for the STATUS kinds; allowed is what LATE waits for.
    """

    kind: Misbehavior
    path: str = "/"
    skip: int = 0
    left: int | None = 1
    status: int = 500
    retry_after: str | None = None
    acted: Callable[[], None] | None = None
    allowed: asyncio.Event | None = None


class StandIn:
    """A server that plays an outside system: `async with StandIn(app) as system: … system.url`.

    It lives in the event loop that runs it. `requests` holds what arrived, `in_flight_max` the most requests that were
    under way at once.
    """

    def __init__(self, app: ASGIApp, *, port: int = 0) -> None:
        """Make a stand-in that answers with an ASGI app; port 0 takes any free one."""
        self.requests: deque[Seen] = deque(maxlen=100_000)
        self.in_flight_max = 0
        self._in_flight = 0
        self._app = app
        self._port = port
        self._plans: list[Plan] = []
        self._earlier: list[Message] = []
        self._server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        """The address, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        # With the protocol named, asyncio switches Nagle's delay off; without it each answer waits some 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        # Without log settings of its own, so that the process's logging stays as it is.
        config = uvicorn.Config(
            self._receive,
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        # Not serve(): that would take over the process's signals and its shutdown takes longer.
        await self._server.startup(sockets=[listener])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not shutdown(): that waits a tenth of a second for connections to close by themselves.
        if self._server is not None:
            state = self._server.server_state
            for listening in self._server.servers:
                listening.close()
            await asyncio.sleep(0)  # a connection that has just been accepted is known then
            for connection in list(state.connections):
                connection.transport.abort()  # also ends the requests that hang
            await asyncio.sleep(0)
            if state.tasks:
                _, stuck = await asyncio.wait(list(state.tasks), timeout=_END_S)
                for task in stuck:
                    task.cancel()

    def misbehave(
        self,
        kind: Misbehavior,
        *,
        path: str = "/",
        skip: int = 0,
        times: int | None = 1,
        status: int = 500,
        retry_after: float | str | None = None,
    ) -> None:
        """Let the next requests go wrong whose path begins with path, after letting as many of them pass as skip says.

        times None means until behave() is called. status and retry_after are those of the answer where the kind is one
        of the STATUS kinds. Plans are used up in the order in which they were made.
        """
        wait = None if retry_after is None else str(retry_after)
        self._plans.append(Plan(kind=kind, path=path, skip=skip, left=times, status=status, retry_after=wait))

    def go_down(self) -> None:
        """Answer 503 to everything, without acting, until behave() is called."""
        self.misbehave(Misbehavior.STATUS_BEFORE, times=None, status=503)

    def behave(self) -> None:
        """Forget every misbehavior that is still to come."""
        self._plans.clear()

    def error(self, status: int) -> Response:
        """Return an answer with an error status, shaped as the system shapes its errors."""
        return JSONResponse({"error": status}, status_code=status)

    def failure(self) -> Response:
        """Return an answer with status 200 that tells of a failure, shaped as the system shapes it."""
        return JSONResponse({"error": "failed"})

    def next_plan(self, seen: Seen) -> Plan | None:
        """Return what goes wrong with a request that has arrived, or None when nothing does."""
        plan = next((plan for plan in self._plans if seen.path.startswith(plan.path)), None)
        if plan is not None and plan.skip > 0:
            plan.skip -= 1
            return None
        if plan is not None and plan.left is not None:
            plan.left -= 1
            if plan.left <= 0:
                self._plans.remove(plan)
        return plan

    async def _receive(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        seen = Seen(scope["method"], scope["path"], query, headers, body)
        self.requests.append(seen)
        self._in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self._in_flight)
        try:
            if len(body) > _MAX_BODY_BYTES:
                await self.error(413)(scope, receive, send)
                return
            answer = _Answer(self._app, scope, receive, body)
            remembered = any(p.kind is Misbehavior.EARLIER and seen.path.startswith(p.path) for p in self._plans)
            plan = self.next_plan(seen)
            if plan is None and remembered:
                self._earlier = await answer.kept()
                await _sent(self._earlier, send)
            elif plan is None:
                await answer.to(send)
            else:
                await self._misbehave(plan, answer, send)
        finally:
            self._in_flight -= 1

    async def _misbehave(self, plan: Plan, answer: _Answer, send: Send) -> None:
        sent: list[Message] = []
        if plan.kind in _ACTS:
            sent = await answer.kept()
            if plan.acted is not None:
                plan.acted()
        match plan.kind:
            case Misbehavior.HANG_BEFORE | Misbehavior.HANG_AFTER:
                await _until_gone(answer.receive)
            case Misbehavior.STATUS_BEFORE | Misbehavior.STATUS_AFTER:
                response = self.error(plan.status)
                if plan.retry_after is not None:
                    response.headers["Retry-After"] = plan.retry_after
                await response(answer.scope, answer.receive, send)
            case Misbehavior.CUT_BEFORE | Misbehavior.CUT_AFTER:
                await _cut(answer.receive, send)
            case Misbehavior.CUT_MIDWAY:
                body = b"".join(message.get("body", b"") for message in sent)
                length = str(len(body) + 1).encode()
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
                await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
                await _cut(answer.receive, send)
            case Misbehavior.GARBAGE:
                await PlainTextResponse("<html>Down for maintenance")(answer.scope, answer.receive, send)
            case Misbehavior.FAILURE:
                await self.failure()(answer.scope, answer.receive, send)
            case Misbehavior.EARLIER:
                await _sent(self._earlier, send)
            case Misbehavior.TWICE:
                await _sent(sent, send)
                _transport(send).write(_on_the_wire(sent))
            case Misbehavior.LATE:
                if plan.allowed is not None:
                    await plan.allowed.wait()
                await _sent(sent, send)


class _Answer:
    """What the app answers to a request whose body was read already."""

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, body: bytes) -> None:
        self.scope, self.receive = scope, receive
        self._app, self._body = app, body

    async def to(self, send: Send) -> None:
        body: list[Message] = [{"type": "http.request", "body": self._body, "more_body": False}]

        async def replayed() -> Message:
            return body.pop() if body else await self.receive()

        await self._app(self.scope, replayed, send)

    async def kept(self) -> list[Message]:
        """Let the app act, and keep its answer back."""
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await self.to(keep)
        return sent


async def _sent(answer: Sequence[Message], send: Send) -> None:
    for message in answer:
        await send(message)


async def _body(receive: Receive) -> bytes:
    """Read a request's body; what is beyond the bound is read and thrown away, all but one byte."""
    body = b""
    while True:
        message = await receive()
        body = (body + message.get("body", b""))[: _MAX_BODY_BYTES + 1]
        if not message.get("more_body", False):
            return body


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cut(receive: Receive, send: Send) -> None:
    """Cut the line."""
    _transport(send).abort()
    await _until_gone(receive)


def _transport(send: Send) -> asyncio.Transport:
    """Return the line itself. ASGI has no word for it, so this reaches for the transport of uvicorn's request."""
    return cast("Any", send).__self__.transport


def _on_the_wire(sent: Sequence[Message]) -> bytes:
    """Return an answer in the bytes in which it goes over the line."""
    headers = b"".join(b"%s: %s\r\n" % (name, value) for name, value in sent[0]["headers"])
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return b"HTTP/1.1 %d OK\r\n%s\r\n%s" % (sent[0]["status"], headers, body)
