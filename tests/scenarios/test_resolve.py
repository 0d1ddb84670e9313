"""Resolve: what nothing but a person can know is settled by one, once, and its order goes on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from mail_server import mail_server
from prefect import State
from shop_builders import (
    Clock,
    buy,
    carry_on,
    change_rules,
    letters,
    order_of,
    pay,
    payment_of,
    steps_of,
    take_payments,
)

from connectors.errors import Rejected
from connectors.roles import Consignment, Shipment
from connectors.smtp import Smtp, SmtpConfig
from deployments.dispatcher import Dispatcher
from domain.payments import Kind
from flows.resolve import resolve_step as resolve_flow
from store import documents, effects, journal, orders, work
from store.audit import audit
from store.effects import EffectState
from tasks.installation import Installation
from tasks.resolve import ResolveError, Said, resolve_step
from tasks.revert import begin

WHO, WHY = "jana", "seen in the portal"


@dataclass
class Post:
    """A mail server that takes a message and cuts the line before it says so."""

    port: int = 0
    cut: bool = True
    taken: list[bytes] = field(default_factory=list[bytes])

    async def data(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        """Take a message."""
        assert isinstance(envelope.content, bytes)
        self.taken.append(envelope.content)
        if self.cut:
            cast("asyncio.WriteTransport", server.transport).abort()
        return "250 OK"


class Cart:
    """A carrier that refuses what it was told to, and counts what it took on by its key."""

    def __init__(self) -> None:
        self.refuses = True
        self.asked: list[str] = []
        self.cancelled: list[str] = []

    async def create(self, consignment: Consignment, key: str) -> Shipment:
        """Take a consignment on."""
        self.asked.append(key)
        if self.refuses:
            raise Rejected("cart: it does not know the postcode")
        return Shipment(tracking_number=f"CART-{consignment.order_number}")

    async def find(self, consignment: Consignment, key: str) -> Shipment | None:
        """Find nothing."""
        del consignment, key

    async def cancel(self, tracking_number: str, key: str) -> None:
        """Cancel a consignment."""
        del key
        if self.refuses:
            raise Rejected("cart: the parcel is on its way")
        self.cancelled.append(tracking_number)


@pytest.fixture
async def post() -> AsyncGenerator[Post]:
    made = Post()
    async with mail_server(made.data) as made.port:
        yield made


@pytest.fixture
async def writing(opened: Installation, post: Post) -> Installation:
    """Return a shop whose Czech channel writes through the post."""
    opened.connectors["post"] = Smtp(
        SmtpConfig(name="post", home=opened.home, host="127.0.0.1", port=post.port, security="none")
    )
    await change_rules(opened, {"connectors": {"messenger": "post"}})
    return opened


@pytest.fixture
async def cart(opened: Installation) -> Cart:
    """Let the Czech channel send by the cart."""
    made = Cart()
    opened.connectors["cart"] = made
    await change_rules(opened, {"connectors": {"carrier": "cart"}})
    return made


async def settle(opened: Installation, order_id: int, step: str, said: Said, **more: Any) -> EffectState:
    """Settle a step by hand, and let what is due go on."""
    given = {"author": WHO, "because": WHY} | more
    settled = await resolve_step(opened, order_id, step, said, **given)
    await Dispatcher(opened).work_off()
    return settled.state


async def states_of(opened: Installation, order_id: int) -> dict[str, str]:
    """Return the state of each step of an order."""
    return {step: row["state"] for step, row in (await steps_of(opened, order_id)).items()}


async def breaches(opened: Installation) -> list[str]:
    """Return what the audit finds."""
    async with opened.store.read() as connection:
        return [one.said for one in await audit(connection, now=opened.clock())]


async def in_doubt(opened: Installation) -> tuple[int, int]:
    """Let an order be paid whose message may have been sent, once nothing can be done by itself; return both ids."""
    order_id = await buy(opened)
    payment_id = await pay(opened)
    state: State[Any] = await carry_on("card", payment_id)
    while (await states_of(opened, order_id))["message"] == "intended" or state.name == "Will go on":
        cast("Clock", opened.clock).forward(hours=1)
        state = await carry_on("card", payment_id)
    assert state.name == "Needs a person"
    return order_id, payment_id


async def test_what_is_in_doubt_says_since_when_what_was_asked_and_what_is_known(writing: Installation) -> None:
    order_id, payment_id = await in_doubt(writing)
    async with writing.store.read() as connection:
        (message,) = [
            one for one in await effects.of_causes(connection, [f"payment:{payment_id}"]) if one.step == "message"
        ]
    assert message.state is EffectState.IN_DOUBT
    assert message.doubt == f"post was asked with key {message.key}, unknown since 2026-11-23 09:00 UTC"
    assert (message.reason or "").startswith("whether the message was sent can't be looked up")
    assert (await steps_of(writing, order_id))["message"]["doubt_since"] == message.doubt_since


async def test_a_run_with_a_step_in_doubt_tells_what_was_asked(writing: Installation) -> None:
    _, payment_id = await in_doubt(writing)
    state = await carry_on("card", payment_id)
    key = (await steps_of(writing, (await order_of(writing, 1)).id))["message"]["key"]
    assert (state.name, state.type.value) == ("Needs a person", "FAILED")
    assert f"(post was asked with key {key}, unknown since 2026-11-23 09:00 UTC)" in (state.message or "")


async def test_a_message_that_was_sent_is_told_and_never_sent_again(writing: Installation, post: Post) -> None:
    order_id, _ = await in_doubt(writing)
    post.cut = False
    sent = len(post.taken)
    assert await settle(writing, order_id, "message", Said.HAPPENED) is EffectState.DONE
    found = await states_of(writing, order_id)
    assert (found["message"], found["status"]) == ("done", "done")
    assert sum(b"CZ5001" in text for text in post.taken[:sent]) == sent
    async with writing.store.read() as connection:
        told = [row for row in await documents.messages(connection, order_id) if row["template"] == "payment_received"]
        history = [row for row in await journal.of_order(connection, order_id) if row["step"] == "message"]
    assert [row["reference"] for row in told] == ["told by hand"]
    assert [(row["move"], row["actor"]) for row in history][-1] == ("done", WHO)
    assert history[-1]["reason"] == f"{WHO}: {WHY}"
    (other,) = await breaches(writing)
    assert other.startswith("step message dispatch needs a person")


async def test_a_message_that_was_not_sent_is_sent_once_with_its_key(writing: Installation, post: Post) -> None:
    order_id, _ = await in_doubt(writing)
    before = (await steps_of(writing, order_id))["message"]["key"]
    post.cut = False
    post.taken.clear()
    assert await settle(writing, order_id, "message", Said.AGAIN) is EffectState.INTENDED
    message = (await steps_of(writing, order_id))["message"]
    assert (message["state"], message["key"]) == ("done", before)
    assert len(post.taken) == 1
    assert (await Dispatcher(writing).work_off()) == 0
    assert len(post.taken) == 1


async def test_a_message_that_is_left_undone_is_not_sent_and_holds_up_nothing(
    writing: Installation, post: Post
) -> None:
    order_id, _ = await in_doubt(writing)
    post.taken.clear()
    post.cut = False
    assert await settle(writing, order_id, "message", Said.SKIP) is EffectState.SKIPPED
    assert post.taken == []
    assert (await states_of(writing, order_id))["message"] == "skipped"


async def test_a_refused_label_is_ordered_again_with_a_new_key(opened: Installation, cart: Cart) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened)
    assert (await carry_on("card", payment_id)).name == "Needs a person"
    cart.refuses = False
    assert await settle(opened, order_id, "dispatch", Said.AGAIN, because="the postcode is right") is (
        EffectState.INTENDED
    )
    found = await steps_of(opened, order_id, f"payment:{payment_id}")
    assert {row["state"] for row in found.values()} == {"done"}
    assert len(found) == 6
    assert len(set(cart.asked)) == len(cart.asked) == 2
    assert await breaches(opened) == []


async def test_a_label_that_was_ordered_by_hand_is_told_by_its_tracking_number(
    opened: Installation, cart: Cart
) -> None:
    order_id = await buy(opened)
    await carry_on("card", await pay(opened))
    with pytest.raises(ResolveError, match="give the consignment's tracking number with --reference"):
        await resolve_step(opened, order_id, "dispatch", Said.HAPPENED, author=WHO, because=WHY)
    assert (await states_of(opened, order_id))["dispatch"] == "rejected"
    assert await settle(opened, order_id, "dispatch", Said.HAPPENED, reference="RR123456785CZ") is EffectState.DONE
    async with opened.store.read() as connection:
        live = await orders.live_shipment(connection, order_id)
    assert live is not None
    assert (live["tracking_number"], live["carrier"]) == ("RR123456785CZ", "cart")
    assert (await states_of(opened, order_id))["message dispatch"] == "done"
    assert any("RR123456785CZ" in str(letter.get_body(("plain",))) for letter in letters(opened))
    assert len(cart.asked) == 1
    assert await breaches(opened) == []


async def test_goods_that_were_missing_are_deducted_when_they_are_there(opened: Installation) -> None:
    order_id = await buy(
        opened, lines=[{"sku": "TEA-SEN-100", "title": "Sencha", "quantity": 9000, "unit_price": "1"}], total="9000.00"
    )
    (payment_id,) = await take_payments(opened, payment_of("CZ5001", "9000.00"))
    assert (await carry_on("card", payment_id)).name == "Needs a person"
    with pytest.raises(
        ResolveError, match="step stock takes place in Kvit's own database, which knows that it has not"
    ):
        await resolve_step(opened, order_id, "stock", Said.HAPPENED, author=WHO, because=WHY)
    from store import stock

    async with opened.store.write() as connection:
        await stock.count(connection, "TEA-SEN-100", "Sencha", 10_000, now=opened.clock())
    await settle(opened, order_id, "stock", Said.AGAIN)
    assert (await states_of(opened, order_id))["stock"] == "done"
    async with opened.store.read() as connection:
        (level,) = [one for one in await stock.levels(connection) if one.sku == "TEA-SEN-100"]
    assert level.on_hand == 1_000
    assert await breaches(opened) == []


async def test_a_revert_that_a_carrier_stops_goes_on_when_the_label_is_left(opened: Installation, cart: Cart) -> None:
    cart.refuses = False
    order_id = await buy(opened)
    await carry_on("card", await pay(opened))
    cart.refuses = True
    begun = await begin(opened, [order_id], author=WHO, because="wrong order", force=True)
    assert (await carry_on("revert", *begun)).name == "Needs a person"
    assert await settle(opened, order_id, "undo dispatch", Said.SKIP, because="it has left") is EffectState.SKIPPED
    assert (await order_of(opened, order_id)).settled.minor == 0
    assert cart.cancelled == []


async def test_a_label_that_was_cancelled_by_hand_is_told(opened: Installation, cart: Cart) -> None:
    cart.refuses = False
    order_id = await buy(opened)
    await carry_on("card", await pay(opened))
    cart.refuses = True
    begun = await begin(opened, [order_id], author=WHO, because="wrong order", force=True)
    await carry_on("revert", *begun)
    await settle(opened, order_id, "undo dispatch", Said.HAPPENED, because="cancelled by phone")
    async with opened.store.read() as connection:
        assert await orders.live_shipment(connection, order_id) is None
    assert (await order_of(opened, order_id)).settled.minor == 0
    assert await breaches(opened) == []


async def test_a_message_in_doubt_does_not_hold_up_what_a_refund_takes_back(writing: Installation, post: Post) -> None:
    order_id = await buy(writing)
    (payment_id,) = await take_payments(writing, payment_of("CZ5001", provider_reference="pi_1"))
    await carry_on("card", payment_id)
    assert post.taken
    (refund,) = await take_payments(
        writing, payment_of("CZ5001", "-378.00", provider_reference="pi_1", kind=Kind.REFUND)
    )
    await carry_on("money_back", refund)
    found = await steps_of(writing, order_id, f"payment:{refund}")
    assert {step: row["state"] for step, row in found.items()}["cancel dispatch"] == "done"
    assert (await states_of(writing, order_id))["message"] == "in_doubt"


async def test_what_is_being_tried_right_now_is_left_to_its_worker(opened: Installation, cart: Cart) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened)
    await carry_on("card", payment_id)
    async with opened.store.write() as connection:
        await effects.settle(
            connection,
            (await effects.to_settle(connection, order_id, "dispatch"))[0],
            EffectState.INTENDED,
            actor=journal.Actor(name=WHO),
            because=WHY,
            now=opened.clock(),
        )
        await effects.claim(
            connection,
            "dispatch",
            [effects.Wanted(order_id, f"payment:{payment_id}", 1)],
            owner="another worker",
            lease_until=opened.clock().replace(minute=30),
            actor=journal.Actor(name="another worker"),
            now=opened.clock(),
        )
    with pytest.raises(ResolveError, match="is being tried right now; look again in a minute"):
        await resolve_step(opened, order_id, "dispatch", Said.SKIP, author=WHO, because=WHY)
    assert cart.asked


async def test_of_two_people_who_settle_the_same_step_one_is_told_to_look_again(
    opened: Installation, cart: Cart
) -> None:
    order_id = await buy(opened)
    await carry_on("card", await pay(opened))
    said = await asyncio.gather(
        *(
            resolve_step(opened, order_id, "dispatch", Said.HAPPENED, author=who, because=WHY, reference=f"RR-{who}")
            for who in ("jana", "petr")
        ),
        return_exceptions=True,
    )
    (refused,) = [one for one in said if isinstance(one, ResolveError)]
    assert "order CZ5001" in str(refused)
    async with opened.store.read() as connection:
        assert await orders.live_shipment(connection, order_id) is not None
    assert cart.asked
    assert await breaches(opened) == [] or "message dispatch" in (await breaches(opened))[0]


@pytest.mark.parametrize(
    ("step", "because", "said"),
    [
        ("status", WHY, "step status of order CZ5001 waits for nobody"),
        ("no such step", WHY, "step no such step of order CZ5001 waits for nobody"),
        ("dispatch", "  ", "say how you know, with --because"),
    ],
)
async def test_what_can_not_be_settled_says_why(
    opened: Installation, cart: Cart, step: str, because: str, said: str
) -> None:
    order_id = await buy(opened)
    await carry_on("card", await pay(opened))
    with pytest.raises(ResolveError, match=said):
        await resolve_step(opened, order_id, step, Said.SKIP, author=WHO, because=because)
    assert cart.asked


@pytest.mark.usefixtures("cart")
async def test_the_form_settles_a_step_and_makes_its_order_due(opened: Installation) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened)
    await carry_on("card", payment_id)
    form = cast("Any", resolve_flow)
    refused = await form("CZ5001", "dispatch", None, return_state=True)
    assert (refused.name, refused.message) == (
        "Refused",
        "say whether it happened, is to be tried again, or is to be left",
    )
    state = await form("CZ5001", "dispatch", Said.SKIP, "", "sent with another", None, WHO, return_state=True)
    assert (state.name, state.message) == ("Done", "step dispatch of order CZ5001 is skipped")
    async with opened.store.read() as connection:
        (paid,) = [row for row in await work.of_orders(connection, numbers=["CZ5001"]) if row[0].subject == "payment"]
    assert paid[2] is False
    assert (await states_of(opened, order_id))["dispatch"] == "skipped"


def kvit(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Give a command as an operator does."""
    return subprocess.run(
        [sys.executable, "-m", "deployments", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"KVIT_HOME": str(home), "PATH": "/usr/bin:/bin", "COLUMNS": "400", "HOME": str(home)},
    )


async def test_an_operator_sees_what_waits_and_settles_it(opened: Installation, cart: Cart) -> None:
    await buy(opened)
    await carry_on("card", await pay(opened))
    assert cart.asked
    shown = await asyncio.to_thread(kvit, opened.home, "orders", "show", "CZ5001")
    assert "Needs a person" in shown.stdout
    assert "kvit resolve step CZ5001 dispatch" in shown.stdout
    wrong = await asyncio.to_thread(kvit, opened.home, "resolve", "step", "CZ5001", "dispatch", "--because", WHY)
    assert (wrong.returncode, "say one of --happened, --again and --skip" in wrong.stderr) == (2, True)
    settled = await asyncio.to_thread(
        kvit,
        opened.home,
        "resolve",
        "step",
        "CZ5001",
        "dispatch",
        "--happened",
        "--reference",
        "RR1",
        "--because",
        WHY,
        "--json",
    )
    assert (settled.returncode, json.loads(settled.stdout)["state"]) == (0, "done")
