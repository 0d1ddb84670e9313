"""Webhooks of systems that sign nothing: who sent them, by which secret address, what is answered, what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from starlette.requests import Request

from connectors.errors import Misconfigured
from connectors.roles import NOWHERE, BadSignature, Origin, Told, WebhookEvent
from store.tables import InboxRow
from tasks.installation import Installation, open_installation
from web.app import create_app
from web.sender import sender_of, trusted_proxies

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


class Quiet:
    """A reader that takes what comes to its secret address, answers in its own way, and tells nothing by a ping."""

    def __init__(self) -> None:
        self.heard: list[Origin] = []

    def verify(
        self, headers: Mapping[str, str], body: bytes, *, now: datetime, origin: Origin = NOWHERE
    ) -> WebhookEvent:
        self.heard.append(origin)
        if origin.token != "of-the-connector":
            raise BadSignature(f"the address has not the secret that was set ({len(headers)}, {now:%Y})")
        return WebhookEvent(external_id=body.decode(), kind="told", kept=body != b"ping")

    async def truth(self, body: bytes) -> Sequence[Told]:
        raise NotImplementedError(f"{len(body)}")

    def answer(self, body: bytes, *, now: datetime) -> tuple[str, bytes]:
        return "application/json", b'{"accepted": "%s", "at": %d}' % (body, now.timestamp())


@pytest.fixture
async def opened(tmp_path: Path) -> Installation:
    made = replace(await open_installation(tmp_path), clock=lambda: NOW)
    made.connectors["quiet"] = Quiet()
    return made


async def deliver(opened: Installation, address: str, body: bytes, **headers: str) -> httpx.Response:
    async def waiting() -> int:
        return 0

    app = create_app(opened, wake=lambda: None, waiting=waiting)
    transport = httpx.ASGITransport(app, client=("203.0.113.9", 40_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://kvit") as client:
        return await client.post(address, content=body, headers=headers)


async def stored(opened: Installation) -> list[bytes]:
    async with opened.store.read() as connection:
        return list((await connection.execute(select(InboxRow.body))).scalars())


async def test_the_secret_in_the_address_and_the_sender_reach_the_connector(opened: Installation) -> None:
    assert (await deliver(opened, "/webhooks/quiet/of-the-connector", b"one")).status_code == 200
    assert opened.connectors["quiet"].heard == [Origin(address="203.0.113.9", token="of-the-connector")]
    assert await stored(opened) == [b"one"]


@pytest.mark.parametrize("address", ["/webhooks/quiet", "/webhooks/quiet/guessed"])
async def test_without_the_secret_nothing_is_stored_and_the_answer_does_not_repeat_it(
    opened: Installation, address: str
) -> None:
    answer = await deliver(opened, address, b"one")
    assert answer.status_code == 401
    assert "guessed" not in answer.text
    assert await stored(opened) == []


async def test_a_provider_that_waits_for_a_certain_answer_gets_it_each_time(opened: Installation) -> None:
    for _ in range(2):
        answer = await deliver(opened, "/webhooks/quiet/of-the-connector", b"one")
        assert answer.json() == {"accepted": "one", "at": int(NOW.timestamp())}
    assert await stored(opened) == [b"one"]


async def test_a_trial_of_the_address_is_answered_and_not_stored(opened: Installation) -> None:
    answer = await deliver(opened, "/webhooks/quiet/of-the-connector", b"ping")
    assert (answer.status_code, answer.json()) == (200, {"status": "known"})
    assert await stored(opened) == []


async def test_the_secret_of_an_address_is_in_no_metric(opened: Installation) -> None:
    async def waiting() -> int:
        return 0

    app = create_app(opened, wake=lambda: None, waiting=waiting)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kvit") as client:
        await client.post("/webhooks/quiet/of-the-connector", content=b"one")
        told = (await client.get("/metrics")).text
    assert "/webhooks/{connector}/{token}" in told
    assert "of-the-connector" not in told


# Behind a proxy of our own.


def request(peer: str | None, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    client = (peer, 40_000) if peer else None
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers, "client": client})


OURS = trusted_proxies({"trusted_proxies": ["10.0.0.0/8", "::1/128"]})


@pytest.mark.parametrize(
    ("peer", "forwarded", "sender"),
    [
        ("203.0.113.9", (), "203.0.113.9"),
        ("203.0.113.9", ("185.71.76.1",), "203.0.113.9"),  # anybody can send the header
        ("10.0.0.1", ("185.71.76.1",), "185.71.76.1"),
        ("10.0.0.1", ("1.2.3.4, 185.71.76.1",), "185.71.76.1"),  # what stands further left was made up
        ("10.0.0.1", ("185.71.76.1, 10.0.0.2",), "185.71.76.1"),
        ("10.0.0.1", ("1.2.3.4", "185.71.76.1"), "185.71.76.1"),
        ("::1", ("2a02:5180::7",), "2a02:5180::7"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("not an address",), ""),
        (None, ("185.71.76.1",), ""),
        ("unix", ("185.71.76.1",), ""),
    ],
)
def test_the_sender_is_whom_the_last_proxy_of_ours_heard(
    peer: str | None, forwarded: tuple[str, ...], sender: str
) -> None:
    assert sender_of(request(peer, *forwarded), OURS) == sender


@pytest.mark.parametrize("value", ["10.0.0.0/8", ["ten"], ["10.0.0.1/8"], [None]])
def test_what_is_no_list_of_networks_is_refused_in_a_sentence(value: object) -> None:
    with pytest.raises(Misconfigured, match=r"^kvit\.yaml, trusted_proxies: "):
        trusted_proxies({"trusted_proxies": value})
