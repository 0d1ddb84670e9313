"""A mail server that takes its time holds up no order: the parcel is ordered, and letters go out in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from email import message_from_bytes, policy

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from mail_server import mail_server
from shop_builders import buy, carry_on, change_rules, pay

from connectors.smtp import Smtp, SmtpConfig
from store import orders
from tasks.installation import Installation


@dataclass
class SlowPost:
    """A mail server that has a letter lie until it is told to go on."""

    port: int = 0
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    subjects: list[str] = field(default_factory=list[str])

    async def data(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        """Take a letter."""
        self.asked.set()
        await self.goes_on.wait()
        assert isinstance(envelope.content, bytes)
        self.subjects.append(str(message_from_bytes(envelope.content, policy=policy.default)["Subject"]))
        return "250 OK"


@pytest.fixture
async def post() -> AsyncGenerator[SlowPost]:
    made = SlowPost()
    async with mail_server(made.data) as made.port:
        yield made


@pytest.mark.parametrize(
    ("method", "scenario", "said"),
    [("card", "card", ["přijali", "odeslání"]), ("bank_transfer", "bank_transfer", ["přijali", "odeslání"])],
)
async def test_an_order_is_carried_on_while_its_letter_lies_with_a_slow_mail_server(
    opened: Installation, post: SlowPost, method: str, scenario: str, said: list[str]
) -> None:
    opened.connectors["post"] = Smtp(
        SmtpConfig(name="post", home=opened.home, host="127.0.0.1", port=post.port, security="none")
    )
    await change_rules(opened, {"connectors": {"messenger": "post"}})
    order_id = await buy(opened, method=method)
    payment = await pay(opened, method=method, variable_symbol="5001")
    running = asyncio.create_task(carry_on(scenario, payment))
    async with asyncio.timeout(60):
        await post.asked.wait()
        while not await shipped(opened, order_id):  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.05)
        assert post.subjects == []
        post.goes_on.set()
        assert (await running).name == "Done"
    assert len(post.subjects) == len(said)
    assert all(part in subject for part, subject in zip(said, post.subjects, strict=True))


async def shipped(opened: Installation, order_id: int) -> bool:
    """Say whether the order's parcel was ordered."""
    async with opened.store.read() as connection:
        return await orders.live_shipment(connection, order_id) is not None
