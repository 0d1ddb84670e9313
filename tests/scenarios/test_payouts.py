"""A gateway's payout: its report settles the orders, its lump sum on the bank statement settles none."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from shop_builders import NOW, Clock, buy, carry_on, done_outside, order_of, shop

from deployments.cli import app
from deployments.dispatcher import Dispatcher
from deployments.sandbox.standin import Misbehavior
from deployments.sandbox.stripe import StripeStandIn
from flows.pull_payments import pull_payments
from store import inbox, payments, payouts
from store.audit import audit
from tasks.installation import Installation
from tasks.intake import Imported, poll, take_statement, take_webhook, work_off_inbox
from tasks.payouts import known_payers, show_payouts

ACCOUNT = "CZ50 9910 0000 1900 0026 0111"  # of channel cz, so that variable symbols count


# A shop whose gateway sends reports as files.

REPORT = """payout_id,paid_on,currency,kind,provider_reference,order_reference,gross,fee,net
P-2026-118,2026-11-23,CZK,payment,T-7001,CZ5001,378.00,10.00,368.00
P-2026-118,2026-11-23,CZK,payment,T-7002,CZ5002,378.00,10.00,368.00
P-2026-118,2026-11-23,CZK,fee,,,0.00,36.00,-36.00
"""
STATEMENT = """booked_on,amount,currency,bank_reference,variable_symbol,payer_name,remittance
2026-11-24,{amount},CZK,B-1,5001,Comgate a.s.,P-2026-118
"""
LINE = "payout P-2026-118 of comgate: 756.00 CZK gross, 56.00 CZK fees, 700.00 CZK net; 2 payments and 1 fee"


@pytest.fixture
async def reported(stocked: Path, tmp_path: Path, clock: Clock) -> AsyncGenerator[Installation]:
    home = tmp_path / "shop"
    shutil.copytree(stocked, home)
    connectors = [
        {"name": "bank", "type": "csv_statement", "account": ACCOUNT},
        {"name": "reports", "type": "payout_report", "source": "comgate", "payers": ["COMGATE"]},
    ]
    (home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": connectors}), encoding="utf-8")
    async with shop(home, clock=clock) as opened:
        yield opened


async def take(opened: Installation, text: str, name: str = "file.csv") -> Imported:
    imported = await take_statement(opened, text.encode(), name)
    assert imported.refused == ()
    return imported


async def work_off(opened: Installation) -> None:
    await Dispatcher(opened).work_off()


async def of_method(opened: Installation, method: str) -> list[dict[str, Any]]:
    async with opened.store.read() as connection:
        return [row for row in await payments.listing(connection) if row["method"] == method]


async def breaches(opened: Installation) -> list[str]:
    async with opened.store.read() as connection:
        return [f"{one.invariant}: {one.said}" for one in await audit(connection, now=opened.clock())]


@pytest.mark.parametrize("order", permutations(["report", "statement"]), ids=" then ".join)
@pytest.mark.parametrize("worked_off", [False, True], ids=["at once", "one after the other"])
async def test_the_reports_lines_settle_the_orders_and_the_lump_sum_none(
    reported: Installation, order: tuple[str, ...], *, worked_off: bool
) -> None:
    ids = [await buy(reported, number) for number in ("CZ5001", "CZ5002")]
    texts = {"report": REPORT, "statement": STATEMENT.format(amount="700.00")}
    for name in order:
        await take(reported, texts[name])
        if worked_off:
            await work_off(reported)
    await work_off(reported)

    assert [(await order_of(reported, id_)).status for id_ in ids] == ["paid", "paid"]
    assert await done_outside(reported) == {"documents": 2, "letters": 4, "labels": 2, "deductions": 2}
    assert [row["outcome"] for row in await of_method(reported, "card")] == ["exact", "exact"]
    (lump_sum,) = await of_method(reported, "bank_transfer")
    assert (lump_sum["outcome"], lump_sum["policy"], lump_sum["reason"]) == ("payout", "ignore", LINE)
    async with reported.store.read() as connection:
        (row,) = await payouts.listing(connection)
        assert row["payment_id"] == lump_sum["id"]
        assert await payments.allocated(connection, [lump_sum["id"]]) == {}
    assert await breaches(reported) == []

    before = [row["id"] for method in ("card", "bank_transfer") for row in await of_method(reported, method)]
    for text in (REPORT, REPORT.replace("\n", "\r\n"), texts["statement"]):
        assert (await take(reported, text, "again.csv")).new == 0
    await work_off(reported)
    after = [row["id"] for method in ("card", "bank_transfer") for row in await of_method(reported, method)]
    assert after == before
    assert await done_outside(reported) == {"documents": 2, "letters": 4, "labels": 2, "deductions": 2}


async def test_a_lump_sum_waits_for_its_report_though_it_names_an_order(reported: Installation) -> None:
    order_id = await buy(
        reported,
        "CZ5001",
        "bank_transfer",
        total="700.00",
        lines=[{"sku": "TEA-SEN-100", "title": "Sencha", "quantity": 1, "unit_price": "700.00"}],
    )
    imported = await take(reported, STATEMENT.format(amount="700.00"))
    state = await carry_on("bank_transfer", *imported.ids)
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    (row,) = await of_method(reported, "bank_transfer")
    assert (row["outcome"], row["policy"]) == ("unknown", "operator")
    assert (
        row["reason"] == "it comes from comgate, and no report of a payout over 700.00 CZK around that day has come yet"
    )
    assert (await order_of(reported, order_id)).to_pay.minor == 70_000


async def test_a_lump_sum_of_another_amount_is_left_with_both_figures(reported: Installation) -> None:
    await take(reported, REPORT)
    imported = await take(reported, STATEMENT.format(amount="699.00"))
    state = await carry_on("bank_transfer", *imported.ids)
    assert state.name == "Needs a person"
    assert "it names payout P-2026-118 of comgate, whose report says 700.00 CZK, and 699.00 CZK arrived" in (
        state.message or ""
    )


async def test_the_run_of_a_lump_sum_says_what_it_is_and_ends_well(reported: Installation) -> None:
    await take(reported, REPORT)
    imported = await take(reported, STATEMENT.format(amount="700.00"))
    state = await carry_on("bank_transfer", *imported.ids)
    assert (state.name, state.message) == ("Done", "1 payout")


async def test_a_report_with_another_content_is_refused_and_settles_nothing_more(reported: Installation) -> None:
    await buy(reported, "CZ5001")
    await take(reported, REPORT)
    other = REPORT.replace("10.00,368.00", "11.00,367.00")
    changed = await take_statement(reported, other.encode(), "changed.csv")
    assert (changed.entries, changed.new, changed.already_known, changed.ids) == (1, 0, 0, ())
    (refused,) = changed.refused
    assert refused.where == "payout P-2026-118"
    assert refused.reason == "it is known with fee 56.00 CZK, and now it says 58.00 CZK"


async def test_what_the_report_says_went_back_is_taken_back(reported: Installation) -> None:
    order_id = await buy(reported, "CZ5001")
    await take(reported, REPORT)
    await work_off(reported)
    later = """payout_id,paid_on,currency,kind,provider_reference,gross,fee,net
P-2026-119,2026-11-25,CZK,refund,T-7001,-378.00,0.00,-378.00
"""
    await take(reported, later)
    await work_off(reported)
    (refund,) = [row for row in await of_method(reported, "card") if row["kind"] == "refund"]
    assert (refund["outcome"], refund["provider_reference"]) == ("refund", "T-7001")
    assert (await order_of(reported, order_id)).to_pay.minor == 0
    debit = "booked_on,amount,currency,bank_reference,payer_name,remittance\n2026-11-26,-378.00,CZK,B-2,Comgate,x\n"
    await take(reported, debit)
    await work_off(reported)
    (lump_sum,) = await of_method(reported, "bank_transfer")
    assert (lump_sum["outcome"], lump_sum["amount_minor"]) == ("payout", -37_800)
    assert await breaches(reported) == []


async def test_a_bad_line_leaves_its_payout_out_and_no_other(reported: Installation) -> None:
    other = REPORT.partition("\n")[2].replace("P-2026-118", "P-2026-120").replace("T-70", "T-80")
    bad = REPORT.replace("36.00,-36.00", "36.00,-35.00") + other
    imported = await take_statement(reported, bad.encode(), "bad.csv")
    assert (imported.entries, imported.new, len(imported.ids)) == (1, 1, 2)
    assert [f"{refused.where}: {refused.reason}" for refused in imported.refused] == [
        "line 4: gross 0.00 less fee 36.00 is not net -35.00",
        "payout P-2026-118: nothing of it is taken, because of line 4",
    ]


@flow(name="show payouts")
async def showing() -> int:
    return await show_payouts()


async def test_fees_are_shown_in_a_table_of_the_log(reported: Installation) -> None:
    await take(reported, REPORT)
    await take(reported, STATEMENT.format(amount="700.00"))
    await work_off(reported)
    assert await showing() == 0
    async with get_client() as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["payouts"]))
        newest = max(await client.read_artifacts(artifact_filter=wanted), key=lambda one: str(one.created))
    assert json.loads(str(newest.data)) == [
        {
            "Payout": "P-2026-118",
            "Gateway": "comgate",
            "Paid out": "2026-11-23",
            "Currency": "CZK",
            "Gross": "756.00",
            "Fees": "56.00",
            "Net": "700.00",
            "Arrived": "2026-11-24",
            "What doesn't agree": "",
        }
    ]


# A shop whose gateway is asked.


@dataclass
class Gateway:
    """A shop that is paid through Stripe."""

    opened: Installation
    stripe: StripeStandIn
    clock: Clock

    def pays(self, number: str, minor: int = 37_800, fee: int = 1_000) -> str:
        """Let a customer pay; return the intent. No webhook arrives."""
        event = self.stripe.pay(number, minor, "czk", fee=fee, now=self.clock())
        return event["data"]["object"]["id"]

    def pays_out(self, **told: Any) -> dict[str, Any]:
        return self.stripe.pay_out("czk", now=self.clock(), **told)

    async def polled(self) -> int:
        return (await poll(self.opened, ["cards"]))["cards"]

    async def arrives(self, payout: dict[str, Any]) -> None:
        """Let the bank say that a payout has arrived."""
        amount = f"{payout['amount'] / 100:.2f}"
        row = f"2026-11-24,{amount},CZK,B-{payout['id']},STRIPE PAYMENTS EUROPE,STRIPE"
        header = "booked_on,amount,currency,bank_reference,payer_name,remittance"
        await take(self.opened, f"{header}\n{row}\n")


@pytest.fixture
async def gateway(stocked: Path, tmp_path: Path, clock: Clock) -> AsyncGenerator[Gateway]:
    home = tmp_path / "shop"
    shutil.copytree(stocked, home)
    async with StripeStandIn() as stripe:
        connector = {
            "name": "cards",
            "type": "stripe",
            "base_url": stripe.base_url,
            "api_key": stripe.api_key,
            "webhook_secret": stripe.webhook_secret,
        }
        bank = {"name": "bank", "type": "csv_statement", "account": ACCOUNT}
        (home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": [connector, bank]}), encoding="utf-8")
        async with shop(home, clock=clock) as opened:
            yield Gateway(opened, stripe, clock)


async def test_a_payout_is_polled_once_and_its_lump_sum_found(gateway: Gateway) -> None:
    order_id = await buy(gateway.opened)
    intent = gateway.pays("CZ5001")
    payout = gateway.pays_out()
    gateway.clock.forward(minutes=1)  # events of the last seconds rest
    assert await gateway.polled() == 2
    assert await gateway.polled() == 0
    await gateway.arrives(payout)
    await work_off(gateway.opened)
    assert (await order_of(gateway.opened, order_id)).status == "paid"
    (paid,) = await of_method(gateway.opened, "card")
    assert (paid["external_id"], paid["outcome"]) == (intent, "exact")
    (lump_sum,) = await of_method(gateway.opened, "bank_transfer")
    assert lump_sum["outcome"] == "payout"
    assert lump_sum["reason"] == (
        f"payout {payout['id']} of cards: 378.00 CZK gross, 10.00 CZK fees, 368.00 CZK net; 1 payment"
    )
    async with gateway.opened.store.read() as connection:
        (row,) = await payouts.listing(connection)
        assert [line["payment_id"] for line in await payouts.details(connection, row["id"])] == [paid["id"]]
        assert await payouts.discrepancies(connection, NOW + timedelta(days=30), known_payers(gateway.opened)) == []
        assert await inbox.parked(connection) == []
    assert await breaches(gateway.opened) == []


async def test_a_payment_of_which_nothing_was_told_is_found_through_the_payout(gateway: Gateway) -> None:
    order_id = await buy(gateway.opened)
    intent = gateway.pays("CZ5001")
    gateway.stripe.forget(gateway.stripe.events[-1])
    gateway.pays_out()
    assert await gateway.polled() == 1
    assert await of_method(gateway.opened, "card") == [], "its API is asked, and not its report believed"
    await work_off(gateway.opened)
    assert (await order_of(gateway.opened, order_id)).status == "paid"
    (paid,) = await of_method(gateway.opened, "card")
    assert (paid["external_id"], paid["order_reference"]) == (intent, "CZ5001")
    async with gateway.opened.store.read() as connection:
        (row,) = await payouts.listing(connection)
        assert [line["payment_id"] for line in await payouts.details(connection, row["id"])] == [paid["id"]]


async def test_a_webhook_that_comes_late_adds_nothing(gateway: Gateway) -> None:
    await buy(gateway.opened)
    intent = gateway.pays("CZ5001")
    refunded = gateway.stripe.refund(intent, 10_000, now=gateway.clock())
    events = list(gateway.stripe.events)
    gateway.stripe.forget(refunded)
    gateway.pays_out()
    await gateway.polled()
    await work_off(gateway.opened)
    before = await of_method(gateway.opened, "card")
    assert sorted(row["kind"] for row in before) == ["payment", "refund"]
    stripe = gateway.opened.connectors["cards"]
    for event in events:
        headers, body = gateway.stripe.signed(event, gateway.clock())
        await take_webhook(gateway.opened, "cards", stripe.verify(headers, body, now=gateway.clock()), body)
    await work_off(gateway.opened)
    assert await of_method(gateway.opened, "card") == before


async def test_a_second_refund_of_which_nothing_was_told_is_asked_about(gateway: Gateway) -> None:
    await buy(gateway.opened)
    intent = gateway.pays("CZ5001")
    gateway.stripe.refund(intent, 3_000, now=gateway.clock())
    gateway.clock.forward(minutes=1)
    await gateway.polled()
    await work_off(gateway.opened)
    gateway.stripe.forget(gateway.stripe.refund(intent, 2_000, now=gateway.clock()))
    gateway.pays_out()
    await gateway.polled()
    await work_off(gateway.opened)
    refunds = [row["amount_minor"] for row in await of_method(gateway.opened, "card") if row["kind"] == "refund"]
    assert refunds == [-3_000, -2_000]
    async with gateway.opened.store.read() as connection:
        (row,) = await payouts.listing(connection)
        assert None not in {line["payment_id"] for line in await payouts.details(connection, row["id"])}


async def test_a_report_that_was_imported_as_a_file_is_not_told_twice_by_webhooks(gateway: Gateway) -> None:
    await buy(gateway.opened)
    intent = gateway.pays("CZ5001")
    reader = {"name": "reports", "type": "payout_report", "source": "stripe:cards"}
    home = gateway.opened.home
    settings = yaml.safe_load((home / "kvit.yaml").read_text(encoding="utf-8"))
    (home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": [*settings["connectors"], reader]}), encoding="utf-8")
    async with shop(home, clock=gateway.clock) as opened:
        text = "payout_id,paid_on,currency,kind,provider_reference,order_reference,gross,fee,net\n"
        text += f"P-2026-118,2026-11-23,CZK,payment,{intent},CZ5001,378.00,10.00,368.00\n"
        await take(opened, text)
        await work_off(opened)
        (paid,) = await of_method(opened, "card")
        assert (paid["outcome"], paid["source"]) == ("exact", "stripe:cards")
        gateway.clock.forward(minutes=1)
        await poll(opened)
        await work_off(opened)
        assert [row["id"] for row in await of_method(opened, "card")] == [paid["id"]]


async def test_a_payout_that_can_not_be_right_waits_for_a_person_and_stops_no_other(gateway: Gateway) -> None:
    gateway.pays("CZ5001")
    bad = gateway.pays_out()
    next(iter(gateway.stripe.objects["balance_transaction"].values()))["net"] = 1
    gateway.pays("CZ5002")
    good = gateway.pays_out()
    await gateway.polled()
    async with gateway.opened.store.read() as connection:
        assert [row["external_id"] for row in await payouts.listing(connection)] == [good["id"]]
        (parked,) = await inbox.parked(connection)
    assert (parked["source"], parked["kind"], parked["external_id"]) == ("cards", "payout", bad["id"])
    assert "gross 378.00 less fee 10.00 is not net 0.01" in parked["problem"]
    assert await work_off_inbox(gateway.opened) > 0
    assert await gateway.polled() == 0


async def test_an_outage_in_the_middle_of_a_poll_loses_and_doubles_nothing(gateway: Gateway) -> None:
    for number in range(7):
        gateway.pays(f"CZ500{number}")
        gateway.pays_out()
    gateway.stripe.misbehave(Misbehavior.STATUS_BEFORE, path="/v1/balance_transactions", skip=5, status=503)
    run: Any = pull_payments  # asked for its state, a flow returns that; its type doesn't say so
    state = await run(["cards"], return_state=True)
    assert (state.name, state.is_failed()) == ("Needs a person", True)
    async with gateway.opened.store.read() as connection:
        assert len(await payouts.listing(connection)) == 5
    assert (await run(["cards"], return_state=True)).is_completed()
    async with gateway.opened.store.read() as connection:
        assert len(await payouts.listing(connection)) == 7


# The command line.


@pytest.fixture
def kvit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any]]:
    """Return a function that calls kvit on an installation of its own, and returns the exit code and the JSON."""
    monkeypatch.setenv("KVIT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, Any]:
        code = app([*arguments, "--json"], exit_on_error=False, print_error=False, result_action="return_value")
        return code, json.loads(capsys.readouterr().out)

    return call


def test_payouts_are_listed_and_shown_with_their_fees(tmp_path: Path, kvit: Callable[..., tuple[int, Any]]) -> None:
    assert kvit("payouts", "list") == (0, {"payouts": [], "discrepancies": []})
    (tmp_path / "report.csv").write_text(REPORT, encoding="utf-8")
    code, read = kvit("payments", "read", "report.csv")
    (told,) = read["files"][0]["payouts"]
    assert (code, told["payout"], told["fee"], len(told["lines"])) == (0, "P-2026-118", "56.00", 3)
    code, imported = kvit("payments", "import", "report.csv")
    assert (code, imported["files"][0]["new"]) == (0, 1)
    code, listed = kvit("payouts", "list")
    assert listed["payouts"] == [
        {
            "id": 1,
            "payout": "P-2026-118",
            "source": "gateway",
            "paid_on": "2026-11-23",
            "currency": "CZK",
            "gross": "756.00",
            "fee": "56.00",
            "net": "700.00",
            "arrived_on": None,
            "payment": None,
            "lines": {"fee": 1, "payment": 2},
        }
    ]
    for named in ("1", "P-2026-118"):
        code, one = kvit("payouts", "show", named)
        assert (code, one["fee"], [line["fee"] for line in one["lines"]]) == (0, "56.00", ["10.00", "10.00", "36.00"])
        assert [line["payment"] for line in one["lines"]] == [1, 2, None]


@pytest.mark.parametrize("named", ["2", "po_1", "P-2026-118 "])
def test_a_payout_that_is_not_there_is_told_so(kvit: Callable[..., tuple[int, Any]], named: str) -> None:
    from deployments.command import Wrong

    with pytest.raises(Wrong, match="there is no payout"):
        kvit("payouts", "show", named)
