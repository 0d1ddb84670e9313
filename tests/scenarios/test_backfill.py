"""What operators start: a backfill over chosen orders, the daily reconciliation, and the pull of payments."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
import yaml
from prefect import State, flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from shop_builders import (
    Clock,
    buy,
    carry_on,
    carry_on_all,
    change_rules,
    done_outside,
    letters,
    order_of,
    pay,
    payment_row,
    shop,
    steps_of,
)
from sqlalchemy import select

from connectors.roles import Page
from deployments.cli_backfill import backfill as command
from deployments.dispatcher import Dispatcher
from deployments.sandbox.smsapi import SmsapiStandIn
from deployments.sandbox.stripe import StripeStandIn
from domain.payments import Method
from flows.backfill import backfill
from flows.invoice import order_placed
from flows.pull_payments import pull_payments
from flows.reconcile import reconcile
from store import backfills, effects, inbox, orders, work
from store.tables import JournalRow, WorkRow
from tasks.backfill import (
    HELD,
    Planned,
    Selection,
    begin,
    choose,
    end_chunk,
    held,
    look_again,
    set_aside,
    take_chunk,
    write_report,
)
from tasks.by_hand import hold_out
from tasks.installation import Installation
from tasks.match import match_payments
from tasks.plan_backfill import plan_totals
from tasks.skip import skip

NOTHING = {"documents": 0, "letters": 0, "labels": 0, "deductions": 0}
ALL_THREE = {"documents": 3, "letters": 6, "labels": 3, "deductions": 3}


async def start(started: Any, *arguments: Any, **named: Any) -> State[Any]:
    """Run a flow as its deployment does, and return the state in which it ended."""
    return cast("State[Any]", await started(*arguments, **named, return_state=True))


async def fill_in(selection: Selection | None = None, *, dry_run: bool = False, notify: bool = False) -> State[Any]:
    """Start a backfill as its form is filled in."""
    return await start(backfill, selection or Selection(), dry_run, notify)


async def artifacts_of(state: State[Any]) -> dict[str, Artifact]:
    """Return the artifacts of a run, by key."""
    run_id: UUID | None = state.state_details.flow_run_id
    assert run_id is not None
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    async with get_client() as client:
        return {artifact.key or "": artifact for artifact in await client.read_artifacts(artifact_filter=chosen)}


def rows_of(artifact: Artifact) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", json.loads(cast("str", artifact.data)))


async def due(opened: Installation) -> list[tuple[str, datetime | None, bool]]:
    """Return all work, as (scenario, when it is due, whether customers get no messages for it)."""
    columns = (WorkRow.scenario, WorkRow.due_at, WorkRow.quiet)
    async with opened.store.read() as connection:
        rows = await connection.execute(select(*columns).order_by(WorkRow.id))
    return [(row.scenario, row.due_at, row.quiet) for row in rows.all()]


async def three_paid(opened: Installation) -> list[int]:
    """Take in three orders and their payments, and find which is whose; nothing else is done for them yet."""
    numbers = ("CZ5001", "CZ5002", "CZ5003")
    ids = [await buy(opened, number) for number in numbers]
    paid = [await pay(opened, number) for number in numbers]
    await only_matched(opened, paid)
    return ids


async def only_matched(opened: Installation, paid: list[int]) -> None:
    """Match payments as an earlier version or another system did, without carrying their orders on."""

    @flow(name="match only")
    async def match_only() -> None:
        await match_payments(paid)

    await match_only()
    assert (await payment_row(opened, paid[0]))["outcome"] == "exact"


async def test_an_order_whose_delivery_the_carrier_collects_is_filled_in_part_by_part(opened: Installation) -> None:
    address = {"name": "Jan", "street": "Údolní 4", "city": "Brno", "postcode": "602 00", "country": "CZ"}
    tea = {"sku": "TEA-SEN-100", "title": "Sencha", "quantity": 2, "unit_price": "189.00"}
    order_id = await buy(
        opened,
        total="428.00",
        lines=[tea, {"title": "Doručení", "quantity": 1, "unit_price": "50.00"}],
        delivery={"method": "Kurýr", "address": address, "paid_on_delivery": "50.00"},
    )
    await only_matched(opened, [await pay(opened, amount="378.00")])
    assert (await fill_in()).name == "Done"
    done = await done_outside(opened)
    assert (done["labels"], done["deductions"], (await order_of(opened, order_id)).to_collect.amount) == (1, 1, "50.00")
    async with opened.store.read() as connection:
        shipment = await orders.live_shipment(connection, order_id)
    assert shipment is not None
    assert shipment["collect_minor"] == 5_000
    await only_matched(opened, [await pay(opened, amount="50.00", method="cash_on_delivery")])
    assert (await fill_in()).name == "Done"
    order = await order_of(opened, order_id)
    assert (order.standard_status, order.to_pay.minor) == ("completed", 0)
    assert await done_outside(opened) == done


async def test_a_dry_run_shows_its_plan_and_does_nothing(opened: Installation) -> None:
    await three_paid(opened)
    before = await due(opened)
    state = await fill_in(dry_run=True)
    assert (state.name, state.message) == ("Dry run", "6 would be carried on; nothing was done")
    shown = await artifacts_of(state)
    plan = shown["backfill-plan"]
    assert plan.description == "Dry run: nothing was done. 6 to carry on; messages to customers are off"
    assert {(row["Order"], row["Scenario"], row["Now"]) for row in rows_of(plan)} == {
        (number, scenario, "steps are open")
        for number in ("CZ5001", "CZ5002", "CZ5003")
        for scenario in ("card", "order placed")
    }
    counted = {row["Step"]: row for row in rows_of(shown["backfill-plan-steps"])}
    assert (counted["invoice"]["Would be done"], counted["message"]["Would be left out"]) == (3, 3)
    assert {"Step": "message", "Why": "messages are off", "Orders": 3} in rows_of(shown["backfill-plan-reasons"])
    assert shown["backfill-plan-messages"].description == "0 messages would go to customers"
    told = await artifacts_of(await fill_in(dry_run=True, notify=True))
    assert {"Moment": "paid", "By": "e-mail", "Messages": 3} in rows_of(told["backfill-plan-messages"])
    assert await due(opened) == before
    assert await done_outside(opened) == NOTHING


async def test_a_backfill_does_everything_that_is_missing_and_writes_to_nobody(
    opened: Installation, clock: Clock
) -> None:
    ids = await three_paid(opened)

    @flow(name="choose only")
    async def choose_only() -> list[Planned]:
        return await choose(Selection())

    planned = await plan_totals(opened, await choose_only(), notify=False)
    state = await fill_in()
    assert (state.name, state.message) == ("Done", "backfill 1: 6 done")
    # The plan has told what came of each step.
    became: Counter[tuple[str, str]] = Counter()
    async with opened.store.read() as connection:
        for order_id in ids:
            became.update((row["step"], row["state"]) for row in await effects.of_order(connection, order_id))
    words = {"would be done": "done", "would be left out": "skipped"}
    assert {(step, words[would]): count for (step, would), count in planned.steps.items()} == became
    assert [(await order_of(opened, order_id)).status for order_id in ids] == ["paid"] * 3
    assert await done_outside(opened) == ALL_THREE | {"letters": 0}
    message = (await steps_of(opened, ids[0]))["message"]
    assert (message["state"], message["reference"]) == ("skipped", None)
    # Nor does anybody later, by whatever comes after it.
    clock.forward(days=1)
    await Dispatcher(opened).work_off()
    await fill_in()
    assert letters(opened) == []


async def test_messages_are_sent_when_they_are_asked_for(opened: Installation) -> None:
    await three_paid(opened)
    state = await fill_in(notify=True)
    assert state.name == "Done"
    assert await done_outside(opened) == ALL_THREE


async def test_what_is_done_stays_done_however_often_it_is_run(opened: Installation) -> None:
    ids = await three_paid(opened)
    await Dispatcher(opened).work_off()
    assert await done_outside(opened) == ALL_THREE
    for notify in (False, True):
        state = await fill_in(notify=notify)
        assert state.name == "Done"
        assert (state.message or "").endswith(": 6 already done")
        assert await done_outside(opened) == ALL_THREE
    assert [(await order_of(opened, order_id)).settled.minor for order_id in ids] == [37800] * 3


async def test_a_letter_that_waits_for_its_mail_server_is_not_lost_in_a_backfill(
    opened: Installation, clock: Clock
) -> None:
    await buy(opened)
    payment = await pay(opened)
    in_the_way = opened.home / "maildir"
    in_the_way.write_text("a file where the folder should be", encoding="utf-8")
    await Dispatcher(opened).work_off()
    assert (await done_outside(opened))["letters"] == 0
    in_the_way.unlink()
    clock.forward(minutes=2)
    await fill_in()
    await Dispatcher(opened).work_off()
    assert (await payment_row(opened, payment))["outcome"] == "exact"
    assert (await done_outside(opened))["letters"] == 2


async def test_what_a_backfill_had_set_aside_when_it_died_falls_due_and_writes_to_nobody(
    opened: Installation, clock: Clock
) -> None:
    await three_paid(opened)
    async with opened.store.read() as connection:
        planned = [Planned(*row) for row in await work.of_orders(connection)]
    await set_aside(planned, notify=False)
    dispatcher = Dispatcher(opened)
    assert await dispatcher.work_off() == 0
    clock.forward(minutes=11)
    assert await dispatcher.work_off() == 6
    assert await done_outside(opened) == ALL_THREE | {"letters": 0}
    state = await fill_in()
    assert state.name == "Done"
    assert await done_outside(opened) == ALL_THREE | {"letters": 0}


async def test_one_bad_order_never_stops_the_rest_and_the_report_says_so(opened: Installation) -> None:
    unheard = {"sku": "TEA-NEW-100", "title": "Nový čaj", "quantity": 2, "unit_price": "189.00"}
    bad = await buy(opened, "CZ5001", lines=[unheard])
    good = [await buy(opened, number) for number in ("CZ5002", "CZ5003")]
    await only_matched(opened, [await pay(opened, number) for number in ("CZ5001", "CZ5002", "CZ5003")])
    state = await fill_in(Selection(scenario=Method.CARD))
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert [(await order_of(opened, order_id)).status for order_id in (bad, *good)] == ["paid"] * 3
    assert (await done_outside(opened))["labels"] == 2
    report = rows_of((await artifacts_of(state))["backfill-report"])
    assert [(row["Order"], row["Result"]) for row in report if row["Scenario"] == "card"] == [
        ("CZ5001", "parked"),
        ("CZ5002", "done"),
        ("CZ5003", "done"),
    ]
    assert "TEA-NEW-100" in next(row["Said"] for row in report if row["Result"] == "parked")
    with (opened.home / "backfills" / "1.csv").open(encoding="utf-8", newline="") as file:
        assert [row["result"] for row in csv.DictReader(file) if row["scenario"] == "card"] == [
            "parked",
            "done",
            "done",
        ]
    # Each order's history says which bulk run it was part of.
    async with opened.store.read() as connection:
        told = await connection.execute(
            select(JournalRow.order_id, JournalRow.reference).where(JournalRow.step == "backfill").distinct()
        )
        assert sorted(tuple(row) for row in told.all()) == [(id_, "backfill 1") for id_ in (bad, *good)]
        row = await backfills.load(connection, 1)
    # What a person has seen to since is so in the report, too.
    assert row is not None
    assert await look_again(opened, row) == 0
    await skip(opened, "CZ5001", "stock", channel=None, author="jana", because="it is in the other warehouse")
    await carry_on_all(opened)
    assert await look_again(opened, row) == 1
    _, totals = await write_report(opened, 1)
    assert totals == {"done": 5, "parked": 1}, "its reservation still waits for somebody"


async def test_what_goes_on_later_is_not_done_and_the_report_tells_what_has_become_of_it_since(
    opened: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KVIT_HOME", str(opened.home))

    async def report() -> tuple[int, str, str, dict[str, int]]:
        """Return with which code the command ends that shows what came of it, and what it says."""
        capsys.readouterr()
        code = await command(report=1, as_json=True)
        told = json.loads(capsys.readouterr().out)
        return code, told["state"], told["said"], told["results"]

    await three_paid(opened)
    for number in ("CZ5001", "CZ5002"):
        await hold_out(opened, number, channel=None, author="jana", because="they called", back=False)
    state = await fill_in()
    said = "backfill 1: 2 done, 4 go on later; the first on 2026-11-23 at 09:15 UTC"
    assert (state.type.value, state.name, state.message) == ("COMPLETED", "Will go on", said)
    assert await state.aresult() == {"backfill": 1, "results": {"done": 2, "goes on later": 4}}
    assert await report() == (0, "Will go on", said, {"done": 2, "goes on later": 4})
    # One is put back, and a step of it waits for somebody who mends the shop.
    in_the_way = opened.home / "labels"
    shutil.move(in_the_way, opened.home / "aside")
    in_the_way.write_text("a file where the folder should be", encoding="utf-8")
    await hold_out(opened, "CZ5002", channel=None, author="jana", because="they called again", back=True)
    await carry_on_all(opened)
    code, name, said, results = await report()
    assert (code, name, results) == (1, "Needs a person", {"done": 3, "goes on later": 2, "misconfigured": 1})
    assert said.startswith("backfill 1: 3 done, 2 go on later, 1 misconfigured; 1 needs a person; the first on ")
    # All is well again, and all that went on later is done.
    in_the_way.unlink()
    await hold_out(opened, "CZ5001", channel=None, author="jana", because="they called again", back=True)
    clock.forward(minutes=30)
    await carry_on_all(opened)
    assert await report() == (0, "Done", "backfill 1: 6 done", {"done": 6})


async def test_money_that_was_left_to_a_person_still_needs_one_after_a_backfill(opened: Installation) -> None:
    await buy(opened)
    await carry_on("card", await pay(opened, amount="400.00"))
    state = await fill_in()
    assert (state.name, state.message) == ("Needs a person", "backfill 1: 1 skipped, 1 parked; 1 needs a person")


async def test_an_order_that_was_paid_before_it_was_begun_is_not_asked_for_its_money(opened: Installation) -> None:
    order_id = await buy(opened, method="bank_transfer")
    await only_matched(opened, [await pay(opened, method="bank_transfer")])
    await fill_in(notify=True)
    ends = await steps_of(opened, order_id)
    for step in ("proforma", "message placed"):
        assert (ends[step]["state"], ends[step]["reason"]) == ("skipped", "the order is paid already")
    # What an order's placing does comes before what its payment does.
    assert ends["reservation"]["id"] < ends["stock"]["id"]
    assert "reservation" in ends
    assert (await order_of(opened, order_id)).status == "k_expedici"


async def test_a_large_backfill_goes_chunk_by_chunk_and_shows_how_far_it_is(
    opened: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.backfill.CHUNK", 2)
    await change_rules(opened, {"scenarios": {"card": {"stock": "ignore", "dispatch": {"start": False}}}})
    await three_paid(opened)
    state = await fill_in()
    assert state.message == "backfill 1: 6 done"
    found = await artifacts_of(state)
    assert [row["Chunk"] for row in rows_of(found["backfill-report"])] == ["1", "1", "2", "3", "3", "4"]
    progress = found["backfill-progress"]
    assert (float(cast("Any", progress.data)), progress.description) == (100, "100 %: 6 of 6 ended in backfill 1")


async def test_orders_are_chosen_by_channel_status_method_dates_and_numbers(opened: Installation) -> None:
    line = {"sku": "TEA-SEN-100", "title": "Sencha", "quantity": 1, "unit_price": "10.00"}
    await buy(opened, "CZ5001", placed_at="2026-11-01T23:59:00Z")
    await buy(opened, "CZ5002", "bank_transfer", placed_at="2026-11-02T00:00:00Z")
    await buy(opened, "CZ5003", status="awaiting_payment", placed_at="2026-11-03T23:59:00Z")
    await buy(opened, "RO2001", channel="ro", currency="RON", total="10.00", lines=[line])
    chosen = {
        "CZ5001 CZ5002 CZ5003 RO2001": Selection(),
        "RO2001": Selection(channel="ro"),
        "CZ5003": Selection(status="awaiting_payment"),
        "CZ5002": Selection(scenario=Method.BANK_TRANSFER),
        "CZ5002 CZ5003": Selection(placed_from=date(2026, 11, 2), placed_to=date(2026, 11, 3)),
        "CZ5001 RO2001": Selection(numbers=["CZ5001", "RO2001", "CZ9999"]),
        "CZ5001": Selection(channel="cz", placed_to=date(2026, 11, 1)),
    }
    for expected, selection in chosen.items():
        plan = (await artifacts_of(await fill_in(selection, dry_run=True)))["backfill-plan"]
        assert " ".join(sorted(row["Order"] for row in rows_of(plan))) == expected


async def test_what_was_cut_short_goes_on_where_it_was_and_only_once(
    opened: Installation, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr("tasks.backfill.CHUNK", 2)
    await three_paid(opened)

    @flow(name="cut short")
    async def cut_short() -> None:
        planned = await choose(Selection())
        number = await begin(Selection(), planned, notify=False, author="Jana", because="an import")
        # A process that is killed now leaves its lease behind, and a chunk that has ended.
        async with opened.store.write() as connection:
            now = clock()
            assert await backfills.hold(connection, number, "dead", until=now + HELD, now=now)
        parts = await take_chunk(opened, number, 1, notify=False)
        await order_placed([part.subject_id for part in parts])
        async with opened.store.read() as connection:
            row = await backfills.load(connection, number)
        assert row is not None
        await end_chunk(opened, row, parts, failed=None)

    await start(cut_short)
    async with opened.store.read() as connection:
        assert await backfills.open_chunks(connection, 1) == [2, 3, 4]
    clock.forward(minutes=2)
    state = await start(backfill, resume=1)
    assert (state.name, state.message) == ("Done", "backfill 1: 6 done")
    assert await done_outside(opened) == ALL_THREE | {"letters": 0}
    state = await start(backfill, resume=1)
    assert state.name == "Refused"
    assert "has ended" in (state.message or "")
    state = await start(backfill, resume=7)
    assert "there is no backfill 7" in (state.message or "")


@pytest.fixture
async def texting(stocked: Path, tmp_path: Path, clock: Clock) -> AsyncGenerator[tuple[Installation, SmsapiStandIn]]:
    """Open a shop whose customers are told by SMS that their money has come."""
    home = tmp_path / "shop"
    shutil.copytree(stocked, home)
    async with SmsapiStandIn(clock=clock) as account:
        texts = {"name": "texts", "type": "smsapi", "base_url": account.url, "token": account.token}
        stanza = texts | {"limits": {"per_second": 100}}
        (home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": [stanza]}), encoding="utf-8")
        async with shop(home, clock=clock) as opened:
            by_sms = [{"template": "payment_received", "moment": "paid", "by": "sms"}]
            change = {"connectors": {"sms": "texts"}, "scenarios": {"card": {"messages": by_sms}}}
            await change_rules(opened, {"title": "Čajovna U Lípy"} | change)
            yield opened, account


async def test_a_backfill_asks_an_outside_system_at_the_rate_it_was_begun_with_also_when_it_goes_on(
    texting: tuple[Installation, SmsapiStandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, account = texting
    waits: list[float] = []

    async def pass_at_once(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("connectors.pacing.sleep", pass_at_once)
    await three_paid(opened)

    @flow(name="cut short")
    async def cut_short() -> None:
        planned = await choose(Selection(scenario=Method.CARD))
        await begin(Selection(), planned, notify=True, author="Jana", because="an import", rates={"texts": 1 / 6})

    await start(cut_short)
    state = await start(backfill, resume=1)
    assert state.message == "backfill 1: 6 done"
    assert len(account.requests) >= 3
    # The first request waits for nobody, and each of the others six seconds more than the one before it.
    assert [round(wait / 6) for wait in waits] == list(range(1, len(account.requests)))
    # What is no part of it goes at the connector's own rate.
    await buy(opened, "CZ5004")
    asked = len(account.requests)
    await carry_on("card", await pay(opened, "CZ5004"))
    assert len(account.requests) > asked
    assert len(waits) == asked - 1


async def test_a_dry_run_shows_the_rates_and_what_can_not_be_kept_is_refused(
    texting: tuple[Installation, SmsapiStandIn],
) -> None:
    opened, _ = texting
    await buy(opened)
    shown = await artifacts_of(await start(backfill, Selection(), shards=2, rates=["texts=500/s"]))
    assert (shown["backfill-plan"].description or "").endswith("are off; texts at most 500/s")
    assert rows_of(shown["backfill-plan-rates"]) == [
        {"System": "texts", "Given": "500/s", "Its own limit": "100/s", "Holds": "100/s", "Each of 2 runs": "250/s"}
    ]
    for rates, shards, said in (
        (["stripe=5/s"], 1, "outside system “stripe” is not known; there is texts"),
        (["texts=1/s"], 8, "is too slow for 8 runs"),
    ):
        state = await start(backfill, Selection(), dry_run=False, shards=shards, rates=rates)
        assert (state.name, said in (state.message or "")) == ("Refused", True), state.message
    async with opened.store.read() as connection:
        assert await backfills.listing(connection) == []


async def test_what_a_slow_backfill_has_not_come_to_is_left_to_it_while_it_lives(
    opened: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.backfill.RENEW_S", 0.01)
    await three_paid(opened)

    @flow(name="slow")
    async def slow() -> None:
        planned = await choose(Selection())
        number = await begin(Selection(), planned, notify=False, author="Jana", because="an import")
        await set_aside(planned, notify=False)
        async with held(opened, number), asyncio.timeout(30):
            clock.now += timedelta(minutes=30)
            while any(at <= clock() for _, at, _ in await due(opened) if at):  # noqa: ASYNC110 - it changes the rows
                await asyncio.sleep(0.01)

    await start(slow)
    assert await Dispatcher(opened).work_off() == 0
    clock.forward(minutes=11)
    assert await Dispatcher(opened).work_off() == 6


# Reconciliation.


async def test_reconciliation_tries_unmatched_payments_again_and_shows_what_needs_a_person(
    opened: Installation,
) -> None:
    await buy(opened, "CZ5001")
    await carry_on("card", await pay(opened, "CZ5001"), await pay(opened, "CZ5001"), await pay(opened, "CZ5002"))
    assert [row[0] for row in await due(opened) if row[1]] == ["order_placed"]
    state = await start(reconcile)
    assert state.name == "Needs a person"
    assert state.message == "0 differences, 0 alarms; 1 unmatched payment tried again; 2 need a person"
    assert [row[0] for row in await due(opened) if row[1]] == ["order_placed", "card"]
    found = await artifacts_of(state)
    by_outcome = {row["Outcome"]: (row["Payments"], row["Sum"]) for row in rows_of(found["payments-by-outcome"])}
    assert by_outcome == {"exact": (1, "378.00"), "duplicate": (1, "378.00"), "unknown": (1, "378.00")}
    persons = rows_of(found["needs-a-person"])
    assert [row["Outcome"] for row in persons] == ["duplicate", "unknown"]
    assert (
        persons[0]["Why"]
        == "CZ5001 is named by the order number CZ5001 and the payer's name with the exact amount, but is already paid"
    )


@pytest.mark.usefixtures("opened")
async def test_reconciliation_of_a_shop_in_which_all_is_well_says_so() -> None:
    state = await start(reconcile)
    said = "0 differences, 0 alarms; 0 unmatched payments tried again; 0 need a person"
    assert (state.name, state.message) == ("Done", said)


@dataclass
class Gateway:
    """A shop with a source that can be polled."""

    opened: Installation
    stripe: StripeStandIn
    clock: Clock


@pytest.fixture
async def gateway(stocked: Path, tmp_path: Path, clock: Clock) -> AsyncGenerator[Gateway]:
    home = tmp_path / "shop"
    shutil.copytree(stocked, home)
    async with StripeStandIn() as stripe:
        connector = {"name": "stripe", "type": "stripe", "base_url": stripe.base_url, "api_key": stripe.api_key}
        connector["webhook_secret"] = stripe.webhook_secret
        (home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": [connector]}), encoding="utf-8")
        async with shop(home, clock=clock) as opened:
            yield Gateway(opened, stripe, clock)


async def test_reconciliation_says_when_a_source_could_not_be_asked(gateway: Gateway) -> None:
    gateway.stripe.go_down()
    state = await start(reconcile)
    assert state.name == "Needs a person"
    assert (state.message or "").startswith("stripe: failed: stripe: answered 503")


async def test_a_pull_stores_what_the_webhooks_missed(gateway: Gateway) -> None:
    gateway.stripe.pay("CZ5001", 37800, "czk", now=gateway.clock())
    gateway.clock.forward(minutes=1)
    state = await start(pull_payments)
    assert (state.name, state.message) == ("Done", "stripe: 1 new")
    state = await start(pull_payments, sources=["stripe"])
    assert (state.name, state.message) == ("Done", "stripe: 0 new")
    async with gateway.opened.store.read() as connection:
        assert await inbox.count_due(connection, gateway.clock()) == 1


class Defective:
    """A source with a defect."""

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        raise KeyError(f"{cursor} {now}")


async def test_a_source_that_fails_stops_no_other_and_needs_a_person(gateway: Gateway) -> None:
    working = gateway.opened.connectors.pop("stripe")
    gateway.opened.connectors.update({"defective": Defective(), "stripe": working})
    gateway.stripe.pay("CZ5001", 37800, "czk", now=gateway.clock())
    gateway.clock.forward(minutes=1)
    state = await start(pull_payments)
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert state.message == "defective: failed: unexpected KeyError while polling defective; stripe: 1 new"


@pytest.mark.usefixtures("opened")
async def test_a_pull_from_a_source_that_does_not_exist_says_so() -> None:
    state = await start(pull_payments, sources=["strpie", "labels"])
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    first, second = (state.message or "").split("; labels: ")
    assert first.startswith("strpie: failed: connector “strpie” is not configured; kvit.yaml has camt, ")
    assert second == "failed: connector “labels” can't be used as PaymentSource"
    state = await start(pull_payments)
    assert (state.name, state.message) == ("Done", "no source can be polled")
