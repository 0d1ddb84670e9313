"""What every gateway that lists its movements keeps to: all of them, once, alike to what its webhooks make of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from connectors.errors import Misconfigured, Transient
from connectors.roles import TransactionSource, WebhookReader
from connectors.stripe import Stripe, StripeConfig
from deployments.sandbox.standin import Misbehavior
from deployments.sandbox.stripe import StripeStandIn
from domain.payments import Kind
from domain.reconciliation import Transaction

NOW = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
SINCE = NOW - timedelta(days=30)


class Source(TransactionSource, WebhookReader, Protocol):
    """A gateway as reconciliation uses it: it lists what moved, and explains each of these by itself."""


@dataclass(frozen=True)
class Case:
    """A gateway, its stand-in, and how its customers pay: (order, amount, time) to the id of what they paid by."""

    source: Source
    standin: StripeStandIn
    pays: Callable[[str, int, datetime], str]


@pytest.fixture(params=["stripe"])
async def case() -> AsyncGenerator[Case]:
    async with StripeStandIn() as account:
        config = StripeConfig(
            name="stripe",
            home=Path(),
            api_key=account.api_key,  # type: ignore[arg-type]
            webhook_secret=account.webhook_secret,  # type: ignore[arg-type]
            base_url=account.base_url,
        )

        def pays(order: str, minor: int, now: datetime) -> str:
            return str(account.pay(order, minor, "eur", now=now)["data"]["object"]["id"])

        stripe = Stripe(config)
        yield Case(stripe, account, pays)
        await stripe.aclose()


async def listed(case: Case, since: datetime = SINCE) -> dict[str, Transaction]:
    """Return what is listed, each once."""
    found: dict[str, Transaction] = {}
    async for page in case.source.transactions(since):
        for one in page:
            assert one.external_id not in found
            found[one.external_id] = one
    return found


async def test_it_plays_the_role_and_says_under_what_its_payments_are_stored(case: Case) -> None:
    assert isinstance(case.source, TransactionSource)
    assert case.source.transaction_source == "stripe:stripe"


async def test_an_account_in_which_nothing_moved_lists_nothing(case: Case) -> None:
    assert await listed(case) == {}


async def test_a_payment_is_listed_with_its_amount_and_its_time(case: Case) -> None:
    id_ = case.pays("E1", 45_000, NOW)
    (one,) = (await listed(case)).values()
    assert (one.external_id, one.kind, str(one.amount)) == (id_, Kind.PAYMENT, "450.00 EUR")
    assert (one.at, one.settled, one.state) == (NOW, True, "succeeded")


async def test_more_than_a_page_is_listed_to_its_end(case: Case) -> None:
    ids = {case.pays(f"E{n}", 100 + n, NOW - timedelta(minutes=n)) for n in range(250)}
    assert set(await listed(case)) == ids


async def test_what_was_before_is_not_listed(case: Case) -> None:
    case.pays("E1", 100, SINCE - timedelta(seconds=1))
    id_ = case.pays("E2", 200, SINCE)
    assert set(await listed(case)) == {id_}


async def test_an_attempt_that_failed_brought_no_money_and_is_listed_so(case: Case) -> None:
    case.standin.fail("E1", 45_000, "eur", now=NOW)
    case.standin.hold("E2", 45_000, "eur", now=NOW)
    assert [(one.settled, one.state) for one in (await listed(case)).values()] == [
        (False, "requires_capture"),
        (False, "requires_payment_method"),
    ]


async def test_a_refund_is_a_movement_of_its_own_and_settled_once_it_has_come_to_its_end(case: Case) -> None:
    id_ = case.pays("E1", 45_000, NOW)
    case.standin.refund(id_, 10_000, now=NOW)
    case.standin.refund(id_, 5_000, status="pending", now=NOW)
    refunds = [one for one in (await listed(case)).values() if one.kind is Kind.REFUND]
    assert {(str(one.amount), one.settled) for one in refunds} == {("-100.00 EUR", True), ("-50.00 EUR", False)}


async def test_a_dispute_is_its_movements_each_on_its_own_day(case: Case) -> None:
    began = SINCE - timedelta(days=60)
    id_ = case.pays("E1", 45_000, began)
    dispute = case.standin.dispute(id_, payout_currency="usd", now=began)["data"]["object"]["id"]
    case.standin.win_dispute(dispute, payout_currency="usd", now=NOW)
    (one,) = (await listed(case)).values()
    assert (one.kind, str(one.amount), one.at) == (Kind.REINSTATED, "450.00 EUR", NOW)


async def test_what_is_asked_about_a_movement_is_what_its_webhook_would_have_told(case: Case) -> None:
    id_ = case.pays("E1", 45_000, NOW)
    case.standin.refund(id_, 10_000, now=NOW)
    case.standin.dispute(id_, now=NOW)
    found = await listed(case)
    assert {one.kind for one in found.values()} == {Kind.PAYMENT, Kind.REFUND, Kind.CHARGEBACK}
    for one in found.values():
        assert one.event is not None
        told = {payment.external_id: payment for payment in await case.source.truth(one.event)}
        payment = told[one.external_id]
        assert (payment.kind, payment.amount, payment.booked_on) == (one.kind, one.amount, one.at.date())
        assert payment.source == case.source.transaction_source
        assert payment.order_reference == "E1"


@pytest.mark.parametrize(
    ("status", "error"), [(429, Transient), (500, Transient), (503, Transient), (401, Misconfigured)]
)
async def test_an_answer_that_does_not_come_is_an_error_and_not_the_end_of_the_list(
    case: Case, status: int, error: type[Exception]
) -> None:
    case.pays("E1", 45_000, NOW)
    case.standin.misbehave(Misbehavior.STATUS_BEFORE, status=status, times=None)
    with pytest.raises(error):
        await listed(case)


async def test_a_list_that_breaks_off_in_the_middle_is_an_error_too(case: Case) -> None:
    for n in range(150):
        case.pays(f"E{n}", 100 + n, NOW)
    pages = case.source.transactions(SINCE)
    assert len(await anext(pages)) == 100
    case.standin.misbehave(Misbehavior.STATUS_BEFORE, status=429, times=None)
    with pytest.raises(Transient):
        await anext(pages)
