"""The archive: closed orders leave the growing tables whole, and whatever comes late still finds them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
import zlib
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from shop_builders import SHOPKEEPER, Clock, buy, order_document, payment_of, shop, stock_up, take_payments
from sqlalchemy import make_url, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments import cli_archive
from deployments.cli import orders_show
from deployments.cli_revert import revert
from deployments.command import DONE, Wrong
from domain.changes import StatusChange
from domain.money import Money
from domain.order_document import parse_order
from domain.orders import PaymentState
from domain.payments import IncomingPayment, Kind, Outcome
from store import archive, archived, inbox, journal, orders, payments, reconciliation
from store.archive import What
from store.audit import audit
from store.rights import product_rights
from store.tables import Table
from tasks import archive as tasks_archive
from tasks.dispatch import start_dispatch
from tasks.installation import Installation
from tasks.invoice import issue_invoice, print_documents
from tasks.match import match_payments
from tasks.notify import notify_customer
from tasks.order_intake import take_order
from tasks.status import set_status
from tasks.stock import deduct_stock, reserve_stock

YEAR = timedelta(days=365)
ON_ONE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""For what doesn't depend on the database."""


@pytest.fixture
def clock() -> Clock:
    """Return the clock of this test's shop."""
    return Clock()


@pytest.fixture
async def opened(url: str, tmp_path: Path, clock: Clock) -> AsyncGenerator[Installation]:
    """Open a shop with rules and stock on each database in turn."""
    async with shop(tmp_path / "shop", url=url, clock=clock) as opened:
        await stock_up(opened)
        yield opened


async def finish(opened: Installation, number: str) -> tuple[int, IncomingPayment]:
    """Sell an order from its first step to its last; return it and the payment that paid it."""
    now = opened.clock()
    order_id = await buy(opened, number, placed_at=now.isoformat())
    payment = payment_of(number, provider_reference=f"pi_{number}", booked_on=now.date())
    async with opened.store.write() as connection:
        letter = await inbox.put(
            connection, source="test", external_id=f"evt_{number}", kind="paid", body=b"{}", now=now, due_at=now
        )
        assert letter is not None
        [(payment_id, _)] = await payments.add(connection, [payment], now=now, inbox_id=letter)
        await inbox.handled(connection, [letter], now=now)
    paid = (await match_payments.fn([payment_id])).paid
    for step in (reserve_stock, issue_invoice, set_status, deduct_stock, start_dispatch, *notify_customer.steps):
        await step.carry_out(opened, paid, owner="test")
    await print_documents(opened, [order_id])
    async with opened.store.write() as connection:
        await connection.execute(text("UPDATE work SET due_at = NULL, finished_at = created_at"))
    return order_id, payment


async def a_year_later(opened: Installation, clock: Clock, *numbers: str) -> list[tuple[int, IncomingPayment]]:
    """Sell some orders, and one more a year later, which stays."""
    sold = [await finish(opened, number) for number in numbers]
    clock.forward(days=366)
    await finish(opened, "CZ9000")
    return sold


async def archive_all(opened: Installation, *, before: datetime, limit: int = 100) -> archive.Moved:
    """Archive what is closed, in one piece."""
    async with opened.store.write() as connection:
        return await archive.take(connection, What.ORDERS, before=before, after=0, limit=limit, now=opened.clock())


async def judge(connection: AsyncConnection, clock: Clock) -> archive.Moved:
    """Say what would become of the first order, if nothing had happened to it for a year."""
    before = clock.now - YEAR
    return await archive.judge(connection, What.ORDERS, before=before, after=0, limit=1, now=clock.now)


async def contents(opened: Installation) -> dict[str, list[Any]]:
    """Return every row of every table but the archive's own."""
    found: dict[str, list[Any]] = {}
    async with opened.store.read() as connection:
        for table in Table.metadata.sorted_tables:
            if table.name not in ("archives", "archived_names"):
                rows = await connection.execute(select(table).order_by(*table.primary_key.columns))
                found[table.name] = [dict(row) for row in rows.mappings().all()]
    return found


async def findings(opened: Installation) -> list[str]:
    """Return what the audit finds."""
    async with opened.store.read() as connection:
        return [f"{one.subject}: {one.said}" for one in await audit(connection, now=opened.clock())]


async def test_a_closed_order_goes_with_everything_of_its_own_and_comes_back_as_it_was(
    opened: Installation, clock: Clock
) -> None:
    [(order_id, _)] = await a_year_later(opened, clock, "CZ5001")
    assert await findings(opened) == []
    before = await contents(opened)
    async with opened.store.read() as connection:
        digest = await journal.digest(connection)

    moved = await archive_all(opened, before=clock.now - YEAR)

    assert (moved.orders, moved.kept) == (1, {})
    left = await contents(opened)
    assert [row["number"] for row in left["orders"]] == ["CZ9000"]
    pointing = [
        name
        for name, rows in left.items()
        for row in rows
        if row.get("order_id") == order_id or (name in ("payments", "inbox") and len(rows) != 1)
    ]
    assert pointing == []
    assert await findings(opened) == []
    async with opened.store.read() as connection:
        assert await journal.digest(connection) == digest

    async with opened.store.write() as connection:
        assert await archive.bring_back(connection, [archived.Name("order", "cz", "CZ5001")], because="a test") == 1
        assert await archive.bring_back(connection, [archived.Name("order", "cz", "CZ5001")], because="again") == 0

    after = await contents(opened)
    moved, were = after.pop("stock_moves"), before.pop("stock_moves")
    carried = [row for row in moved if row not in were]
    assert [row for row in moved if row not in carried] == were
    assert [(row["kind"], row["quantity"]) for row in carried] == [("carried", -2), ("carried", 2)]
    for name in ("item_references", "payment_references"):  # nothing points at these, so they are numbered anew
        for rows in (before, after):
            rows[name] = sorted(({**row, "id": 0} for row in rows[name]), key=str)
    assert after == before
    assert await findings(opened) == []
    async with opened.store.read() as connection:
        assert await journal.digest(connection) == digest


async def match(opened: Installation, incoming: IncomingPayment) -> dict[str, Any]:
    """Take a payment in and match it; return what it turned out to be."""
    (payment_id,) = await take_payments(opened, incoming)
    await match_payments.fn([payment_id])
    async with opened.store.read() as connection:
        (found,) = await payments.listing(connection, payment_id=payment_id)
    return found


async def here(opened: Installation) -> list[str]:
    """Return the numbers of the orders that are not archived."""
    async with opened.store.read() as connection:
        return [row["number"] for row in await orders.listing(connection)]


async def test_what_comes_late_finds_its_order_and_is_never_new_money(opened: Installation, clock: Clock) -> None:
    sold = await a_year_later(opened, clock, *(f"CZ500{place}" for place in range(1, 7)))
    (_, told_again), (_, refunded), *_ = sold
    assert (await archive_all(opened, before=clock.now - YEAR)).orders == 6
    now = clock.now

    # The same payment, or the same message about it, is known, and brings nothing back.
    assert await take_payments(opened, told_again) == []
    async with opened.store.write() as connection:
        again: dict[str, Any] = {"source": "test", "kind": "paid", "body": b"{}", "now": now, "due_at": now}
        assert await inbox.put(connection, external_id="evt_CZ5001", **again) is None
        assert await inbox.put(connection, external_id="evt_CZ5099", **again) is not None
    assert await here(opened) == ["CZ9000"]

    # Nor do comparisons with a gateway, a shop or a series of documents miss what is archived.
    async with opened.store.read() as connection:
        stored = await reconciliation.stored(connection, "test", [told_again.external_id, "never seen"])
        known = await reconciliation.stored_orders(connection, [("cz", "CZ5001"), ("cz", "CZ5099")])
        assert await reconciliation.series_out_of_order(connection) == []
    assert [(one.external_id, one.amount) for one in stored.values()] == [(told_again.external_id, told_again.amount)]
    assert [(name, one.state) for name, one in known.items()] == [(("cz", "CZ5001"), PaymentState.PAID)]

    # Money that goes back finds what it goes back from.
    back = replace(refunded, external_id="refund", amount=-refunded.amount, kind=Kind.REFUND)
    [refund_id] = await take_payments(opened, back)
    async with opened.store.write() as connection:
        origin = await payments.origin_of(connection, (await payments.load(connection, [refund_id]))[refund_id])
    assert origin is not None
    assert [(one.number, one.amount) for one in origin.kept] == [("CZ5002", Money(37_800, "CZK"))]

    # A second payment for an order is a duplicate, for a person to look at.
    double = await match(opened, payment_of("CZ5003"))
    assert (double["outcome"], double["policy"]) == (Outcome.DUPLICATE, "operator")

    # A status that was set elsewhere is that order's.
    async with opened.store.write() as connection:
        change = StatusChange(status="returned", number="CZ5004")
        [order_id] = await orders.of_change(connection, change, ["cz"], carrier=None)
    assert order_id == sold[3][0]

    # The shop hands one over once more, which makes it no new order.
    document = parse_order(order_document("CZ5005"), where="test")
    async with opened.store.write() as connection:
        assert await take_order(connection, opened, document, actor=SHOPKEEPER) is None
    assert sorted(await here(opened)) == ["CZ5002", "CZ5003", "CZ5004", "CZ5005", "CZ9000"]
    assert [one for one in await findings(opened) if "CZ" in one] == []


@ON_ONE
async def test_what_is_not_closed_stays(opened: Installation, clock: Clock) -> None:
    [(order_id, _)] = await a_year_later(opened, clock, "CZ5001")
    changes = {
        "waits for its money": "UPDATE orders SET standard_status = 'awaiting_payment' WHERE id = :id",
        "held out of automation": "UPDATE orders SET held_out = 'anna' WHERE id = :id",
        "a payment of it waits for a person": "UPDATE payments SET policy = 'operator'",
        "a step of it has not ended": "UPDATE effects SET state = 'in_doubt' WHERE order_id = :id",
        "something is due": "UPDATE work SET due_at = '2027-01-01 00:00:00' WHERE subject = 'order'",
        "a document of it is not printed": "UPDATE documents SET file = NULL WHERE order_id = :id",
        "its money is not settled": "UPDATE open_items SET amount_minor = 40000 WHERE order_id = :id",
        "something happened to it since": "UPDATE journal SET at = '2027-01-01 00:00:00' WHERE order_id = :id",
        "needed by payouts": """
            INSERT INTO payouts (id, source, external_id, currency, gross_minor, fee_minor, net_minor, paid_on,
                payment_id, received_at)
            SELECT 1, 'bank', 'po', 'CZK', 1, 0, 1, '2026-01-01', payment_id, at FROM allocations WHERE order_id = :id
            """,
    }
    said: dict[str, list[str]] = {}
    for why, change in changes.items():
        async with opened.store.write() as connection, connection.begin_nested() as undone:
            values = {"id": order_id} if ":id" in change else {}
            await connection.execute(text(change), values)
            judged = await judge(connection, clock)
            said[why] = list(judged.kept)
            await undone.rollback()
    assert said == {why: [why] for why in changes}
    async with opened.store.read() as connection:
        judged = await judge(connection, clock)
    assert (judged.orders, judged.kept) == (1, {})
    assert len(await here(opened)) == 2


@ON_ONE
async def test_orders_that_one_payment_settled_go_together_or_not_at_all(opened: Installation, clock: Clock) -> None:
    one, other = [await buy(opened, number) for number in ("CZ5001", "CZ5002")]
    both = payment_of(None, "756.00", method="bank_transfer", text="CZ5001 CZ5002")
    matched = await match(opened, both)
    assert matched["outcome"] == Outcome.EXACT
    async with opened.store.write() as connection:
        await connection.execute(text("UPDATE work SET due_at = NULL"))
        await connection.execute(text("UPDATE orders SET standard_status = 'completed'"))
    clock.forward(days=366)
    await finish(opened, "CZ9000")
    async with opened.store.write() as connection, connection.begin_nested() as undone:
        await connection.execute(text("UPDATE orders SET held_out = 'anna' WHERE id = :id"), {"id": other})
        judged = await judge(connection, clock)
        assert judged.kept == {"held out of automation": 2}
        await undone.rollback()
    moved = await archive_all(opened, before=clock.now - YEAR, limit=1)
    assert moved.orders == 2
    assert await here(opened) == ["CZ9000"]
    async with opened.store.read() as connection:
        assert [id_ for id_, _ in await archived.of_number(connection, "CZ5002")] == [
            id_ for id_, _ in await archived.of_number(connection, "CZ5001")
        ]
    assert await findings(opened) == []
    assert one < other


@ON_ONE
async def test_what_belongs_to_no_order_is_archived_and_known_again(opened: Installation, clock: Clock) -> None:
    now = clock.now
    ours = payment_of(None, "-50.00", method="bank_transfer", text="rent")
    unknown = payment_of("CZ9999", method="bank_transfer")
    assert (await match(opened, ours))["outcome"] == Outcome.OUTGOING
    assert (await match(opened, unknown))["outcome"] == Outcome.UNKNOWN
    letter: dict[str, Any] = {"source": "shop", "external_id": "evt 1", "kind": "order", "body": b"{}", "due_at": None}
    async with opened.store.write() as connection:
        assert await inbox.put(connection, now=now, **letter) is not None
        await connection.execute(text("UPDATE work SET due_at = NULL"))
    clock.forward(days=366)
    await finish(opened, "CZ9000")

    done = await tasks_archive.archive_before(opened, (clock.now - YEAR).date())
    assert (done.orders, done.rows > 1) == (0, True)
    assert await take_payments(opened, ours, unknown) == []
    async with opened.store.write() as connection:
        assert await inbox.put(connection, now=now, **letter) is None
        left = await payments.listing(connection)
    assert [row["outcome"] for row in left] == [Outcome.UNKNOWN, Outcome.EXACT]
    assert await findings(opened) == []


def test_what_points_at_what_is_archived_is_archived_too_or_keeps_it() -> None:
    keeps = {"balance_entries", "payouts"}  # a customer's balance, and money that a gateway sent
    loosened = {"payer_accounts"}  # whose account that is stays known
    pointing = {
        table.name
        for table in Table.metadata.tables.values()
        for key in table.foreign_keys
        if key.column.table.name in archive.MOVED
    }
    assert pointing - archive.MOVED == keeps | loosened


def test_no_more_is_unpacked_than_was_ever_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archived, "LARGEST", 1_000)
    bomb = zlib.compress(bytes(1_000_000))
    with pytest.raises(archived.ArchiveError, match="it was changed"):
        archived.unpack(bomb, hashlib.sha256(bytes(1_000_000)).hexdigest())
    with pytest.raises(archived.ArchiveError, match="it is damaged"):
        archived.unpack(b"nothing", "")


@ON_ONE
async def test_an_archive_that_was_changed_or_lost_shows(opened: Installation, clock: Clock) -> None:
    [(order_id, _)] = await a_year_later(opened, clock, "CZ5001")
    await archive_all(opened, before=clock.now - YEAR)
    async with opened.store.write() as connection:
        await connection.execute(text("UPDATE archives SET checksum = 'another'"))
    assert any("it was changed" in one for one in await findings(opened))
    # A payment that names it can't be told what it is, and others go on.
    assert (await match(opened, payment_of("CZ5001")))["policy"] == "operator"
    async with opened.store.write() as connection:
        await connection.execute(text("DELETE FROM archived_names"))
        await connection.execute(text("DELETE FROM archives"))
    told = await findings(opened)
    assert any(f"order {order_id}: " in one and "rows were written, 0 are there" in one for one in told)
    assert any("missing: 1" in one for one in told)  # its invoice's number


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_whoever_may_only_run_the_product_brings_back_but_takes_nothing_out_of_the_history(
    opened: Installation, url: str, clock: Clock, tmp_path: Path
) -> None:
    await a_year_later(opened, clock, "CZ5001", "CZ5002")
    await archive_all(opened, before=clock.now - YEAR, limit=1)
    role = "kvit_that_runs"
    async with opened.store.write() as connection:
        for statement in (f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role} LOGIN", *product_rights(role)):
            await connection.exec_driver_sql(statement)
    restricted = make_url(url).set(username=role).render_as_string(hide_password=False)
    async with shop(tmp_path / "restricted", url=restricted, clock=clock) as running:
        with pytest.raises(tasks_archive.ArchiveError, match="archive with the URL of the tables' owner"):
            await tasks_archive.archive_before(running, (clock.now - YEAR).date())
        assert (await match(running, payment_of("CZ5001")))["outcome"] == Outcome.DUPLICATE
    assert await here(opened) == ["CZ5001", "CZ5002", "CZ9000"]
    async with opened.store.write() as connection:
        for statement in (f"DROP OWNED BY {role}", f"DROP ROLE {role}"):
            await connection.exec_driver_sql(statement)


# What kills itself when it has archived one piece and is in the middle of the next.
KILLED = """
import asyncio, os, signal, sys
from datetime import datetime
from sqlalchemy import Engine, event
from store import archive
from store.database import open_store

def die(_connection, _cursor, statement, *_):
    if statement.startswith("DELETE FROM payments") and pieces:
        os.kill(os.getpid(), signal.SIGKILL)

pieces = []
event.listen(Engine, "before_cursor_execute", die)

async def main():
    store = await open_store(sys.argv[1])
    before = now = datetime.fromisoformat(sys.argv[2])
    after = 0
    while after is not None:
        async with store.write() as connection:
            moved = await archive.take(connection, archive.What.ORDERS, before=before, after=after, limit=1, now=now)
        pieces.append(moved)
        after = moved.last

asyncio.run(main())
"""


async def test_one_that_is_killed_in_the_middle_goes_on_where_it_was(
    opened: Installation, url: str, clock: Clock
) -> None:
    await a_year_later(opened, clock, "CZ5001", "CZ5002", "CZ5003")
    command = [sys.executable, "-c", KILLED, url, (clock.now - YEAR).isoformat()]
    process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2])
    assert await process.wait() == -signal.SIGKILL
    assert await here(opened) == ["CZ5002", "CZ5003", "CZ9000"]
    assert await findings(opened) == []

    day = (clock.now - YEAR).date()
    planned = await tasks_archive.plan(opened, day)
    done = await tasks_archive.archive_before(opened, day)
    assert (planned.orders, planned.rows, planned.kept) == (done.orders, done.rows, done.kept)
    assert await here(opened) == ["CZ9000"]
    assert await findings(opened) == []
    assert (await tasks_archive.archive_before(opened, day)).orders == 0


@pytest.fixture
async def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an installation that sold an order in 2024 and another one later, and give commands there."""
    monkeypatch.delenv("KVIT_DATABASE_URL", raising=False)
    monkeypatch.setenv("KVIT_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    clock = Clock(datetime(2024, 1, 15, 12, tzinfo=UTC))
    async with shop(tmp_path, clock=clock) as opened:
        await stock_up(opened)
        await a_year_later(opened, clock, "CZ5001")
    return tmp_path


@pytest.mark.usefixtures("home")
async def test_a_person_archives_looks_at_what_is_archived_and_brings_it_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def told(command: Coroutine[Any, Any, int]) -> dict[str, Any]:
        assert await command == DONE
        return json.loads(capsys.readouterr().out)

    day = date(2025, 1, 1)
    before = await told(orders_show("CZ5001", as_json=True))
    planned = await told(cli_archive.archive(before=day, plan=True, as_json=True))
    assert (planned["plan"], planned["orders"], planned["looked_at"], planned["stay"]) == (True, 1, 1, [])
    assert await told(cli_archive.archive(before=day, as_json=True)) == planned | {"plan": False}
    assert await cli_archive.archive(before=day) == DONE
    assert capsys.readouterr().out == "0 of 0 orders archived, 0 rows; 0 stay.\n"

    after = await told(orders_show("CZ5001", as_json=True))
    assert (before["archived"], after["archived"]) == (False, True)
    assert after == before | {"archived": True}
    with pytest.raises(Wrong, match="order CZ5001 is archived; bring it back first: kvit archive back CZ5001"):
        await revert(["CZ5001"], plan=True)
    with pytest.raises(Wrong, match="order CZ9000 is not archived"):
        await cli_archive.archive_back("CZ9000")
    assert await told(cli_archive.archive_back("CZ5001", because="a return", as_json=True)) == {
        "order": "CZ5001",
        "brought_back": 1,
    }
    assert await told(orders_show("CZ5001", as_json=True)) == before
    with pytest.raises(Wrong, match="too young: choose a day at least 30 days ago"):
        await cli_archive.archive(before=date.max)
