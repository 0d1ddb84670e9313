"""The Stripe connector, over real HTTP against a stand-in as strict as Stripe."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.responses import Response

from connectors import load
from connectors.errors import Misconfigured, OutsideError, Rejected, Transient
from connectors.roles import (
    BadSignature,
    Checked,
    Page,
    PaymentSource,
    PayoutReport,
    PayoutSource,
    PaysOut,
    WebhookReader,
)
from connectors.stripe import Stripe, StripeConfig
from deployments.sandbox.standin import Misbehavior, StandIn
from deployments.sandbox.stripe import Json, StripeStandIn
from domain.money import Money
from domain.payments import IncomingPayment, Method
from domain.payouts import LineKind, Payout

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=1)


def config(account: StripeStandIn | None = None, /, **changed: Any) -> StripeConfig:
    fields: dict[str, Any] = {
        "name": "stripe",
        "home": Path(),
        "api_key": account.api_key if account else "sk_test",
        "webhook_secret": account.webhook_secret if account else "whsec_test",
        "base_url": account.base_url if account else "http://127.0.0.1:9",
    }
    return StripeConfig.model_validate(fields | changed)


@asynccontextmanager
async def connected(account: StripeStandIn, /, **changed: Any) -> AsyncGenerator[Stripe]:
    stripe = Stripe(config(account, **changed))
    try:
        yield stripe
    finally:
        await stripe.aclose()


@pytest.fixture
async def account() -> AsyncIterator[StripeStandIn]:
    async with StripeStandIn() as running:
        yield running


@pytest.fixture
async def stripe(account: StripeStandIn) -> AsyncIterator[Stripe]:
    async with connected(account) as made:
        yield made


def body(event: Json) -> bytes:
    return json.dumps(event).encode()


def about(event: Json) -> str:
    return event["data"]["object"]["id"]


async def truth(stripe: Stripe, event: Json) -> list[tuple[str, str]]:
    return [(payment.external_id, str(payment.amount)) for payment in await stripe.truth(body(event))]


# Settings and roles


def test_it_plays_its_roles_and_is_found_by_its_type() -> None:
    made = load(
        {"type": "stripe", "name": "cards", "api_key": "sk_test", "webhook_secret": "whsec_test"},
        home=Path(),
        where="kvit.yaml",
    )
    assert isinstance(made, Stripe)
    assert isinstance(made, WebhookReader)
    assert isinstance(made, PaymentSource)
    assert isinstance(made, PayoutSource)
    assert isinstance(made, PaysOut)
    assert isinstance(made, Checked)


@pytest.mark.parametrize("field", ["api_key", "webhook_secret"])
@pytest.mark.parametrize("value", ["", " ", ",", "whsec_a,", "whsec_a\nX-Header: b"])
def test_an_empty_or_broken_secret_is_no_setting(field: str, value: str) -> None:
    with pytest.raises(ValidationError):
        config(**{field: value})


def test_secrets_do_not_show() -> None:
    shown = repr(config(api_key="sk_live_hidden", webhook_secret="whsec_hidden"))
    assert "hidden" not in shown


# Webhooks

VECTOR = "c89214b5b5da833daed6f0b8c5bb6bd58cea9022bd80ccc78230f3942d632925"
SIGNED_AT = datetime.fromtimestamp(1_700_000_000, UTC)


def verify(header: str, *, now: datetime = SIGNED_AT, sent: bytes = b'{"id":"evt_1"}', **changed: Any) -> str:
    return Stripe(config(**changed)).verify({"stripe-signature": header}, sent, now=now).external_id


def test_the_known_signature_is_accepted() -> None:
    assert verify(f"t=1700000000,v1={VECTOR}") == "evt_1"


@pytest.mark.parametrize("late", [-300, -1, 0, 1, 300])
def test_a_webhook_within_the_tolerance_is_accepted(late: int) -> None:
    assert verify(f"t=1700000000,v1={VECTOR}", now=SIGNED_AT + timedelta(seconds=late)) == "evt_1"


@pytest.mark.parametrize(("late", "said"), [(301, "too old"), (86_400, "too old"), (-301, "from the future")])
def test_a_webhook_beyond_the_tolerance_is_refused(late: int, said: str) -> None:
    with pytest.raises(BadSignature, match=said):
        verify(f"t=1700000000,v1={VECTOR}", now=SIGNED_AT + timedelta(seconds=late))


def test_the_tolerance_can_be_set() -> None:
    now = SIGNED_AT + timedelta(seconds=301)
    assert verify(f"t=1700000000,v1={VECTOR}", now=now, tolerance=301) == "evt_1"


@pytest.mark.parametrize("secrets", ["whsec_test", "whsec_test,whsec_new", "whsec_old, whsec_test", "a,b,whsec_test"])
def test_any_of_our_secrets_may_have_signed(secrets: str) -> None:
    assert verify(f"t=1700000000,v1={VECTOR}", webhook_secret=secrets) == "evt_1"


@pytest.mark.parametrize(
    "header",
    [
        f"t=1700000000,v1={'0' * 64},v1={VECTOR}",
        f"t=1700000000,v1={VECTOR},v1={'0' * 64}",
        f"t=1700000000,v0={'0' * 64},v1={VECTOR}",
        f"v1={VECTOR},t=1700000000",
        f"t=1700000000, v1={VECTOR}",
    ],
)
def test_any_of_the_signatures_may_match(header: str) -> None:
    assert verify(header) == "evt_1"


@pytest.mark.parametrize(
    "header",
    [
        f"v1={VECTOR}",
        "t=1700000000",
        f"t=1700000000,v0={VECTOR}",
        f"t=1700000000,v1={VECTOR.upper()}",
        f"t=1700000000,v1={VECTOR[:-1]}",
        f"t=1700000000,t=1700000001,v1={VECTOR}",
        f"t=,v1={VECTOR}",
        f"t=1700000000.0,v1={VECTOR}",
        f"t=+1700000000,v1={VECTOR}",
        f"t=١٧٠٠٠٠٠٠٠٠,v1={VECTOR}",
        VECTOR,
    ],
)
def test_a_malformed_header_is_refused_and_the_form_is_shown(header: str) -> None:
    with pytest.raises(BadSignature, match=r"malformed.*t=<seconds>"):
        verify(header)


@pytest.mark.parametrize("secret", ["whsec_other", "whsec_test2,whsec_other"])
def test_a_webhook_signed_with_no_secret_of_ours_is_refused(secret: str) -> None:
    with pytest.raises(BadSignature, match="doesn't match"):
        verify(f"t=1700000000,v1={VECTOR}", webhook_secret=secret)


async def test_a_delivered_webhook_is_what_verify_takes(account: StripeStandIn) -> None:
    event = account.pay("CZ1042", 104250, now=NOW)
    async with StandIn(Response(status_code=200)) as shop, connected(account) as stripe:
        assert await account.deliver(event, f"{shop.url}/webhooks/stripe", NOW, times=3) == [200, 200, 200]
        for seen in shop.requests:
            taken = stripe.verify(seen.headers, seen.body, now=NOW)
            assert (taken.external_id, taken.kind) == (event["id"], "payment_intent.succeeded")
            assert len(await stripe.truth(seen.body)) == 1
    assert len(shop.requests) == 3


# What an event's object really is


async def test_a_paid_intent_is_a_payment(account: StripeStandIn) -> None:
    event = account.pay("CZ1042", 104250, "czk", description="Order CZ1042, thank you", now=NOW)
    async with connected(account, name="cards", account="Stripe CZ") as stripe:
        assert await stripe.truth(body(event)) == [
            IncomingPayment(
                source="stripe:cards",
                external_id=about(event),
                method=Method.CARD,
                amount=Money.parse("1042.50", "CZK"),
                booked_on=date(2026, 3, 1),
                account="Stripe CZ",
                provider_reference=about(event),
                order_reference="CZ1042",
                text="Order CZ1042, thank you",
            )
        ]


async def test_requests_carry_the_key_and_pin_the_version(account: StripeStandIn, stripe: Stripe) -> None:
    await truth(stripe, account.pay("CZ1042", 100))
    sent = account.requests[0].headers
    assert sent["authorization"] == f"Bearer {account.api_key}"
    assert sent["stripe-version"] == "2026-10-28.endive"


@pytest.mark.parametrize("key", ["order", "order_number", "order_id"])
async def test_the_order_is_read_from_the_metadata(account: StripeStandIn, stripe: Stripe, key: str) -> None:
    (payment,) = await stripe.truth(body(account.pay(" CZ1042 ", 100, key=key)))
    assert payment.order_reference == "CZ1042"


@pytest.mark.parametrize(("order", "key"), [(None, "order"), ("  ", "order"), ("CZ1042", "cart")])
async def test_a_payment_without_an_order_is_still_a_payment(
    account: StripeStandIn, stripe: Stripe, order: str | None, key: str
) -> None:
    (payment,) = await stripe.truth(body(account.pay(order, 100, key=key)))
    assert payment.order_reference is None


@pytest.mark.parametrize(
    ("minor", "currency", "said"),
    [
        (104250, "eur", "1042.50 EUR"),
        (500, "jpy", "500 JPY"),
        (5120, "kwd", "5.120 KWD"),
        (104200, "huf", "1042.00 HUF"),
        (500, "isk", "5 ISK"),
        (500, "ugx", "5 UGX"),
        (500, "mga", "500.00 MGA"),
    ],
)
async def test_amounts_are_read_as_stripe_counts_them(
    account: StripeStandIn, stripe: Stripe, minor: int, currency: str, said: str
) -> None:
    paid = account.pay("CZ1042", minor, currency)
    assert await truth(stripe, paid) == [(about(paid), said)]
    refunded = account.refund(about(paid), minor)
    (refund_id,) = account.objects["refund"]
    assert await truth(stripe, refunded) == [(refund_id, f"-{said}")]


@pytest.mark.parametrize(("minor", "currency"), [(5125, "kwd"), (550, "isk"), (0, "eur"), (-100, "eur")])
def test_the_stand_in_takes_no_amount_that_stripe_refuses(minor: int, currency: str) -> None:
    with pytest.raises(ValueError, match="no amount"):
        StripeStandIn().pay("CZ1042", minor, currency)


async def test_the_api_counts_and_not_what_the_event_says(account: StripeStandIn, stripe: Stripe) -> None:
    event = account.hold("CZ1042", 5000)
    event["type"] = "payment_intent.succeeded"
    event["data"]["object"] |= {"status": "succeeded", "amount_received": 5000}
    assert await truth(stripe, event) == []


async def test_what_was_received_counts_and_not_what_was_asked_for(account: StripeStandIn, stripe: Stripe) -> None:
    event = account.pay("CZ1042", 5000)
    account.objects["payment_intent"][about(event)]["amount_received"] = 4000
    assert await truth(stripe, event) == [(about(event), "40.00 EUR")]
    account.objects["payment_intent"][about(event)]["amount_received"] = 0
    assert await truth(stripe, event) == []


@pytest.mark.parametrize("status", ["processing", "requires_capture", "requires_action", "canceled"])
async def test_only_an_intent_that_has_succeeded_is_a_payment(
    account: StripeStandIn, stripe: Stripe, status: str
) -> None:
    event = account.pay("CZ1042", 5000)
    account.objects["payment_intent"][about(event)]["status"] = status
    assert await truth(stripe, event) == []


async def test_a_failed_attempt_makes_no_payment(account: StripeStandIn, stripe: Stripe) -> None:
    assert await truth(stripe, account.fail("CZ1042", 5000)) == []


async def test_a_failure_told_after_the_success_of_another_attempt_takes_nothing_back(
    account: StripeStandIn, stripe: Stripe
) -> None:
    failed = account.fail("CZ1042", 5000)
    paid = account.pay("CZ1042", 5000, intent=about(failed))
    assert await truth(stripe, paid) == [(about(failed), "50.00 EUR")]
    assert await truth(stripe, failed) == []


async def test_money_that_is_only_held_is_no_payment(account: StripeStandIn, stripe: Stripe) -> None:
    assert await truth(stripe, account.hold("CZ1042", 5000)) == []


@pytest.mark.parametrize("kind", ["customer.created", "charge.succeeded", "payout.paid", "refund.created", ""])
async def test_other_events_make_no_payment_and_ask_nothing(account: StripeStandIn, stripe: Stripe, kind: str) -> None:
    event = account.pay("CZ1042", 5000) | {"type": kind}
    assert await truth(stripe, event) == []
    assert not account.requests


async def test_each_refund_is_a_negative_payment(account: StripeStandIn, stripe: Stripe) -> None:
    intent = about(account.pay("CZ1042", 5000))
    first = account.refund(intent, 1200, now=NOW)
    second = account.refund(intent, now=NOW + timedelta(days=1))
    one, other = account.objects["refund"]
    payments = await stripe.truth(body(second))
    assert {(p.external_id, str(p.amount), p.booked_on) for p in payments} == {
        (one, "-12.00 EUR", date(2026, 3, 1)),
        (other, "-38.00 EUR", date(2026, 3, 2)),
    }
    assert {(p.order_reference, p.provider_reference, p.method) for p in payments} == {("CZ1042", intent, Method.CARD)}
    assert await stripe.truth(body(first)) == payments


async def test_no_refund_of_many_is_lost(account: StripeStandIn, stripe: Stripe) -> None:
    intent = about(account.pay("CZ1042", 230))
    last: Json = {}
    for _ in range(230):
        last = account.refund(intent, 1, now=EARLIER)
    payments = await truth(stripe, last)
    assert len(payments) == 230
    assert {external_id for external_id, _ in payments} == set(account.objects["refund"])


async def test_a_refund_finds_its_order_at_the_intent_when_the_charge_has_none(
    account: StripeStandIn, stripe: Stripe
) -> None:
    intent = about(account.pay("CZ1042", 5000))
    refunded = account.refund(intent)
    account.objects["charge"][about(refunded)]["metadata"] = {}
    (payment,) = await stripe.truth(body(refunded))
    assert payment.order_reference == "CZ1042"


@pytest.mark.parametrize("status", ["pending", "requires_action", "failed", "canceled"])
async def test_a_refund_counts_once_it_has_succeeded(account: StripeStandIn, stripe: Stripe, status: str) -> None:
    refunded = account.refund(about(account.pay("CZ1042", 5000)), status=status)
    assert await truth(stripe, refunded) == []
    (refund_id,) = account.objects["refund"]
    assert await truth(stripe, account.settle_refund(refund_id)) == [(refund_id, "-50.00 EUR")]


async def test_a_refund_of_a_charge_without_an_intent_is_none_of_ours(account: StripeStandIn, stripe: Stripe) -> None:
    refunded = account.refund(about(account.pay("CZ1042", 5000)))
    account.objects["charge"][about(refunded)]["payment_intent"] = None
    assert await truth(stripe, refunded) == []


async def test_a_chargeback_takes_the_money_and_a_won_dispute_brings_it_back(
    account: StripeStandIn, stripe: Stripe
) -> None:
    intent = about(account.pay("CZ1042", 5000))
    withdrawn = account.dispute(intent)
    (taken,) = await stripe.truth(body(withdrawn))
    assert (str(taken.amount), taken.order_reference, taken.provider_reference) == ("-50.00 EUR", "CZ1042", intent)
    reinstated = account.win_dispute(about(withdrawn))
    first, second = await stripe.truth(body(reinstated))
    assert first == taken
    assert str(second.amount) == "50.00 EUR"
    assert second.external_id != first.external_id
    assert await stripe.truth(body(withdrawn)) == [first, second]


async def test_a_chargeback_is_in_the_currency_that_was_paid_in(account: StripeStandIn, stripe: Stripe) -> None:
    withdrawn = account.dispute(about(account.pay("CZ1042", 5000, "eur")), payout_currency="czk")
    account.win_dispute(about(withdrawn), payout_currency="czk")
    assert [amount for _, amount in await truth(stripe, withdrawn)] == ["-50.00 EUR", "50.00 EUR"]


async def test_an_inquiry_that_moved_no_money_makes_no_payment(account: StripeStandIn, stripe: Stripe) -> None:
    withdrawn = account.dispute(about(account.pay("CZ1042", 5000)))
    account.objects["dispute"][about(withdrawn)]["balance_transactions"] = []
    assert await truth(stripe, withdrawn | {"type": "charge.dispute.created"}) == []


# What goes wrong


@pytest.mark.parametrize(
    "hostile", ["../events", "pi_1/../../x", "pi_1?expand[]=customer", "", "pi_1\n", "pi_ü", None, 7]
)
@pytest.mark.parametrize(
    "kind", ["payment_intent.succeeded", "charge.refunded", "charge.dispute.created", "refund.updated"]
)
async def test_an_id_that_is_none_never_gets_into_an_address(
    account: StripeStandIn, stripe: Stripe, kind: str, hostile: Any
) -> None:
    event = {"id": "evt_1", "type": kind, "data": {"object": {"id": hostile}}}
    with pytest.raises(Rejected, match="id"):
        await stripe.truth(body(event))
    with pytest.raises(Rejected):
        await stripe.truth(body({"id": "evt_1", "type": kind}))
    assert not account.requests


async def test_an_object_that_stripe_does_not_know_is_rejected(account: StripeStandIn, stripe: Stripe) -> None:
    event = account.pay("CZ1042", 5000)
    del account.objects["payment_intent"][about(event)]
    with pytest.raises(Rejected, match=r"404 \(invalid_request_error/resource_missing\)"):
        await stripe.truth(body(event))


async def test_a_wrong_key_is_misconfigured_and_not_shown(account: StripeStandIn) -> None:
    async with connected(account, api_key="sk_test_wrong") as stripe:
        for asked in (stripe.check(), stripe.truth(body(account.pay("CZ1042", 5000))), stripe.fetch(None, now=NOW)):
            with pytest.raises(Misconfigured, match="401") as raised:
                await asked
            assert "wrong" not in str(raised.value)


async def test_a_wrong_address_is_misconfigured(account: StripeStandIn) -> None:
    async with connected(account, base_url=f"{account.url}/v2") as stripe:
        with pytest.raises(Misconfigured, match="404"):
            await stripe.truth(body(account.pay("CZ1042", 5000)))


@pytest.mark.parametrize(
    ("kind", "status", "in_doubt"),
    [
        (Misbehavior.HANG_BEFORE, 0, True),
        (Misbehavior.HANG_AFTER, 0, True),
        (Misbehavior.CUT_BEFORE, 0, True),
        (Misbehavior.CUT_AFTER, 0, True),
        (Misbehavior.CUT_MIDWAY, 0, True),
        (Misbehavior.STATUS_BEFORE, 500, True),
        (Misbehavior.STATUS_AFTER, 500, True),
        (Misbehavior.STATUS_BEFORE, 503, True),
        (Misbehavior.STATUS_BEFORE, 429, False),
        (Misbehavior.GARBAGE, 0, False),
    ],
)
async def test_what_passes_is_transient_and_then_it_works(
    account: StripeStandIn, stripe: Stripe, kind: Misbehavior, status: int, in_doubt: bool
) -> None:
    event = account.pay("CZ1042", 5000)
    account.misbehave(kind, path="/v1/payment_intents", status=status)
    hangs = kind in (Misbehavior.HANG_BEFORE, Misbehavior.HANG_AFTER)
    async with connected(account, limits={"timeout": 0.4 if hangs else 20}) as asking:
        with pytest.raises(Transient) as raised:
            await asking.truth(body(event))
    assert (raised.value.in_doubt, raised.value.retry_after) == (in_doubt, None)
    assert await truth(stripe, event) == [(about(event), "50.00 EUR")]


@pytest.mark.parametrize("status", [429, 503])
async def test_the_wait_that_stripe_asks_for_is_passed_on(account: StripeStandIn, stripe: Stripe, status: int) -> None:
    account.misbehave(Misbehavior.STATUS_BEFORE, status=status, retry_after=7)
    with pytest.raises(Transient) as raised:
        await stripe.check()
    assert raised.value.retry_after == 7


@pytest.mark.parametrize(
    ("path", "move"),
    [
        ("payment_intents", "pay"),
        ("charges", "dispute"),
        ("disputes", "dispute"),
        ("charges", "refund"),
        ("refunds", "refund"),
    ],
)
async def test_an_answer_to_an_earlier_question_is_not_believed(
    account: StripeStandIn, stripe: Stripe, path: str, move: str
) -> None:
    """A system that answers twice answers the next question on its connection with what it was asked before."""
    paid = [account.pay(number, 5000) for number in ("CZ1042", "CZ1043")]
    first, second = paid if move == "pay" else [getattr(account, move)(about(event)) for event in paid]
    account.misbehave(Misbehavior.EARLIER, path=f"/v1/{path}", skip=1)
    (one,) = await stripe.truth(body(first))
    with pytest.raises(Transient, match="another"):
        await stripe.truth(body(second))
    (other,) = await stripe.truth(body(second))
    assert (one.order_reference, other.order_reference) == ("CZ1042", "CZ1043")


async def test_an_outage_is_transient_until_it_ends(account: StripeStandIn, stripe: Stripe) -> None:
    account.go_down()
    for _ in range(3):
        with pytest.raises(Transient):
            await stripe.check()
    account.behave()
    assert "accepts the key" in await stripe.check()


async def test_an_error_is_told_by_its_code_and_never_by_its_message() -> None:
    said = {"type": "card_error", "code": "card_declined", "message": "Jana Nováková, 4242", "param": "Jana"}
    for error in (said, said | {"code": "Jana Nováková"}):
        answer = Response(json.dumps({"error": error}), status_code=402)
        async with StandIn(answer) as system:
            stripe = Stripe(config(base_url=system.url))
            with pytest.raises(Rejected, match=r"402 \(card_error") as raised:
                await stripe.check()
            await stripe.aclose()
            assert "Jana" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("amount_received", "5000", "amount_received"),
        ("amount_received", 50.0, "amount_received"),
        ("amount_received", True, "amount_received"),
        ("amount_received", 10**30, "amount_received"),
        ("status", None, "status"),
        ("currency", "xyz", "XYZ"),
        ("currency", 978, "currency"),
        ("created", "2026-03-01", "created"),
        ("created", 10**30, "created"),
        ("created", -1, "created"),
        ("metadata", ["order"], "metadata"),
        ("metadata", {"order": 1042}, "metadata.order"),
    ],
)
async def test_an_object_that_can_not_be_right_is_rejected_by_name(
    account: StripeStandIn, stripe: Stripe, field: str, value: Any, said: str
) -> None:
    event = account.pay("CZ1042", 5000)
    account.objects["payment_intent"][about(event)][field] = value
    with pytest.raises(Rejected, match=said):
        await stripe.truth(body(event))


@pytest.mark.parametrize(
    "answer",
    [
        b"<html><body>Please wait</body></html>",
        b"",
        b"[]",
        b"null",
        b"{}",
        b"[" * 200_000,
        b'{"status": "error", "message": "Jana"}',
        b'{"error": {"type": "api_error", "message": "Jana"}}',
        b'{"object": "payment_link", "id": "pi_1"}',
        b'{"object": ["payment_intent"]}',
    ],
    ids=lambda answer: answer[:20],
)
async def test_an_answer_of_200_without_the_object_that_was_asked_for_is_asked_for_again(
    account: StripeStandIn, answer: bytes
) -> None:
    events = [
        account.pay("CZ1042", 5000),
        {"id": "evt_1", "type": "charge.refunded", "data": {"object": {"id": "ch_1"}}},
        {"id": "evt_1", "type": "charge.dispute.created", "data": {"object": {"id": "dp_1"}}},
    ]
    async with StandIn(Response(answer)) as system:
        stripe = Stripe(config(base_url=system.url))
        for asked in (*(stripe.truth(body(event)) for event in events), stripe.check(), stripe.fetch(None, now=NOW)):
            with pytest.raises(Transient, match=r"not with the .* that was asked for") as raised:
                await asked
            assert not raised.value.in_doubt
            assert "Jana" not in str(raised.value)
        await stripe.aclose()


async def test_a_list_that_never_ends_is_left_once_it_comes_round() -> None:
    listed: dict[str, Any] = {"id": "evt_1", "type": "payment_intent.succeeded", "created": 1, "data": {}}
    page = Response(json.dumps({"object": "list", "has_more": True, "data": [listed]}))
    async with StandIn(page) as system:
        stripe = Stripe(config(base_url=system.url))
        with pytest.raises(Transient, match="same page again"):
            await stripe.fetch(None, now=NOW)
        assert len(system.requests) == 2
        await stripe.aclose()


async def test_a_part_of_a_whole_krona_is_rejected(account: StripeStandIn, stripe: Stripe) -> None:
    event = account.pay("CZ1042", 500, "isk")
    account.objects["payment_intent"][about(event)]["amount_received"] = 550
    with pytest.raises(Rejected, match="finer than the smallest unit of ISK"):
        await stripe.truth(body(event))


@pytest.mark.parametrize("stored", [b"", b"hello", b"[]", b"{}", b"\xff"])
async def test_a_stored_body_that_is_no_event_is_one_of_our_errors(stripe: Stripe, stored: bytes) -> None:
    with pytest.raises(OutsideError):
        await stripe.truth(stored)


# Polling


def many(account: StripeStandIn, count: int, *, since: datetime = EARLIER) -> list[str]:
    """Make events, three of them in each second, and return their ids, the oldest first."""
    return [account.pay(f"CZ{n}", 100, now=since + timedelta(seconds=n // 3))["id"] for n in range(count)]


def ids(page: Page) -> list[str]:
    return [external_id for external_id, _ in page.events]


async def poll(stripe: Stripe, cursor: str | None = None, *, now: datetime = NOW) -> tuple[list[list[str]], str]:
    """Fetch until there is no more; return the ids of each page, and the last cursor."""
    pages: list[list[str]] = []
    more = True
    while more:
        page = await stripe.fetch(cursor, now=now)
        pages.append(ids(page))
        cursor, more = page.cursor, page.more
    assert cursor is not None
    return pages, cursor


def joined(polled: tuple[list[list[str]], str]) -> list[str]:
    pages, _ = polled
    return [external_id for page in pages for external_id in page]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (0, [0]),
        (1, [1]),
        (99, [99]),
        (100, [100]),
        (101, [1, 100]),
        (200, [100, 100]),
        (201, [1, 100, 100]),
        (250, [50, 100, 100]),
    ],
)
async def test_every_event_comes_once_and_the_oldest_first(
    account: StripeStandIn, stripe: Stripe, count: int, sizes: list[int]
) -> None:
    made = many(account, count)
    pages, cursor = await poll(stripe)
    assert [len(page) for page in pages] == sizes
    assert joined((pages, cursor)) == made
    assert (await poll(stripe, cursor))[0] == [[]]


async def test_polling_goes_on_from_any_page_after_a_restart(account: StripeStandIn, stripe: Stripe) -> None:
    made = many(account, 250)
    cursor: str | None = None
    taken = 0
    for size in (50, 100, 100):
        page = await stripe.fetch(cursor, now=NOW)
        async with connected(account) as restarted:
            assert await restarted.fetch(cursor, now=NOW) == page
            assert joined(await poll(restarted, page.cursor)) == made[taken + size :]
        taken += size
        cursor = page.cursor


async def test_events_that_come_between_two_pages_are_taken_in_their_turn(
    account: StripeStandIn, stripe: Stripe
) -> None:
    made = many(account, 250)
    first = await stripe.fetch(None, now=NOW)
    made += many(account, 120, since=NOW)
    rest, cursor = await poll(stripe, first.cursor, now=NOW + timedelta(minutes=5))
    assert ids(first) + joined((rest, cursor)) == made
    later = many(account, 3, since=NOW + timedelta(minutes=5))
    assert (await poll(stripe, cursor, now=NOW + timedelta(minutes=10)))[0] == [later]


async def test_what_was_polled_can_be_asked_about_as_a_webhook_can(account: StripeStandIn, stripe: Stripe) -> None:
    event = account.pay("CZ1042", 5000, now=EARLIER)
    ((external_id, raw),) = (await stripe.fetch(None, now=NOW)).events
    assert external_id == event["id"]
    assert json.loads(raw) == event
    assert await stripe.truth(raw) == await stripe.truth(body(event))


async def test_only_events_that_can_make_a_payment_are_polled(account: StripeStandIn, stripe: Stripe) -> None:
    account.fail("CZ1", 100, now=EARLIER)
    account.hold("CZ2", 100, now=EARLIER)
    paid = account.pay("CZ3", 100, now=EARLIER)
    refunded = account.refund(about(paid), now=EARLIER)
    settled = account.settle_refund(next(iter(account.objects["refund"])), now=EARLIER)
    withdrawn = account.dispute(about(paid), now=EARLIER)
    reinstated = account.win_dispute(about(withdrawn), now=EARLIER)
    assert joined(await poll(stripe)) == [event["id"] for event in (paid, refunded, settled, withdrawn, reinstated)]


async def test_an_event_listed_below_one_that_was_taken_is_not_lost(account: StripeStandIn, stripe: Stripe) -> None:
    first = many(account, 1)
    account.pay("CZ2", 100, now=NOW)
    pages, cursor = await poll(stripe, now=NOW + timedelta(seconds=10))
    assert pages == [first], "an event that is ten seconds old rests"
    late = account.pay("CZ3", 100, now=NOW - timedelta(seconds=5))
    pages, cursor = await poll(stripe, cursor, now=NOW + timedelta(seconds=31))
    assert pages == [[late["id"], account.events[1]["id"]]]
    assert (await poll(stripe, cursor, now=NOW + timedelta(hours=1)))[0] == [[]]


async def test_the_first_poll_looks_back_as_far_as_it_is_told(account: StripeStandIn) -> None:
    old = account.pay("CZ1", 100, now=NOW - timedelta(days=3, seconds=1))["id"]
    young = account.pay("CZ2", 100, now=NOW - timedelta(days=3))["id"]
    async with connected(account) as usual, connected(account, days=7) as patient:
        assert (await poll(usual))[0] == [[young]]
        assert (await poll(patient))[0] == [[old, young]]


async def test_an_account_that_was_empty_is_polled_from_where_the_first_poll_began(
    account: StripeStandIn, stripe: Stripe
) -> None:
    pages, cursor = await poll(stripe)
    assert pages == [[]]
    made = many(account, 2, since=NOW)
    assert (await poll(stripe, cursor, now=NOW + timedelta(days=10)))[0] == [made]


async def test_a_cursor_that_stripe_has_forgotten_loses_nothing(account: StripeStandIn, stripe: Stripe) -> None:
    many(account, 5)
    _, cursor = await poll(stripe)
    account.forget(account.events[-1])
    assert (await poll(stripe, cursor, now=NOW + timedelta(days=40)))[0] == [[]]
    made = many(account, 130, since=NOW + timedelta(days=40))
    assert joined(await poll(stripe, cursor, now=NOW + timedelta(days=41))) == made


async def test_a_first_poll_that_is_interrupted_takes_nothing_and_begins_again(
    account: StripeStandIn, stripe: Stripe
) -> None:
    made = many(account, 250)
    account.misbehave(Misbehavior.CUT_MIDWAY, path="/v1/events", skip=1)
    with pytest.raises(Transient):
        await stripe.fetch(None, now=NOW)
    assert joined(await poll(stripe)) == made


async def test_an_interrupted_poll_goes_on_where_it_stood(account: StripeStandIn, stripe: Stripe) -> None:
    made = many(account, 250)
    first = await stripe.fetch(None, now=NOW)
    account.misbehave(Misbehavior.STATUS_AFTER, path="/v1/events", status=500)
    with pytest.raises(Transient):
        await stripe.fetch(first.cursor, now=NOW)
    assert ids(first) + joined(await poll(stripe, first.cursor)) == made


@pytest.mark.parametrize("cursor", ["", "evt_1", "1:evt_1&limit=1", "yesterday:", "1:../x", "1:evt_1\n"])
async def test_a_cursor_of_another_shape_is_misconfigured(account: StripeStandIn, stripe: Stripe, cursor: str) -> None:
    with pytest.raises(Misconfigured, match="is not a cursor"):
        await stripe.fetch(cursor, now=NOW)
    assert not account.requests


# Payouts


async def payouts(stripe: Stripe, cursor: str | None = None, *, now: datetime = NOW) -> tuple[list[PayoutReport], str]:
    """Poll until there is no more; return the reports and the last cursor."""
    reports: list[PayoutReport] = []
    more = True
    while more:
        page = await stripe.payouts(cursor, now=now)
        reports += page.reports
        cursor, more = page.cursor, page.more
    assert cursor is not None
    return reports, cursor


def taken(report: PayoutReport) -> Payout:
    assert report.refused == ""
    assert report.payout is not None
    return report.payout


def a_payout(account: StripeStandIn, at: datetime = EARLIER, **told: Any) -> str:
    """Let a customer pay, and let that be paid out by itself; return the payout's id."""
    account.pay("CZ1042", 10000, fee=300, now=at)
    return account.pay_out(now=at, **told)["id"]


async def test_a_payout_is_told_with_gross_fees_and_net_of_each_line(account: StripeStandIn) -> None:
    first = about(account.pay("CZ1042", 100_000, fee=2_500, now=EARLIER))
    second = about(account.pay("CZ1043", 20_000, fee=525, now=EARLIER))
    account.refund(first, 30_000, fee=-200, now=EARLIER)
    dispute = about(account.dispute(second, fee=1_500, now=EARLIER))
    account.win_dispute(dispute, now=EARLIER)
    account.charge_fee(1_000, now=EARLIER)
    made = account.pay_out(trace="TR-77 1", arrives=NOW + timedelta(days=2), now=EARLIER)
    async with connected(account, name="cards") as stripe:
        ((report,), _) = await payouts(stripe)
    payout = taken(report)
    assert (payout.source, payout.external_id, payout.reference) == ("stripe:cards", made["id"], "TR-77 1")
    assert payout.paid_on == date(2026, 3, 3)
    assert [str(money) for money in (payout.gross, payout.fee, payout.net)] == ["900.00 EUR", "53.25 EUR", "846.75 EUR"]
    (refund,) = account.objects["refund"]
    withdrawn, reinstated = (one["id"] for one in account.objects["dispute"][dispute]["balance_transactions"])
    assert [
        (line.kind.value, line.gross.amount, line.fee.amount, line.net.amount, line.provider_reference)
        for line in payout.lines
    ] == [
        ("payment", "1000.00", "25.00", "975.00", first),
        ("payment", "200.00", "5.25", "194.75", second),
        ("refund", "-300.00", "-2.00", "-298.00", first),
        ("chargeback", "-200.00", "15.00", "-215.00", second),
        ("reinstated", "200.00", "0.00", "200.00", second),
        ("fee", "0.00", "10.00", "-10.00", None),
    ]
    ids_of = [line.external_id for line in payout.lines]
    assert ids_of[2:5] == [refund, withdrawn, reinstated]
    assert [line.order_reference for line in payout.lines][:2] == ["CZ1042", "CZ1043"]


async def test_a_hint_asks_for_just_what_a_webhook_would_have_told(account: StripeStandIn, stripe: Stripe) -> None:
    first = account.pay("CZ1042", 100_000, fee=2_500, now=EARLIER)
    refunded = account.refund(about(first), 30_000, now=EARLIER)
    disputed = account.dispute(about(account.pay("CZ1043", 20_000, now=EARLIER)), now=EARLIER)
    account.charge_fee(100, now=EARLIER)
    account.pay_out(now=EARLIER)
    ((report,), _) = await payouts(stripe)
    told = {line.external_id: line.kind for line in taken(report).lines}
    assert {told[id_] for id_ in report.hints} == {LineKind.PAYMENT, LineKind.REFUND, LineKind.CHARGEBACK}
    asked = [await stripe.truth(hint) for hint in report.hints.values()]
    wanted = [await stripe.truth(body(event)) for event in (first, refunded, disputed)]
    assert all(payments in asked for payments in wanted)
    for id_, hint in report.hints.items():
        if told[id_] is not LineKind.PAYMENT:
            assert [payment.external_id for payment in await stripe.truth(hint)] == [id_]


async def test_what_was_paid_before_the_first_poll_is_told_and_not_asked_about(account: StripeStandIn) -> None:
    account.pay("CZ1", 10_000, now=NOW - timedelta(days=4))
    account.pay("CZ2", 20_000, now=NOW - timedelta(days=2))
    account.pay_out(now=EARLIER)
    async with connected(account) as stripe:
        ((report,), cursor) = await payouts(stripe)
        assert [line.gross.minor for line in taken(report).lines] == [10_000, 20_000]
        assert list(report.hints) == [taken(report).lines[1].external_id]
        account.pay("CZ3", 30_000, now=NOW)
        account.pay_out(now=NOW)
        (later,), _ = await payouts(stripe, cursor, now=NOW + timedelta(days=20))
        assert len(later.hints) == 1


async def test_each_payout_comes_once_and_the_oldest_first(account: StripeStandIn, stripe: Stripe) -> None:
    made = [a_payout(account, EARLIER + timedelta(minutes=n)) for n in range(12)]
    reports, cursor = await payouts(stripe)
    assert [report.external_id for report in reports] == made
    assert (await payouts(stripe, cursor))[0] == []
    late = a_payout(account, NOW)
    assert [one.external_id for one in (await payouts(stripe, cursor, now=NOW + timedelta(days=1)))[0]] == [late]


async def test_a_payout_that_becomes_paid_after_a_younger_one_is_not_lost(
    account: StripeStandIn, stripe: Stripe
) -> None:
    slow = a_payout(account, EARLIER, status="pending")
    quick = a_payout(account, EARLIER + timedelta(minutes=5))
    reports, cursor = await payouts(stripe)
    assert [report.external_id for report in reports] == [quick]
    account.objects["payout"][slow]["status"] = "paid"
    reports, cursor = await payouts(stripe, cursor, now=NOW + timedelta(days=7))
    assert [report.external_id for report in reports] == [slow]
    assert (await payouts(stripe, cursor, now=NOW + timedelta(days=7)))[0] == []


async def test_a_payout_that_stripe_is_still_putting_together_is_waited_for(
    account: StripeStandIn, stripe: Stripe
) -> None:
    unready = a_payout(account, EARLIER, reconciled=False)
    ready = a_payout(account, EARLIER + timedelta(minutes=5))
    reports, cursor = await payouts(stripe)
    assert [report.external_id for report in reports] == [ready]
    account.objects["payout"][unready]["reconciliation_status"] = "completed"
    reports, _ = await payouts(stripe, cursor, now=NOW + timedelta(days=40))
    assert [report.external_id for report in reports] == [unready]


async def test_what_is_older_than_the_first_poll_looks_back_is_left(account: StripeStandIn, stripe: Stripe) -> None:
    a_payout(account, NOW - timedelta(days=3, seconds=1))
    young = a_payout(account, NOW - timedelta(days=3))
    assert [report.external_id for report in (await payouts(stripe))[0]] == [young]


async def test_the_cursor_does_not_grow_with_the_years(account: StripeStandIn, stripe: Stripe) -> None:
    cursor: str | None = None
    longest = 0
    for day in range(60):
        now = NOW + timedelta(days=day)
        a_payout(account, now)
        reports, cursor = await payouts(stripe, cursor, now=now)
        assert len(reports) == 1
        longest = max(longest, cursor.count("po_"))
    assert longest <= 16


async def test_a_payout_of_many_payments_is_read_page_by_page(account: StripeStandIn, stripe: Stripe) -> None:
    for n in range(230):
        account.pay(f"CZ{n}", 100, fee=1, now=EARLIER)
    account.pay_out(now=EARLIER)
    ((report,), _) = await payouts(stripe)
    assert len(taken(report).lines) == 230
    assert taken(report).net == Money(230 * 99, "EUR")


async def test_a_payout_by_hand_is_told_as_a_whole(account: StripeStandIn, stripe: Stripe) -> None:
    account.pay("CZ1042", 10_000, fee=300, now=EARLIER)
    made = account.pay_out(automatic=False, amount_minor=5_000, now=EARLIER)
    ((report,), _) = await payouts(stripe)
    assert [(line.external_id, line.kind, str(line.net)) for line in taken(report).lines] == [
        (made["id"], LineKind.OTHER, "50.00 EUR")
    ]
    assert not any(seen.path.endswith("/balance_transactions") for seen in account.requests)


async def test_a_payout_that_debits_the_account_is_negative(account: StripeStandIn, stripe: Stripe) -> None:
    paid = account.pay("CZ1042", 10_000, now=EARLIER)
    account.pay_out(now=EARLIER)
    account.refund(about(paid), now=EARLIER)
    account.pay_out(now=EARLIER)
    reports, _ = await payouts(stripe)
    assert [str(taken(report).net) for report in reports] == ["100.00 EUR", "-100.00 EUR"]


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"type": "reserve_hold", "amount": -500, "net": -500}, LineKind.OTHER),
        ({"type": "payout_failure", "source": "po_0"}, LineKind.OTHER),
        ({"type": "never heard of"}, LineKind.OTHER),
        ({"type": "payment"}, LineKind.PAYMENT),
        ({"type": "refund"}, LineKind.OTHER),
        ({"type": "charge", "amount": -500, "net": -500}, LineKind.OTHER),
        ({"type": "tax_fee", "amount": -500, "net": -500, "source": None}, LineKind.FEE),
        ({"type": "charge", "source": "ch_unknown"}, LineKind.PAYMENT),
    ],
)
async def test_whatever_is_set_off_keeps_the_sums_right(
    account: StripeStandIn, stripe: Stripe, changed: Json, kind: LineKind
) -> None:
    account.pay("CZ1042", 10_000, now=EARLIER)
    account.pay("CZ1043", 500, now=EARLIER)
    list(account.objects["balance_transaction"].values())[-1].update(changed)
    account.pay_out(now=EARLIER)
    ((report,), _) = await payouts(stripe)
    assert [line.kind for line in taken(report).lines] == [LineKind.PAYMENT, kind]


async def test_a_refund_that_failed_is_no_refund(account: StripeStandIn, stripe: Stripe) -> None:
    paid = account.pay("CZ1042", 10_000, now=EARLIER)
    account.refund(about(paid), 1_000, status="failed", now=EARLIER)
    account.pay_out(now=EARLIER)
    ((report,), _) = await payouts(stripe)
    assert [line.kind for line in taken(report).lines] == [LineKind.PAYMENT, LineKind.OTHER]


async def test_a_payment_in_another_currency_is_told_in_that_of_the_payout(
    account: StripeStandIn, stripe: Stripe
) -> None:
    paid = about(account.pay("CZ1042", 100_000, "czk", now=EARLIER))
    booked = list(account.objects["balance_transaction"].values())[-1]
    booked |= {"amount": 4_000, "fee": 100, "net": 3_900, "currency": "eur", "exchange_rate": 0.04}
    account.pay_out(now=EARLIER)
    ((report,), _) = await payouts(stripe)
    (line,) = taken(report).lines
    assert (str(line.gross), line.provider_reference) == ("40.00 EUR", paid)
    (hint,) = report.hints.values()
    assert [str(payment.amount) for payment in await stripe.truth(hint)] == ["1000.00 CZK"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"net": 9_999}, "gross 100.00 less fee 3.00 is not net 99.99"),
        ({"amount": 9_000, "net": 8_700}, "net: it says 97.00 EUR, but its lines come to 87.00 EUR"),
        ({"currency": "usd"}, "it is in USD, but the payout is in EUR"),
        ({"currency": "xxx"}, "not an ISO 4217 currency code"),
        ({"amount": "much"}, "an object of Stripe's can't be read: amount"),
    ],
)
async def test_a_payout_that_can_not_be_right_is_refused_and_stops_no_other(
    account: StripeStandIn, stripe: Stripe, changed: Json, said: str
) -> None:
    bad = a_payout(account)
    good = a_payout(account, EARLIER + timedelta(minutes=5))
    next(iter(account.objects["balance_transaction"].values())).update(changed)
    reports, cursor = await payouts(stripe)
    assert [report.external_id for report in reports] == [bad, good]
    assert reports[0].payout is None
    assert said in reports[0].refused
    assert taken(reports[1])
    assert (await payouts(stripe, cursor))[0] == []


async def test_what_is_kept_of_a_payout_has_nothing_of_its_customers(account: StripeStandIn, stripe: Stripe) -> None:
    account.pay("CZ1042", 10_000, now=EARLIER)
    (charge,) = account.objects["charge"].values()
    charge["billing_details"] = {"name": "Božena", "email": "bozena@example.com"}
    account.pay_out(now=EARLIER)
    ((report,), _) = await payouts(stripe)
    assert b"example.com" not in report.body
    assert json.loads(report.body)["balance_transactions"][0]["source"]["id"] == charge["id"]


async def test_an_interrupted_poll_of_payouts_takes_nothing_twice(account: StripeStandIn, stripe: Stripe) -> None:
    made = [a_payout(account, EARLIER + timedelta(minutes=n)) for n in range(7)]
    first = await stripe.payouts(None, now=NOW)
    account.misbehave(Misbehavior.CUT_MIDWAY, path="/v1/balance_transactions", skip=1)
    with pytest.raises(Transient):
        await stripe.payouts(first.cursor, now=NOW)
    rest, _ = await payouts(stripe, first.cursor)
    assert [report.external_id for report in (*first.reports, *rest)] == made


@pytest.mark.parametrize("cursor", ["1", "1:2", "a:2:", "1:2:po_1;po_2", "1:2:po_1,", "1:2:../x", "1:2:\n"])
async def test_a_cursor_of_payouts_of_another_shape_is_misconfigured(stripe: Stripe, cursor: str) -> None:
    with pytest.raises(Misconfigured, match="is not a cursor"):
        await stripe.payouts(cursor, now=NOW)


async def test_payouts_that_are_switched_off_are_not_asked_for(account: StripeStandIn) -> None:
    a_payout(account)
    async with connected(account, payouts=False) as stripe:
        assert await payouts(stripe) == ([], "")
        await stripe.check()
    assert {seen.path for seen in account.requests} == {"/v1/events"}


async def test_a_check_finds_a_key_that_may_not_read_payouts(account: StripeStandIn, stripe: Stripe) -> None:
    account.misbehave(Misbehavior.STATUS_BEFORE, path="/v1/payouts", status=403)
    with pytest.raises(Misconfigured, match="answered 403"):
        await stripe.check()
    assert "accepts the key" in await stripe.check()


def test_the_gateway_is_known_by_its_name_unless_another_is_set_up() -> None:
    assert Stripe(config()).payout_payers == ("STRIPE",)
    assert Stripe(config(name="cards", payout_payers=["CZ65 0800"])).payout_payers == ("CZ65 0800",)
    assert Stripe(config(name="cards")).payout_source == "stripe:cards"
    with pytest.raises(ValidationError):
        config(payout_payers=["S"])


# The stand-in is as strict as Stripe


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/events?limit=0", 400, "parameter_invalid_integer"),
        ("/events?limit=101", 400, "parameter_invalid_integer"),
        ("/events?limit=ten", 400, "parameter_invalid_integer"),
        ("/events?page=2", 400, "parameter_unknown"),
        ("/events?created[since]=1", 400, "parameter_unknown"),
        ("/events?starting_after=evt_none", 400, "resource_missing"),
        ("/events?starting_after=a&ending_before=b", 400, None),
        ("/refunds?order=1", 400, "parameter_unknown"),
        ("/refunds?payment_intent=pi_none", 404, "resource_missing"),
        ("/payment_intents/pi_none", 404, "resource_missing"),
        ("/charges/ch_none", 404, "resource_missing"),
        ("/charges/ch_none?limit=1", 400, "parameter_unknown"),
        ("/payouts?status=lost", 400, None),
        ("/payouts?payout=po_1", 400, "parameter_unknown"),
        ("/balance_transactions?payout=po_none", 404, "resource_missing"),
        ("/balance_transactions?expand[]=data.payout", 400, None),
        ("/balance_transactions?status=paid", 400, "parameter_unknown"),
        ("/customers", 404, None),
    ],
)
async def test_the_stand_in_refuses_what_stripe_refuses(
    account: StripeStandIn, path: str, status: int, code: str | None
) -> None:
    account.pay("CZ1042", 100)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {account.api_key}"}) as client:
        response = await client.get(account.base_url + path)
        unknown = await client.get(account.base_url + path, headers={"Authorization": "Bearer sk_other"})
    assert (response.status_code, response.json()["error"].get("code")) == (status, code)
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert unknown.status_code == (404 if path == "/customers" else 401)
