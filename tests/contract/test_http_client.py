"""The HTTP client that every connector uses, over real sockets: each way to fail is one of the three errors."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from starlette.types import Receive, Scope, Send

from connectors.errors import Misconfigured, OutsideError, Rejected, Transient, raise_for_status
from connectors.http import CONNECTION_REST_S, MAX_ANSWER_BYTES, Client, Limits
from deployments.sandbox.standin import Misbehavior, StandIn

TOKEN = "tok-9f8e7d6c"
BOMB = gzip.compress(bytes(MAX_ANSWER_BYTES + 1))


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 200; /drip takes two seconds, /large and /bomb are too large, /packed is no gzip."""
    del receive
    path = scope["path"].rpartition("/")[2]
    headers = [(b"content-encoding", b"gzip")] if path in ("packed", "bomb") else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(100 if path == "drip" else 0):
        await send({"type": "http.response.body", "body": b".", "more_body": True})
        await asyncio.sleep(0.02)
    if path == "bomb":
        await send({"type": "http.response.body", "body": BOMB, "more_body": True})
    if path == "large":
        for _ in range(MAX_ANSWER_BYTES // 2**20 + 1):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
    await send({"type": "http.response.body", "body": b"done"})


@asynccontextmanager
async def client(url: str, **limits: float) -> AsyncGenerator[Client]:
    made = Client("bank", url, Limits.model_validate(limits))
    try:
        yield made
    finally:
        await made.aclose()


@pytest.fixture
async def system() -> AsyncIterator[StandIn]:
    async with StandIn(echo) as running:
        yield running


async def test_headers_outside_ascii_come_through(system: StandIn) -> None:
    system.misbehave(Misbehavior.STATUS_BEFORE, status=200, retry_after="výpis")
    async with client(system.url) as bank:
        assert (await bank.request("GET", "/pay")).headers["retry-after"] == "výpis"


def nobody_listens() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


SHORT_S = 0.8
"""How long an answer is waited for that never comes."""


async def failure(url: str, method: str = "POST", path: str = "/pay", **limits: float) -> OutsideError:
    async with client(url, **limits) as bank:
        with pytest.raises(OutsideError) as raised:
            await bank.request(method, path)
    return raised.value


async def test_an_answer_comes_back_whatever_its_status(system: StandIn) -> None:
    system.misbehave(Misbehavior.STATUS_BEFORE, status=418)
    async with client(system.url) as bank:
        refused, answered = await bank.request("POST", "/pay"), await bank.request("POST", "/pay", content=b"x")
    assert (refused.status_code, answered.status_code, answered.content) == (418, 200, b"done")
    assert [(seen.method, seen.path, seen.body) for seen in system.requests] == [
        ("POST", "/pay", b""),
        ("POST", "/pay", b"x"),
    ]


async def test_a_refused_connection_is_not_in_doubt() -> None:
    error = await failure(nobody_listens())
    assert isinstance(error, Transient)
    assert not error.in_doubt


async def test_a_name_that_does_not_resolve_is_not_in_doubt() -> None:
    error = await failure("http://no-such-host.invalid")
    assert isinstance(error, Transient)
    assert not error.in_doubt


async def test_a_connection_that_is_never_taken_is_not_in_doubt() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        error = await failure(f"http://127.0.0.1:{full.getsockname()[1]}", timeout=SHORT_S)
        for one in waiting:
            one.close()
    assert isinstance(error, Transient)
    assert not error.in_doubt


HANG = (Misbehavior.HANG_BEFORE, Misbehavior.HANG_AFTER)
LOST = (
    *HANG,
    Misbehavior.CUT_BEFORE,
    Misbehavior.CUT_AFTER,
    Misbehavior.CUT_MIDWAY,
)


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_a_lost_answer_is_in_doubt_and_nothing_is_sent_again(
    system: StandIn, kind: Misbehavior, method: str
) -> None:
    system.misbehave(kind)
    limits: dict[str, float] = {"timeout": SHORT_S} if kind in HANG else {}
    error = await failure(system.url, method, "/pay", **limits)
    assert isinstance(error, Transient)
    assert error.in_doubt
    assert error.retry_after is None
    assert len(system.requests) == 1


async def test_an_answer_lost_on_a_connection_that_was_used_before_is_in_doubt_too(system: StandIn) -> None:
    async with client(system.url) as bank:
        await bank.request("PUT", "/pay")
        await asyncio.sleep(CONNECTION_REST_S + 0.05)  # so that it is used again
        system.misbehave(Misbehavior.CUT_AFTER)
        with pytest.raises(Transient) as raised:
            await bank.request("PUT", "/pay")
    assert raised.value.in_doubt
    assert len(system.requests) == 2


async def test_an_answer_that_drips_is_given_up_in_time_and_in_doubt(system: StandIn) -> None:
    error = await failure(system.url, path="/drip", timeout=SHORT_S)
    assert isinstance(error, Transient)
    assert error.in_doubt


@pytest.mark.parametrize("path", ["/large", "/packed", "/bomb"])
async def test_an_answer_too_large_or_badly_packed_is_in_doubt(system: StandIn, path: str) -> None:
    async with client(system.url) as bank:
        with pytest.raises(Transient) as raised:
            await bank.request("POST", path)
        assert raised.value.in_doubt
        assert ("larger than 32 MiB" in str(raised.value)) == (path != "/packed")
        assert (await bank.request("POST", "/pay")).content == b"done"


async def test_an_answer_that_is_no_http_is_in_doubt() -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        error = await failure(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert isinstance(error, Transient)
    assert error.in_doubt


async def test_a_second_answer_is_never_taken_for_that_of_the_next_request() -> None:
    second = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readuntil(b"\r\n\r\n"):
            path = request.split()[1]
            told = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path)
            writer.write(told)
            await writer.drain()
            await asyncio.sleep(0.05)  # so that it comes when the connection rests
            writer.write(told)
            await writer.drain()
            second.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as bank:
        assert (await bank.request("GET", "/one")).content == b"/one"
        await second.wait()
        await asyncio.sleep(0.05)
        assert (await bank.request("GET", "/two")).content == b"/two"


async def test_a_second_answer_that_comes_after_the_next_request_was_sent_is_not_taken_for_its_answer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            told = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path)
            writer.write(told)
            await writer.drain()
            # Whatever is asked next on this connection gets the old answer.
            await reader.readuntil(b"\r\n\r\n")
            writer.write(told)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as bank:
        for path in (b"/one", b"/two", b"/three"):
            assert (await bank.request("GET", path.decode())).content == path


@pytest.mark.parametrize("url", ["bank.example.com/api", "ftp://bank.example.com", "http://bank:port"])
async def test_an_address_that_is_none_is_misconfigured(url: str) -> None:
    with pytest.raises(Misconfigured):
        async with client(url) as bank:
            await bank.request("GET", "/pay")


async def test_a_system_that_speaks_no_tls_is_misconfigured(system: StandIn) -> None:
    error = await failure(system.url.replace("http://", "https://"))
    assert isinstance(error, Misconfigured)


async def answered(system: StandIn, status: int, retry_after: str | None = None, reason: str = "") -> OutsideError:
    system.misbehave(Misbehavior.STATUS_BEFORE, status=status, retry_after=retry_after)
    async with client(system.url) as bank:
        response = await bank.request("POST", "/pay")
        with pytest.raises(OutsideError) as raised:
            raise_for_status("bank", response, reason)
    return raised.value


@pytest.mark.parametrize("status", [408, 425, 429])
async def test_not_now_is_transient_and_not_in_doubt_and_the_system_is_at_work(system: StandIn, status: int) -> None:
    error = await answered(system, status)
    assert isinstance(error, Transient)
    assert (error.in_doubt, error.retry_after, error.busy) == (False, None, True)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_error_is_in_doubt(system: StandIn, status: int) -> None:
    error = await answered(system, status)
    assert isinstance(error, Transient)
    assert (error.in_doubt, error.busy) == (True, False)


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 405, 410])
async def test_wrong_credentials_or_address_is_misconfigured(system: StandIn, status: int) -> None:
    assert isinstance(await answered(system, status), Misconfigured)


@pytest.mark.parametrize("status", [400, 402, 409, 422])
async def test_a_refusal_is_rejected_with_its_reason(system: StandIn, status: int) -> None:
    error = await answered(system, status, reason="amount_too_small")
    assert isinstance(error, Rejected)
    assert str(error) == f"bank: answered {status} (amount_too_small)"


async def test_a_long_reason_is_cut(system: StandIn) -> None:
    assert len(str(await answered(system, 422, reason="x" * 10_000))) < 250


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7), ("0", 0), ("9" * 400, 86_400), ("soon", None), ("", None), ("-5", None), ("²", None), ("1.5", None)],
)
async def test_retry_after_is_seconds_up_to_a_day(system: StandIn, said: str, seconds: float | None) -> None:
    for status in (429, 503):
        error = await answered(system, status, retry_after=said)
        assert isinstance(error, Transient)
        assert error.retry_after == seconds


async def test_retry_after_can_be_a_date(system: StandIn) -> None:
    soon = await answered(system, 429, format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    past = await answered(system, 429, "Wed, 01 Jan 2020 00:00:00 GMT")
    assert isinstance(soon, Transient)
    assert isinstance(past, Transient)
    assert soon.retry_after is not None
    assert 60 < soon.retry_after <= 90
    assert past.retry_after == 0


@pytest.mark.parametrize("concurrent", [1, 3, 150])
async def test_no_more_requests_are_under_way_at_once_than_the_limit(concurrent: int) -> None:
    async def slow(_scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer a moment after as many are under way as may be."""
        async with asyncio.timeout(60):
            while system.in_flight_max < concurrent:  # noqa: ASYNC110 - a stand-in counts and has no event
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async with StandIn(slow) as system, client(system.url, concurrent=concurrent, timeout=40) as bank:
        await asyncio.gather(*(bank.request("GET", "/slow") for _ in range(max(8, concurrent))))
    assert system.in_flight_max == concurrent


async def test_requests_are_spaced_by_the_rate_limit(system: StandIn) -> None:
    before = time.monotonic()
    async with client(system.url, per_second=50) as bank:
        await asyncio.gather(*(bank.request("GET", "/pay") for _ in range(6)))
    assert time.monotonic() - before >= 5 / 50


async def test_what_a_system_wants_remembered_is_not_told_to_it_again() -> None:
    told: list[bytes] = []

    async def sets_a_cookie(scope: Scope, _receive: Receive, send: Send) -> None:
        told.extend(value for name, value in scope["headers"] if name == b"cookie")
        headers = [(b"set-cookie", b"session=of-another-request; Path=/")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"done"})

    async with StandIn(sets_a_cookie) as system, client(system.url.replace("127.0.0.1", "localhost")) as bank:
        for _ in range(2):
            assert "set-cookie" in (await bank.request("GET", "/pay")).headers
    assert told == []


async def test_a_failed_request_frees_its_place(system: StandIn) -> None:
    async with client(system.url, concurrent=1, timeout=2) as bank:
        system.misbehave(Misbehavior.HANG_BEFORE)
        system.misbehave(Misbehavior.CUT_BEFORE)
        for _ in range(2):
            with pytest.raises(Transient):
                await bank.request("GET", "/pay")
        assert (await bank.request("GET", "/pay")).status_code == 200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_redirection_is_not_followed_so_no_credentials_go_elsewhere(status: int, method: str) -> None:
    async with StandIn(echo) as elsewhere:

        async def redirect(_scope: Scope, _receive: Receive, send: Send) -> None:
            location = [(b"location", f"{elsewhere.url}/taken".encode())]
            await send({"type": "http.response.start", "status": status, "headers": location})
            await send({"type": "http.response.body", "body": b""})

        async with StandIn(redirect) as system:
            made = Client("bank", system.url, Limits(timeout=40), headers={"Authorization": f"Bearer {TOKEN}"})
            response = await made.request(method, "/pay")
            await made.aclose()
        assert response.status_code == status
        assert [seen.headers["authorization"] for seen in system.requests] == [f"Bearer {TOKEN}"]
        assert not elsewhere.requests
    with pytest.raises(Misconfigured) as raised:
        raise_for_status("bank", response)
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize("kind", [None, *LOST, Misbehavior.STATUS_BEFORE])
async def test_no_url_with_its_token_is_logged_or_told(
    system: StandIn, caplog: pytest.LogCaptureFixture, kind: Misbehavior | None
) -> None:
    caplog.set_level(logging.DEBUG)
    url = system.url if kind else nobody_listens()
    if kind:
        system.misbehave(kind, times=2)
    told = ""
    async with client(f"{url}/{TOKEN}", **({"timeout": SHORT_S} if kind in HANG else {})) as bank:
        for path in ("/last", f"/by-id/{TOKEN}"):
            try:
                raise_for_status("bank", await bank.request("GET", path, params={"token": TOKEN}))
            except OutsideError as error:
                told += str(error) + "".join(traceback.format_exception(error))
    assert told
    assert TOKEN not in told
    # The stand-in's own server shares the process; its log of requests is not the client's.
    ours = [record for record in caplog.records if not record.name.startswith("uvicorn")]
    assert not [record for record in ours if TOKEN in record.getMessage() + str(record.args)]


@pytest.mark.parametrize(
    "url", [f"bank.example.com/{TOKEN}", f"ftp://bank.example.com/{TOKEN}", f"http://bank:{TOKEN}"]
)
async def test_a_wrong_address_is_told_without_its_token(url: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        async with client(url) as bank:
            await bank.request("GET", f"/{TOKEN}")
    assert TOKEN not in "".join(traceback.format_exception(raised.value))
