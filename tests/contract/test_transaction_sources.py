"""What every gateway that lists its movements keeps to: all of them, once, alike to what its webhooks make of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from connectors.errors import Misconfigured, Transient
from connectors.roles import TransactionSource, WebhookReader
from connectors.stripe import Stripe, StripeConfig
from connectors.wayforpay import WayForPay, WayForPayConfig
from connectors.yookassa import YooKassa, YooKassaConfig
from deployments.sandbox.standin import Misbehavior, StandIn
from deployments.sandbox.stripe import StripeStandIn
from deployments.sandbox.wayforpay import WayForPayStandIn
from deployments.sandbox.yookassa import YooKassaStandIn
from domain.money import Money
from domain.payments import IncomingPayment, Kind
from domain.reconciliation import Transaction

NOW = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
SINCE = NOW - timedelta(days=30)


class Source(TransactionSource, WebhookReader, Protocol):
    """A gateway as reconciliation uses it: it lists what moved, and explains each of these by itself."""


@dataclass(frozen=True)
class Case:
    """A gateway, its stand-in, and how its customers pay: (order, amount, time) to the id of what they paid by.

    fails and holds are attempts that bring no money, refunds gives a part back, disputes takes all back where there are
    disputes. paid is the gateway's word for what was paid, unpaid are those for the two attempts.
    """

    source: Source
    name: str
    standin: StandIn
    pays: Callable[[str, int, datetime], str]
    fails: Callable[[str, int, datetime], object]
    holds: Callable[[str, int, datetime], object]
    refunds: Callable[[str, int, datetime], object]
    disputes: Callable[[str, datetime], object] | None
    paid: str
    unpaid: frozenset[str]


@asynccontextmanager
async def stripe(home: Path) -> AsyncGenerator[Case]:
    async with StripeStandIn() as account:
        config = StripeConfig(
            name="stripe",
            home=home,
            api_key=account.api_key,  # type: ignore[arg-type]
            webhook_secret=account.webhook_secret,  # type: ignore[arg-type]
            base_url=account.base_url,
        )
        source = Stripe(config)
        yield Case(
            source,
            "stripe:stripe",
            account,
            pays=lambda order, minor, now: str(account.pay(order, minor, "eur", now=now)["data"]["object"]["id"]),
            fails=lambda order, minor, now: account.fail(order, minor, "eur", now=now),
            holds=lambda order, minor, now: account.hold(order, minor, "eur", now=now),
            refunds=lambda id_, minor, now: account.refund(id_, minor, now=now),
            disputes=lambda id_, now: account.dispute(id_, now=now),
            paid="succeeded",
            unpaid=frozenset({"requires_capture", "requires_payment_method"}),
        )
        await source.aclose()


@asynccontextmanager
async def wayforpay(home: Path) -> AsyncGenerator[Case]:
    async with WayForPayStandIn() as gateway:
        config = WayForPayConfig(
            name="cards",
            home=home,
            merchant_account=gateway.account,
            secret_key=gateway.key,  # type: ignore[arg-type]
            base_url=gateway.url,
        )
        gateway.time = NOW
        source = WayForPay(config, clock=lambda: NOW + timedelta(minutes=1))

        def major(minor: int) -> str:
            return str(Money(minor, "EUR").decimal)

        yield Case(
            source,
            "wayforpay:cards",
            gateway,
            pays=lambda order, minor, now: str(gateway.pay(order, major(minor), "EUR", now=now)["orderReference"]),
            fails=lambda order, minor, now: gateway.fail(order, major(minor), "EUR", now=now),
            holds=lambda order, minor, now: gateway.hold(order, major(minor), "EUR", now=now),
            refunds=lambda id_, minor, now: gateway.refund(id_, major(minor), now=now),
            disputes=None,
            paid="Approved",
            unpaid=frozenset({"Declined", "WaitingAuthComplete"}),
        )
        await source.aclose()


@asynccontextmanager
async def yookassa(home: Path) -> AsyncGenerator[Case]:
    async with YooKassaStandIn() as shop:
        config = YooKassaConfig(
            name="kassa",
            home=home,
            shop_id=shop.shop_id,
            secret_key=shop.secret_key,  # type: ignore[arg-type]
            base_url=shop.base_url,
        )
        shop.time = NOW
        source = YooKassa(config)
        yield Case(
            source,
            "yookassa:kassa",
            shop,
            pays=lambda order, minor, now: str(shop.pay(order, minor, "EUR", now=now)["object"]["id"]),
            fails=lambda order, minor, now: shop.fail(order, minor, "EUR", now=now),
            holds=lambda order, minor, now: shop.hold(order, minor, "EUR", now=now),
            refunds=lambda id_, minor, now: shop.refund(id_, minor, now=now),
            disputes=None,
            paid="succeeded",
            unpaid=frozenset({"canceled", "waiting_for_capture"}),
        )
        await source.aclose()


@pytest.fixture(params=[stripe, wayforpay, yookassa])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Case]:
    make: Callable[[Path], AbstractAsyncContextManager[Case]] = request.param
    async with make(tmp_path) as made:
        yield made


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
    assert case.source.transaction_source == case.name


async def test_an_account_in_which_nothing_moved_lists_nothing(case: Case) -> None:
    assert await listed(case) == {}


async def test_a_payment_is_listed_with_its_amount_and_its_time(case: Case) -> None:
    id_ = case.pays("E1", 45_000, NOW)
    (one,) = (await listed(case)).values()
    assert (one.external_id, one.kind, str(one.amount)) == (id_, Kind.PAYMENT, "450.00 EUR")
    assert (one.at, one.settled, one.state) == (NOW, True, case.paid)


async def test_more_than_a_page_is_listed_to_its_end(case: Case) -> None:
    ids = {case.pays(f"E{n}", 100 + n, NOW - timedelta(minutes=n)) for n in range(250)}
    assert set(await listed(case)) == ids


async def test_what_was_before_is_not_listed(case: Case) -> None:
    case.pays("E1", 100, SINCE - timedelta(seconds=1))
    id_ = case.pays("E2", 200, SINCE)
    assert set(await listed(case)) == {id_}


async def test_an_attempt_that_failed_brought_no_money_and_is_listed_so(case: Case) -> None:
    case.fails("E1", 45_000, NOW)
    case.holds("E2", 45_000, NOW)
    found = (await listed(case)).values()
    assert sorted((one.settled, one.state) for one in found) == sorted((False, state) for state in case.unpaid)


async def test_each_refund_is_a_movement_of_its_own(case: Case) -> None:
    id_ = case.pays("E1", 45_000, NOW)
    for minor in (10_000, 5_000):
        case.refunds(id_, minor, NOW)
        await listed(case)  # some tell only the sum: two refunds between which nobody looks are one to them
    refunds = [one for one in (await listed(case)).values() if one.kind is Kind.REFUND]
    assert sorted((str(one.amount), one.settled) for one in refunds) == [("-100.00 EUR", True), ("-50.00 EUR", True)]


@pytest.mark.parametrize("case", [stripe], indirect=True)
async def test_a_refund_is_settled_once_it_has_come_to_its_end(case: Case) -> None:
    assert isinstance(case.standin, StripeStandIn)
    case.standin.refund(case.pays("E1", 45_000, NOW), 5_000, status="pending", now=NOW)
    (one,) = (one for one in (await listed(case)).values() if one.kind is Kind.REFUND)
    assert (str(one.amount), one.settled) == ("-50.00 EUR", False)


@pytest.mark.parametrize("case", [stripe], indirect=True)
async def test_a_dispute_is_its_movements_each_on_its_own_day(case: Case) -> None:
    assert isinstance(case.standin, StripeStandIn)
    began = SINCE - timedelta(days=60)
    id_ = case.pays("E1", 45_000, began)
    dispute = case.standin.dispute(id_, payout_currency="usd", now=began)["data"]["object"]["id"]
    case.standin.win_dispute(dispute, payout_currency="usd", now=NOW)
    (one,) = (await listed(case)).values()
    assert (one.kind, str(one.amount), one.at) == (Kind.REINSTATED, "450.00 EUR", NOW)


async def test_what_is_asked_about_a_movement_is_what_its_webhook_would_have_told(case: Case) -> None:
    id_ = case.pays("E1", 45_000, NOW)
    case.refunds(id_, 10_000, NOW)
    if case.disputes is not None:
        case.disputes(id_, NOW)
    found = await listed(case)
    disputed = {Kind.CHARGEBACK} if case.disputes else set[Kind]()
    assert {one.kind for one in found.values()} == {Kind.PAYMENT, Kind.REFUND} | disputed
    for one in found.values():
        assert one.event is not None
        told = await case.source.truth(one.event)
        (payment,) = (
            paid for paid in told if isinstance(paid, IncomingPayment) and paid.external_id == one.external_id
        )
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
    assert len(await anext(pages)) < 150
    case.standin.misbehave(Misbehavior.STATUS_BEFORE, status=429, times=None)
    with pytest.raises(Transient):
        await anext(pages)
