"""Reconciliation through a real Prefect: what differs between the sides is shown by name, and a clean shop is clean."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
import yaml
from PIL import Image
from prefect import State, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from shop_builders import (
    EMAIL,
    NAME,
    NOW,
    PAYER,
    Clock,
    buy,
    cancel,
    carry_on,
    order_of,
    pay,
    payment_of,
    shop,
    steps_of,
    take_payments,
)
from sqlalchemy import text

from connectors.errors import Transient
from deployments.dispatcher import Dispatcher
from deployments.sample_shop import SAMPLE, fill, prepare
from deployments.sandbox.standin import Misbehavior
from deployments.sandbox.stripe import StripeStandIn
from domain.money import Money
from domain.orders import Status
from domain.payments import Kind
from domain.reconciliation import ListedDocument, ListedOrder
from domain.rules import DocumentKind
from flows.reconcile import reconcile
from tasks.installation import Installation
from tasks.intake import poll, take_statement

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """A run of reconciliation: how it ended, and what it showed."""

    state: State[Any]
    artifacts: dict[str, Artifact]

    @property
    def rows(self) -> list[dict[str, str]]:
        return table(self.artifacts["reconciliation-differences"])

    @property
    def what(self) -> list[str]:
        """The kinds of differences and alarms, in the order shown."""
        return [row["What"] for row in self.rows]

    @property
    def description(self) -> str:
        return str(self.artifacts["reconciliation-differences"].description)

    def only(self) -> dict[str, str]:
        (row,) = self.rows
        return row


def table(artifact: Artifact) -> list[dict[str, str]]:
    return cast("list[dict[str, str]]", json.loads(cast("str", artifact.data)))


async def run(days: int = 30) -> Ran:
    """Run the flow as its deployment does."""
    started: Any = reconcile
    state = cast("State[Any]", await started(days, return_state=True))
    run_id: UUID | None = state.state_details.flow_run_id
    assert run_id is not None
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        )
    return Ran(state, {artifact.key or "": artifact for artifact in found})


async def change(opened: Installation, sql: str, **values: Any) -> None:
    """Change rows behind everybody's back."""
    async with opened.store.write() as connection:
        await connection.execute(text(sql), values)


async def rest(opened: Installation) -> None:
    """Let everything that is due be carried on."""
    await Dispatcher(opened).work_off()


async def sell(opened: Installation, number: str = "CZ5001", method: str = "card", **fields: Any) -> int:
    """Sell an order and have it paid and carried on to its end; return its id."""
    order_id = await buy(opened, number, method, **fields)
    await pay(opened, number, method=method)
    await rest(opened)
    return order_id


# The sample shop.


async def _sample(home: Path) -> tuple[Ran, Ran, str]:
    """Carry the whole sample shop to its end, and reconcile it twice; return also what was told of its payments."""
    clock = Clock()
    async with StripeStandIn() as stripe:
        prepare(home, stripe)
        async with shop(home, clock=clock) as opened:
            await fill(opened)
            await rest(opened)
            for row in json.loads((SAMPLE / "stripe.json").read_text(encoding="utf-8")):
                stripe.pay(row["order"], row["amount"], row["currency"], now=clock())
            clock.forward(minutes=1)
            await poll(opened)
            await rest(opened)
            for file in sorted(path for path in (SAMPLE / "statements").rglob("*") if path.is_file()):
                await take_statement(opened, file.read_bytes(), file.name)
                await rest(opened)
            clock.forward(hours=1)
            first = await run()
            await rest(opened)
            return first, await run(), yaml.safe_dump(opened.settings)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Ran, str]:
    return asyncio.run(_sample(tmp_path_factory.mktemp("sample") / "shop"))


def test_the_sample_shop_has_no_difference_and_nothing_old(sample: tuple[Ran, Ran, str]) -> None:
    for ran in sample[:2]:
        assert ran.rows == []
        assert (ran.state.type.value, ran.state.name) == ("FAILED", "Needs a person")
        assert (ran.state.message or "").startswith("0 differences, 0 alarms; ")


def test_it_is_told_what_was_compared_so_that_nothing_found_is_not_nothing_looked_at(
    sample: tuple[Ran, Ran, str],
) -> None:
    said = sample[0].description
    assert "gateway stripe: 13 movements there, 13 here" in said
    assert "bank: 6 files with 7 statements of 4 accounts" in said
    assert "shop: 69 orders with payments and documents" in said
    assert "accounting: " in said


def test_the_picture_is_in_the_log_with_its_figures_as_tables(sample: tuple[Ran, Ran, str]) -> None:
    shown = str(sample[0].artifacts["payments-by-week"].data)
    alt, _, rest_ = shown.partition("](data:image/png;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(rest_.partition(")")[0])))
    assert (picture.format, picture.width) == ("PNG", 1200)
    assert alt.startswith("![Bars of 78 payments in 12 weeks by outcome")
    for title in ("Payments", "Sums in CZK", "Sums in EUR", "Sums in RON"):
        assert f"**{title}**" in shown
    assert "| Week of | exact | within tolerance |" in shown


def test_nothing_personal_is_in_what_is_shown(sample: tuple[Ran, Ran, str]) -> None:
    orders = json.loads((SAMPLE / "orders.json").read_text(encoding="utf-8"))
    personal = {str(order["customer"][field]) for order in orders for field in ("name", "email", "phone")} - {"None"}
    first = sample[0]
    shown = json.dumps(
        [(one.data, one.description) for key, one in first.artifacts.items() if key != "needs-a-person"],
        ensure_ascii=False,
    )
    assert [one for one in personal if one in shown] == []


# Gateway.


@dataclass
class Gateway:
    """A shop that is paid through Stripe."""

    opened: Installation
    stripe: StripeStandIn
    clock: Clock

    async def paid(self, number: str = "CZ5001", *, told: bool = True) -> str:
        """Sell an order and have it paid at the gateway, an hour ago; told says whether we hear of it."""
        await buy(self.opened, number)
        event = self.stripe.pay(number, 37_800, "czk", now=self.clock())
        if not told:
            self.stripe.forget(event)
        self.clock.forward(hours=1)
        await poll(self.opened)
        await rest(self.opened)
        self.clock.forward(minutes=1)
        return str(event["data"]["object"]["id"])


@asynccontextmanager
async def _gateway(home: Path, clock: Clock) -> AsyncGenerator[Gateway]:
    async with StripeStandIn() as stripe:
        connector = {"name": "stripe", "type": "stripe", "base_url": stripe.base_url, "api_key": stripe.api_key}
        connector["webhook_secret"] = stripe.webhook_secret
        (home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": [connector]}), encoding="utf-8")
        async with shop(home, clock=clock) as opened:
            yield Gateway(opened, stripe, clock)


@pytest.fixture
async def gateway(stocked: Path, tmp_path: Path, clock: Clock) -> AsyncGenerator[Gateway]:
    shutil.copytree(stocked, tmp_path / "shop")
    async with _gateway(tmp_path / "shop", clock) as made:
        yield made


async def test_a_payment_that_both_sides_have_is_no_difference(gateway: Gateway) -> None:
    await gateway.paid()
    ran = await run()
    assert (ran.rows, ran.state.name) == ([], "Done")


async def test_a_payment_that_only_the_gateway_has_is_told_and_taken_in_once(gateway: Gateway) -> None:
    id_ = await gateway.paid(told=False)
    ran = await run()
    row = ran.only()
    assert (row["Compared"], row["What"], row["Which"]) == ("gateway", "missing here", id_)
    assert row["The one says"] == "stripe says payment of 378.00 CZK, succeeded"
    assert row["Since"] == NOW.date().isoformat()
    assert ran.state.name == "Needs a person"
    assert (ran.state.message or "").startswith("1 difference, 0 alarms: 1 missing here; ")
    again = (await run()).only()
    assert "was to be taken in before" in again["What to do"]
    await rest(gateway.opened)
    assert (await run()).rows == []
    async with gateway.opened.store.read() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM payments")) == 1
        assert await connection.scalar(text("SELECT status FROM orders")) == "paid"


async def test_a_refund_at_the_gateway_that_nobody_told_us_of_is_told(gateway: Gateway) -> None:
    id_ = await gateway.paid()
    gateway.stripe.forget(gateway.stripe.refund(id_, now=gateway.clock()))
    gateway.clock.forward(hours=1)
    row = (await run()).only()
    assert (row["What"], row["The one says"]) == ("missing here", "stripe says refund of -378.00 CZK, succeeded")
    await rest(gateway.opened)
    assert (await run()).what == []


async def test_another_amount_at_the_gateway_and_a_payment_that_it_calls_off_are_told(gateway: Gateway) -> None:
    first, second = await gateway.paid("CZ5001"), await gateway.paid("CZ5002")
    gateway.stripe.objects["payment_intent"][first]["amount_received"] = 30_000
    gateway.stripe.objects["payment_intent"][second]["status"] = "canceled"
    assert sorted((await run()).what) == ["amount", "state"]


async def test_a_payment_that_the_gateway_does_not_know_is_told(gateway: Gateway) -> None:
    await gateway.paid()
    await buy(gateway.opened, "CZ5002")
    known = await take_payments(gateway.opened, payment_of("CZ5002", source="stripe:stripe", external_id="pi_unknown1"))
    await rest(gateway.opened)
    gateway.clock.forward(hours=1)
    row = (await run()).only()
    assert (row["What"], row["Which"]) == ("missing there", f"payment {known[0]}")
    assert row["The one says"] == "stripe does not list pi_unknown1"


async def test_a_gateway_that_lists_nothing_at_all_is_told_once(gateway: Gateway) -> None:
    for number in ("CZ5001", "CZ5002"):
        await gateway.paid(number)
    gateway.stripe.objects["payment_intent"].clear()
    row = (await run()).only()
    assert (row["What"], row["The other says"]) == ("nothing there", "here are 2 payments of it")


async def test_a_gateway_that_asks_to_wait_is_not_taken_for_one_that_has_nothing(gateway: Gateway) -> None:
    await gateway.paid()
    gateway.stripe.misbehave(Misbehavior.STATUS_BEFORE, status=429, times=None, path="/v1/payment_intents")
    ran = await run()
    assert (ran.state.is_failed(), ran.state.name) == (True, "Needs a person")
    assert ran.rows == []
    assert "gateway stripe could not be compared: stripe: answered 429" in ran.description
    gateway.stripe.misbehave(Misbehavior.STATUS_BEFORE, status=429, times=None)
    ran = await run()
    assert "stripe: failed: stripe: answered 429" in (ran.state.message or "")


class Defective:
    """A gateway with a defect."""

    transaction_source = "test"

    async def transactions(self, since: datetime) -> AsyncIterator[Sequence[Any]]:
        raise KeyError(f"{since}")
        yield ()


async def test_one_side_that_fails_stops_no_other(gateway: Gateway) -> None:
    await gateway.paid(told=False)
    working = gateway.opened.connectors.pop("stripe")
    gateway.opened.connectors.update({"defective": Defective(), "stripe": working})
    ran = await run()
    assert ran.what == ["missing here"]
    assert "gateway defective could not be compared: unexpected KeyError" in ran.description
    assert ran.state.is_failed()


async def test_what_was_before_the_days_asked_for_is_not_compared(gateway: Gateway) -> None:
    await gateway.paid(told=False)
    gateway.clock.forward(days=20)
    await poll(gateway.opened)
    assert "missing here" not in (await run(days=5)).what
    assert "missing here" in (await run(days=30)).what


# Bank.

CSV = "booked_on,amount,currency,bank_reference,remittance"


def camt(day: int, opening: str, closing: str, *amounts: str) -> bytes:
    """Write a statement of a day in November 2026, as a bank does."""

    def balance(kind: str, amount: str) -> str:
        return (
            f'<Bal><Tp><CdOrPrtry><Cd>{kind}</Cd></CdOrPrtry></Tp><Amt Ccy="CZK">{amount}</Amt>'
            f"<CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-11-{day:02}</Dt></Dt></Bal>"
        )

    entries = [
        f'<Ntry><Amt Ccy="CZK">{amount}</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts>BOOK</Sts><BookgDt>'
        f"<Dt>2026-11-{day:02}</Dt></BookgDt><AcctSvcrRef>B-{day}-{place}</AcctSvcrRef></Ntry>"
        for place, amount in enumerate(amounts)
    ]
    return (
        '<?xml version="1.0"?><Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.02"><BkToCstmrStmt><Stmt>'
        "<Acct><Id><IBAN>CZ6508000000192000145399</IBAN></Id></Acct>"
        f"{balance('OPBD', opening)}{balance('CLBD', closing)}{''.join(entries)}</Stmt></BkToCstmrStmt></Document>"
    ).encode()


async def test_statements_that_follow_each_other_are_no_difference_also_where_nothing_moved(
    opened: Installation,
) -> None:
    for file in (camt(16, "10.00", "15.00", "5.00"), camt(17, "15.00", "15.00"), camt(18, "15.00", "16.00", "1.00")):
        await take_statement(opened, file, "statement.xml")
    await rest(opened)
    ran = await run()
    assert ran.rows == []
    assert "bank: 3 files with 3 statements of 1 account" in ran.description


async def test_a_missing_statement_and_one_that_does_not_add_up_are_told(opened: Installation) -> None:
    await take_statement(opened, camt(16, "10.00", "15.00", "5.00"), "1.xml")
    await take_statement(opened, camt(18, "20.00", "26.00", "5.00"), "2.xml")
    await rest(opened)
    rows = {row["What"]: row for row in (await run()).rows}
    assert set(rows) == {"statement sum", "statement chain"}
    assert rows["statement chain"]["The one says"] == "the statement before it closes on 2026-11-16 with 15.00 CZK"
    assert rows["statement sum"]["The one says"] == "the statement closes with 26.00 CZK"


async def test_an_entry_of_a_stored_file_that_is_no_payment_here_is_told(opened: Installation) -> None:
    taken = await take_statement(opened, camt(16, "10.00", "18.00", "5.00", "3.00"), "1.xml")
    await rest(opened)
    for delete in (
        "DELETE FROM journal WHERE payment_id = :id",
        "DELETE FROM payment_references WHERE payment_id = :id",
        "DELETE FROM payments WHERE id = :id",
    ):
        await change(opened, delete, id=taken.ids[0])
    row = (await run()).only()
    assert (row["What"], row["The one says"]) == ("entry missing", "the file has an entry of 2026-11-16 over 5.00 CZK")
    await take_statement(opened, camt(16, "10.00", "18.00", "5.00", "3.00"), "1.xml")
    await rest(opened)
    assert (await run()).rows == []


async def test_a_part_of_a_file_that_could_not_be_read_is_told_for_a_week(opened: Installation, clock: Clock) -> None:
    rows = ("2026-11-20,10.00,CZK,B-1,a gift", "2026-11-22,much,CZK,B-9,a gift")
    await take_statement(opened, "\n".join([CSV, *rows, ""]).encode(), "november.csv")
    await rest(opened)
    row = (await run()).only()
    assert (row["What"], row["The one says"]) == (
        "statement refused",
        "1 part of the file could not be read, the first at line 3",
    )
    clock.forward(days=8)
    assert "statement refused" not in (await run()).what


async def test_an_account_whose_daily_statements_stopped_is_an_alarm(opened: Installation, clock: Clock) -> None:
    for day in (16, 17, 18, 19, 20):
        row = f"2026-11-{day},-1.00,CZK,B-{day},fee"
        await take_statement(opened, f"{CSV}\n{row}\n".encode(), f"{day}.csv")
    await rest(opened)
    assert (await run()).rows == []
    clock.forward(days=3)
    row = (await run()).only()
    assert (row["Compared"], row["What"]) == ("alarm", "old statement")
    assert row["The one says"] == "its last statement is of 2026-11-20, 6 days ago"


async def test_a_file_that_can_not_be_read_again_is_told_as_not_compared(opened: Installation) -> None:
    await take_statement(opened, camt(16, "10.00", "15.00", "5.00"), "1.xml")
    await rest(opened)
    opened.connectors.pop("camt")
    ran = await run()
    assert ran.rows == []
    assert "1 file could not be read again with the readers that are set up now" in ran.description


# Shop and accounting.


async def test_an_order_that_is_paid_and_waits_or_goes_on_and_is_not_paid_is_told(opened: Installation) -> None:
    paid = await sell(opened, "CZ5001")
    unpaid = await buy(opened, "CZ5002")
    await rest(opened)
    assert (await run()).rows == []
    await change(opened, "UPDATE orders SET standard_status = 'awaiting_payment' WHERE id = :id", id=paid)
    await change(opened, "UPDATE orders SET standard_status = 'processing' WHERE id = :id", id=unpaid)
    rows = {row["What"]: row for row in (await run()).rows}
    assert {what: row["Which"] for what, row in rows.items()} == {
        "paid but waits": "order CZ5001",
        "not paid": "order CZ5002",
    }


async def test_a_cancelled_order_that_has_money_is_told_until_the_money_went_back(opened: Installation) -> None:
    await buy(opened, "CZ5001")
    id_ = await pay(opened, "CZ5001", provider_reference="pi_1")
    await rest(opened)
    async with opened.store.read() as connection:
        order_id = await connection.scalar(text("SELECT id FROM orders"))
    await cancel(opened, int(order_id or 0))
    row = (await run()).only()
    assert (row["What"], row["The other says"]) == ("closed with money", "378.00 CZK of it is still here")
    back = payment_of(None, "-378.00", provider_reference="pi_1", kind=Kind.REFUND)
    await take_payments(opened, replace(back, source=(await _source(opened, id_))))
    await rest(opened)
    assert (await run()).what == []


async def _source(opened: Installation, payment_id: int) -> str:
    async with opened.store.read() as connection:
        return str(await connection.scalar(text("SELECT source FROM payments WHERE id = :id"), {"id": payment_id}))


async def test_documents_that_are_missing_are_told_by_number_by_file_and_by_order(opened: Installation) -> None:
    for number in ("CZ5001", "CZ5002", "CZ5003"):
        await sell(opened, number)
    for file in sorted((opened.home / "documents").rglob("*FV202600001.pdf")):
        file.unlink()
    await change(opened, "DELETE FROM documents WHERE kind = 'invoice' AND counter = 2")
    rows = (await run()).rows
    told = {row["What"]: (row["Which"], row["The one says"]) for row in rows}
    assert told["number missing"] == ("cz, invoices of 2026", "number 2 missing")
    assert told["not invoiced"] == ("order CZ5002", "there is no invoice")
    assert told["file missing"][0] == "invoice FV202600001"
    assert len(rows) == 3


async def test_an_invoice_over_another_sum_or_of_an_unpaid_order_is_told(opened: Installation) -> None:
    await sell(opened, "CZ5001")
    await sell(opened, "CZ5002")
    await change(opened, "UPDATE documents SET total_minor = 1 WHERE number = 'FV202600001'")
    await change(opened, "UPDATE allocations SET reversed = true WHERE order_id = 2")
    assert sorted((await run()).what) == ["invoiced amount", "invoiced unpaid", "not paid"]


class Books:
    """An outside accounting system and shop in one, which lists what it has."""

    def __init__(self, *listed: ListedDocument | ListedOrder) -> None:
        self.listed = listed

    async def documents(self, since: date) -> AsyncIterator[Sequence[ListedDocument]]:
        """List the documents."""
        yield [one for one in self.listed if isinstance(one, ListedDocument) and one.issued_on >= since]

    async def orders(self, since: datetime) -> AsyncIterator[Sequence[ListedOrder]]:
        """List the orders."""
        yield [one for one in self.listed if isinstance(one, ListedOrder) and one.placed_at >= since]


async def test_an_outside_shop_and_accounting_are_compared_once_they_list_what_they_have(opened: Installation) -> None:
    order_id = await sell(opened, "CZ5001")
    await buy(opened, "CZ5002")
    await rest(opened)
    order = await order_of(opened, order_id)
    theirs = ListedOrder(
        channel="cz",
        number="CZ5001",
        total=order.total,
        status="pending payment",
        standard=Status.AWAITING_PAYMENT,
        placed_at=order.placed_at,
    )
    by_hand = ListedDocument(kind=DocumentKind.INVOICE, number="BY-HAND", total=Money(100, "CZK"), issued_on=NOW.date())
    opened.connectors["books"] = Books(theirs, by_hand)
    found = {(row["Compared"], row["What"], row["Which"]) for row in (await run()).rows}
    assert found == {
        ("shop", "paid but waits", "order CZ5001"),
        ("shop", "missing there", "order CZ5002"),
        ("accounting", "missing here", "invoice BY-HAND"),
    }


# What is old.


async def test_a_payment_that_waits_for_a_person_for_days_is_an_alarm(opened: Installation, clock: Clock) -> None:
    id_ = await pay(opened, None, text="to my friend")
    await rest(opened)
    clock.forward(days=2, hours=23)
    assert (await run()).rows == []
    await rest(opened)
    clock.forward(hours=1)
    ran = await run()
    row = ran.only()
    assert (row["Compared"], row["What"], row["Which"]) == ("alarm", "old payment", f"payment {id_}")
    assert (row["The one says"], row["The other says"]) == (
        "378.00 CZK, unknown: waits for a person for 3 days",
        "at most 3 days",
    )
    assert (ran.state.message or "").startswith("0 differences, 1 alarm: 1 old payment; ")


async def test_a_payment_that_nobody_looks_at_is_an_alarm(opened: Installation, clock: Clock) -> None:
    id_ = await pay(opened, None)
    clock.forward(hours=24)
    row = (await run()).only()
    assert (row["What"], row["Which"]) == ("never matched", f"payment {id_}")
    assert row["The one says"] == "1 payment was not looked at yet for 24 hours"


async def test_a_step_that_was_refused_for_a_day_is_an_alarm(opened: Installation, clock: Clock) -> None:
    lines = [{"sku": "GRD-HND-01", "title": "Mlýnek", "quantity": 6, "unit_price": "63.00"}]
    order_id = await sell(opened, "CZ5001", lines=lines)
    assert (await steps_of(opened, order_id))["stock"]["state"] == "rejected"
    clock.forward(hours=23)
    assert (await run()).rows == []
    clock.forward(hours=1)
    rows = (await run()).rows
    assert {row["What"] for row in rows} == {"old step"}
    assert [row["Which"] for row in rows] == ["order CZ5001, step reservation", "order CZ5001, step stock"]
    assert rows[1]["The one says"] == "it was refused, and is open for 24 hours"


async def test_orders_that_wait_past_their_reservation_and_grace_are_one_alarm_per_channel(
    opened: Installation, clock: Clock
) -> None:
    for number in ("CZ5001", "CZ5002"):
        await buy(opened, number, "bank_transfer")
    await buy(opened, "CZ5003", "cash_on_delivery")
    await rest(opened)
    ran = None
    for _ in range(40):
        if ran := (found if (found := await run()).rows else None):
            break
        clock.forward(days=2)
    assert ran is not None
    row = ran.only()
    assert (row["What"], row["Which"]) == ("old order", "channel cz")
    assert row["The one says"].startswith("2 orders wait for money, the oldest, CZ5001, for ")
    days = int(row["The other says"].split()[0])
    assert clock() - NOW >= timedelta(days=days)


async def test_a_source_that_answers_no_poll_and_a_message_that_was_given_up_are_alarms(gateway: Gateway) -> None:
    await gateway.paid()
    event = gateway.stripe.pay("CZ5009", 100, "czk", now=gateway.clock())
    gateway.clock.forward(minutes=1)
    await poll(gateway.opened)
    del gateway.stripe.objects["payment_intent"][event["data"]["object"]["id"]]
    await rest(gateway.opened)
    row = (await run()).only()
    assert (row["Compared"], row["What"], row["Which"]) == ("alarm", "parked message", "message from stripe")
    gateway.stripe.go_down()
    gateway.clock.forward(hours=6)
    ran = await run()
    assert sorted(ran.what) == ["old source", "parked message"]
    assert ran.state.is_failed()


async def test_how_long_things_may_wait_stands_in_kvit_yaml(opened: Installation, clock: Clock) -> None:
    await pay(opened, None)
    await rest(opened)
    clock.forward(days=1)
    opened.settings["alarms"] = {"unmatched_days": 1}
    assert (await run()).what == ["old payment"]
    opened.settings["alarms"] = {"unmatched_dayz": 1}
    started: Any = reconcile
    state = cast("State[Any]", await started(30, return_state=True))
    assert state.is_failed()
    assert "kvit.yaml, alarms.unmatched_dayz" in (state.message or "")


# The whole.


async def test_alarms_stand_in_front_and_a_table_that_is_cut_says_so(
    opened: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("CZ5001", "CZ5002", "CZ5003"):
        await sell(opened, number)
    await pay(opened, None)
    await rest(opened)
    clock.forward(days=4)
    await change(opened, "UPDATE orders SET standard_status = 'awaiting_payment'")
    assert (await run()).what == ["old payment", *["paid but waits"] * 3]
    monkeypatch.setattr("tasks.found.ROWS", 2)
    monkeypatch.setattr("tasks.reconcile.ROWS", 2)
    monkeypatch.setattr("tasks.comparing.ROWS", 2)
    ran = await run()
    assert ran.what == ["old payment", "paid but waits"]
    assert "Only the first 2 of 4 are shown." in ran.description
    assert (ran.state.message or "").startswith("3 differences, 1 alarm: ")


async def test_nothing_but_the_intake_is_changed_and_a_second_run_says_the_same(opened: Installation) -> None:
    await sell(opened, "CZ5001")
    await change(opened, "UPDATE orders SET standard_status = 'awaiting_payment'")
    first = await run()
    async with opened.store.read() as connection:
        counts = [
            await connection.scalar(text(f"SELECT count(*) FROM {name}"))  # noqa: S608 - our own tables
            for name in ("journal", "effects", "allocations", "payments", "inbox", "status_history")
        ]
    second = await run()
    async with opened.store.read() as connection:
        again = [
            await connection.scalar(text(f"SELECT count(*) FROM {name}"))  # noqa: S608 - our own tables
            for name in ("journal", "effects", "allocations", "payments", "inbox", "status_history")
        ]
    assert first.rows == second.rows != []
    assert counts == again


async def test_nobody_is_named_in_differences_and_alarms(opened: Installation, clock: Clock) -> None:
    await sell(opened, "CZ5001")
    await pay(opened, None, text=f"{NAME}, {EMAIL}")
    await carry_on("card", await pay(opened, "CZ5009"))
    await rest(opened)
    clock.forward(days=4)
    await change(opened, "UPDATE orders SET standard_status = 'awaiting_payment'")
    ran = await run()
    assert len(ran.rows) == 3
    shown = json.dumps([(one.data, one.description) for one in ran.artifacts.values()], ensure_ascii=False)
    assert [one for one in (NAME, *NAME.split(), EMAIL, PAYER) if one in shown + str(ran.state.message)] == []


async def test_a_failure_of_our_own_is_not_told_by_its_text(opened: Installation) -> None:
    async def fails(*_: object) -> AsyncIterator[Sequence[ListedOrder]]:
        raise ValueError(NAME)
        yield ()

    books = Books()
    books.orders = fails  # type: ignore[method-assign]
    opened.connectors["books"] = books
    ran = await run()
    assert "shop books could not be compared: unexpected ValueError" in ran.description
    assert NAME not in ran.description

    async def refuses(*_: object) -> AsyncIterator[Sequence[ListedOrder]]:
        raise Transient("books: answered 503")
        yield ()

    books.orders = refuses  # type: ignore[method-assign]
    assert "shop books could not be compared: books: answered 503" in (await run()).description


# The command line.


def kvit(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on an installation as a user does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVIT_"))}
    return subprocess.run(
        [sys.executable, "-m", "deployments", "report", "reconciliation", *arguments],
        cwd=ROOT,
        env=kept | {"KVIT_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_the_command_says_the_same_and_takes_nothing_in(gateway: Gateway) -> None:
    gateway.clock.now = datetime.now(UTC) - timedelta(hours=2)  # the command has a clock of its own
    since = gateway.clock().date().isoformat()
    id_ = await gateway.paid(told=False)
    done = await asyncio.to_thread(kvit, gateway.opened.home, "--json", "--since", since)
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    (one,) = [found for found in said["differences"] if not found["alarm"]]
    assert (one["what"], one["subject"], one["other"]) == ("missing_here", id_, "it is not here")
    assert (said["failed"], said["more"]) == (False, 0)
    shown = await asyncio.to_thread(kvit, gateway.opened.home, "--since", since)
    assert shown.returncode == 1
    assert "stripe says payment of 378.00 CZK, succeeded" in shown.stdout
    async with gateway.opened.store.read() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM inbox WHERE kind = 'listed'")) == 0


def test_the_command_ends_well_where_nothing_differs_and_refuses_a_day_too_long_ago(tmp_path: Path) -> None:
    assert kvit(tmp_path).returncode == 0
    refused = kvit(tmp_path, "--since", "2019-01-01")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--since 2019-01-01" in refused.stderr
