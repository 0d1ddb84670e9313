"""Measures how long one payment takes to match against the open items of a store, found by index.

    python tests/bench/lookup.py --items 1000000 [--payments 500]

Prints one JSON document: reading what the payment names, fetching what it can mean, and deciding. Filling the store is
not measured. SQLite; with KVIT_DATABASE_URL set, the empty PostgreSQL database that it names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.matching import Reader, decide
from domain.money import Money
from domain.payments import IncomingPayment, Method
from domain.references import payer_reference
from domain.rules import ChannelRules, EvidenceKind, ReferenceRules, Seller
from store import payments
from store.database import open_store
from store.tables import CustomerRow, OpenItemRow, OrderRow, PayerAccount, ReferenceRow, Table

_AT_ONCE = 20_000
_ACCOUNT = "CZ2799100000001900260111"
_NOW = datetime(2026, 11, 2, tzinfo=UTC)
_RULES = ChannelRules(
    channel="cz",
    title="cz",
    currency="CZK",
    seller=Seller(name="cz"),
    accounts=(_ACCOUNT,),
    references=ReferenceRules(order_number="CZ[0-9]{8}"),
)


def _name(number: int) -> str:
    random = Random(number)
    surname = "".join(random.choices("abdekilmnorstu", k=6))
    return f"{random.choice('Jana Petr Eva Karel Alena Hana Pavel'.split())} {surname}"


def _amount(number: int) -> int:
    return 9_900 + number * 7_919 % 990_000


async def _fill(connection: AsyncConnection, count: int) -> None:
    async def put(table: type[Table], rows: Sequence[dict[str, Any]]) -> None:
        await connection.execute(insert(table), rows)

    for begin in range(1, count + 1, _AT_ONCE):
        numbers = range(begin, min(begin + _AT_ONCE, count + 1))
        # Every fourth customer has four orders.
        owners = {number: number - number % 4 if number % 16 < 4 and number > 4 else number for number in numbers}
        await put(
            CustomerRow,
            [{"id": n, "channel": "cz", "number": str(n), "name": _name(owners[n]), "address": {}} for n in numbers],
        )
        await put(PayerAccount, [{"account": f"CZ61{n:020}", "customer_id": n, "payment_id": None} for n in numbers])
        await put(
            OrderRow,
            [
                {
                    "id": n,
                    "channel": "cz",
                    "number": f"CZ{n:08}",
                    "customer_id": owners[n],
                    "currency": "CZK",
                    "method": "bank_transfer",
                    "status": "awaiting_payment",
                    "standard_status": "awaiting_payment",
                    "total_minor": _amount(n),
                    "delivery_address": {},
                    "placed_at": _NOW,
                    "created_at": _NOW,
                }
                for n in numbers
            ],
        )
        await put(
            OpenItemRow,
            [
                {
                    "id": n,
                    "order_id": n,
                    "customer_id": owners[n],
                    "channel": "cz",
                    "currency": "CZK",
                    "amount_minor": _amount(n),
                }
                for n in numbers
            ],
        )
        await put(ReferenceRow, [row for n in numbers for row in _called(n, owners[n])])


def _called(number: int, owner: int) -> Iterator[dict[str, Any]]:
    name = payer_reference(_name(owner), Money(_amount(number), "CZK"))
    for kind, value in (
        (EvidenceKind.ORDER_NUMBER, f"CZ{number}"),
        (EvidenceKind.END_TO_END_ID, f"CZ{number:08}"),
        (EvidenceKind.VARIABLE_SYMBOL, str(number)),
        (EvidenceKind.PAYER_NAME, name),
    ):
        yield {"open_item_id": number, "kind": kind.value, "value": value}


def _payment(random: Random, count: int) -> IncomingPayment:
    number = random.randint(1, count)
    told: dict[str, Any] = random.choice(
        [{"variable_symbol": f"{number:010}"}, {"text": f"platba za CZ {number:08} děkuji"}, {"text": "za zboží"}]
    )
    return IncomingPayment(
        source="bank",
        external_id="1",
        method=Method.BANK_TRANSFER,
        amount=Money(_amount(number), "CZK"),
        booked_on=date(2026, 11, 3),
        account=_ACCOUNT,
        payer_name=_name(number).upper(),
        payer_account=f"CZ61{number:020}",
        **told,
    )


async def _measured(url: str, items: int, count: int) -> dict[str, Any]:
    store = await open_store(url)
    began = time.perf_counter()
    async with store.write() as connection:
        await _fill(connection, items)
    filled = time.perf_counter() - began
    random, reader = Random(items), Reader({"cz": _RULES})
    seconds: list[float] = []
    settled = 0
    for _ in range(count):
        payment = _payment(random, items)
        began = time.perf_counter()
        references = reader.references(payment)
        async with store.write() as connection:
            found = await payments.candidates(connection, references)
        match = decide(payment, references, [found[id_] for id_ in sorted(found)], {"cz": _RULES}, reader)
        seconds.append(time.perf_counter() - began)
        settled += bool(match.parts)
    await store.close()
    ranked = sorted(seconds)
    return {
        "database": url.partition(":")[0].partition("+")[0],
        "open_items": items,
        "payments": count,
        "settled": settled,
        "p50_ms": round(ranked[count // 2] * 1000, 2),
        "p99_ms": round(ranked[min(count - 1, count * 99 // 100)] * 1000, 2),
        "filling_s": round(filled, 1),
    }


def measure(items: int, payments: int = 500) -> dict[str, Any]:
    """Measure one size."""
    with tempfile.TemporaryDirectory(prefix="kvit-bench-") as folder:
        url = os.environ.get("KVIT_DATABASE_URL") or f"sqlite+aiosqlite:///{Path(folder) / 'kvit.sqlite'}"
        return asyncio.run(_measured(url, items, payments))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="One payment against the open items of a store")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--payments", type=int, default=500)
    given = parser.parse_args()
    sys.stdout.write(json.dumps(measure(given.items, given.payments), indent=2) + "\n")


if __name__ == "__main__":
    main()
