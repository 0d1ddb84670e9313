"""Transactions: all or nothing, one state for a reader, one writer at a time where the database has only one."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, literal, make_url, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError
from store_builders import NOW, change, column, scalar

from store.database import Store, StoreError, open_store
from store.tables import ConnectorState, OrderLineRow, StockItem


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kvit.db", "not a database URL"),
        ("", "not a database URL"),
        ("postgresql://kvit@host:port/kvit", "not a database URL"),
        ("mysql://host/kvit", "mysql is not a database Kvit can use"),
        ("postgresql+psycopg://host/kvit", r"postgresql\+psycopg is not a database Kvit can use"),
        ("sqlite:////no/such/folder/kvit.db", "/no/such/folder .* does not exist"),
        ("postgresql://kvit@127.0.0.1:1/kvit", "can't be opened"),
        ("postgresql://kvit@127.0.0.1:1/kvit?colour=red", "colour"),
    ],
)
async def test_a_database_that_cannot_be_used_is_refused_in_a_sentence(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        await open_store(url)


async def test_a_file_that_is_no_database_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "kvit.db").write_text("orders\n" * 1000)

    with pytest.raises(StoreError, match="file is not a database"):
        await open_store(f"sqlite:///{tmp_path / 'kvit.db'}")


async def test_a_refused_database_does_not_give_its_password_away() -> None:
    with pytest.raises(StoreError) as refused:
        await open_store("postgresql://kvit:hunter2@127.0.0.1:1/kvit")

    assert "hunter2" not in str(refused.value)


async def test_a_database_that_is_not_there_is_refused_in_a_sentence(postgres: Any) -> None:
    with pytest.raises(StoreError, match='can\'t be opened: database "nowhere" does not exist'):
        await open_store(postgres.url("nowhere"))


async def test_a_database_that_lets_nobody_in_fails_like_any_other_statement(postgres: Any) -> None:
    url = await asyncio.to_thread(postgres.new)
    name = make_url(url).database
    store = await open_store(url)
    await store.close()
    await postgres.run("postgres", f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    for way in (store.read, store.write):
        with pytest.raises(OperationalError):
            async with way():
                raise AssertionError("nobody gets in here")


async def test_the_address_of_a_hosted_postgresql_is_taken_as_its_provider_writes_it(url: str) -> None:
    if url.startswith("sqlite"):
        return
    plain = url.replace("postgresql://", "postgres://")

    store = await open_store(f"{plain}&sslmode=disable")

    assert await column(store, "SELECT 1") == [1]
    await store.close()


async def _prepared(url: str) -> int:
    """Return how many statements a connection still knows that was asked four hundred different ones."""
    store = await open_store(url)
    async with store.read() as connection:
        for number in range(400):
            await connection.execute(select(literal(number).label(f"number_{number}")))
        known = await connection.scalar(text("SELECT count(*) FROM pg_prepared_statements"))
    await store.close()
    assert known is not None
    return known


async def test_a_connection_keeps_all_statements_of_the_hot_path_prepared_unless_told_not_to(postgres: Any) -> None:
    url = await asyncio.to_thread(postgres.new)

    assert await _prepared(url) >= 400
    assert await _prepared(f"{url}&prepared_statement_cache_size=0") < 10


async def test_a_write_that_raises_leaves_nothing(store: Store) -> None:
    async def fails() -> None:
        async with store.write() as connection:
            await connection.execute(insert(ConnectorState).values(connector="bank", cursor="1", polled_at=NOW))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await fails()

    assert await column(store, "SELECT connector FROM connector_state") == []


async def test_a_write_that_is_cancelled_leaves_nothing_and_the_next_one_goes_on(store: Store) -> None:
    begun = asyncio.Event()

    async def never_ends() -> None:
        async with store.write() as connection:
            await connection.execute(insert(ConnectorState).values(connector="bank", cursor="1", polled_at=NOW))
            begun.set()
            await asyncio.Event().wait()

    cut_off = asyncio.create_task(never_ends())
    await begun.wait()
    cut_off.cancel()
    await asyncio.wait({cut_off})

    async with store.write() as connection:
        await connection.execute(insert(ConnectorState).values(connector="mail", cursor="1", polled_at=NOW))
    assert await column(store, "SELECT connector FROM connector_state") == ["mail"]


async def test_what_a_reader_sees_does_not_change_while_it_reads(store: Store, other: Store) -> None:
    async with store.read() as connection:
        before = await scalar(connection, "SELECT count(*) FROM connector_state")
        await change(other, "INSERT INTO connector_state (connector, polled_at) VALUES ('bank', '2026-05-04 12:00:00')")
        after = await scalar(connection, "SELECT count(*) FROM connector_state")

    assert (before, after) == (0, 0)
    assert await column(store, "SELECT count(*) FROM connector_state") == [1]


async def test_writers_that_add_to_what_they_read_do_not_lose_an_addition(store: Store, other: Store) -> None:
    await change(store, "INSERT INTO stock_items (sku, title, on_hand, reserved) VALUES ('MUG', '', 0, 0)")

    async def add_one(through: Store) -> None:
        async with through.write() as connection:
            found = await connection.scalar(select(StockItem.on_hand).with_for_update())
            await connection.execute(update(StockItem).values(on_hand=(found or 0) + 1))

    await asyncio.gather(*(add_one(through) for _ in range(15) for through in (store, other)))

    assert await column(store, "SELECT on_hand FROM stock_items") == [30]


async def test_sqlite_writers_of_one_process_take_turns(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 'kvit.db'}")
    inside = 0
    most = 0

    async def write() -> None:
        nonlocal inside, most
        async with store.write() as connection:
            inside += 1
            most = max(most, inside)
            await connection.execute(text("SELECT 1"))
            inside -= 1

    await asyncio.gather(*(write() for _ in range(20)))
    await store.close()

    assert most == 1


async def test_a_row_that_points_nowhere_is_refused(store: Store) -> None:
    row = {"order_id": 404, "position": 1, "title": "Mug", "quantity": 1, "unit_price_minor": 1, "vat_rate": "21"}

    with pytest.raises(IntegrityError):
        async with store.write() as connection:
            await connection.execute(insert(OrderLineRow).values(**row))


async def test_a_moment_is_read_back_in_utc_and_one_without_a_zone_is_refused(store: Store) -> None:
    prague = datetime.fromisoformat("2026-05-04T14:00:00+02:00")
    async with store.write() as connection:
        await connection.execute(insert(ConnectorState).values(connector="bank", polled_at=prague))
    async with store.read() as connection:
        [found] = (await connection.execute(ConnectorState.__table__.select())).all()

    assert found.polled_at.isoformat() == "2026-05-04T12:00:00+00:00"
    with pytest.raises(StatementError, match="without a time zone"):
        async with store.write() as connection:
            await connection.execute(
                insert(ConnectorState).values(connector="mail", polled_at=NOW.replace(tzinfo=None))
            )


# One writer at a time.


async def in_turn(store: Store, came: list[str], name: str, *, urgent: bool = False) -> None:
    """Write once, and say so."""
    async with store.write(urgent=urgent):
        came.append(name)


async def test_what_is_urgent_goes_ahead_of_other_writers_but_not_twice_in_a_row(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 'kvit.db'}")
    came: list[str] = []
    async with store.write(), asyncio.timeout(60):
        waiting = [asyncio.create_task(in_turn(store, came, f"other {place}")) for place in range(3)]
        await asyncio.sleep(0)
        waiting += [asyncio.create_task(in_turn(store, came, f"urgent {place}", urgent=True)) for place in range(4)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert came == ["urgent 0", "other 0", "urgent 1", "other 1", "urgent 2", "other 2", "urgent 3"]
    await store.close()


@pytest.mark.parametrize("had_its_turn", [False, True])
async def test_a_writer_that_goes_away_while_it_waits_holds_nobody_up(tmp_path: Path, had_its_turn: bool) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 'kvit.db'}")
    came: list[str] = []
    async with asyncio.timeout(60):
        async with store.write():
            gone = asyncio.create_task(in_turn(store, came, "gone"))
            await asyncio.sleep(0)
            next_one = asyncio.create_task(in_turn(store, came, "next"))
            await asyncio.sleep(0)
            if not had_its_turn:
                gone.cancel()
                await asyncio.sleep(0)
        gone.cancel()  # it may have been let in, and not have noticed yet
        await next_one
        await in_turn(store, came, "later")
    assert came[-2:] == ["next", "later"]
    await store.close()
