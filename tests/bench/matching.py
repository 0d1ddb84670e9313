"""Measures bulk matching beside the bare pandas merges of the same keys, in the same process.

    python tests/bench/matching.py --payments 1000000 [--plain]

Prints one JSON document. The payments are those of corpus.py, made to be hard; with --plain they are such as most are:
the symbol in its field, a text without a number, the customer's name as banks write it, and three of a hundred that are
short, have no symbol, or come twice. Making and parsing them is not measured: both sides are given frames, as who reads
files makes them. Matching is given payments as they came. "index" is what is done with the open items before the first
payment, "match" all that is done with the payments: reading what they name out of their fields and texts, the joins,
the decisions and the frame of what was allocated. The yardstick is given what payments name and what items are called
in normal form, merges the two, kind by kind, and does nothing with it; the best of three counts. "columns" is what it
takes to make the frame of payments out of objects, for whoever has these; "objects_to_merges" alone counts it in.
Seconds are the processor's, so that what goes on beside it counts little; all of it is one thread.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

if __name__ == "__main__":
    # Instead of this script's own folder, where bench.py would be taken for the package.
    sys.path[0] = str(Path(__file__).parents[1])

from bench.corpus import make

from domain.bulk_matching import CHUNK, OpenItems, payment_frame
from domain.match_documents import Orders, read_payment
from domain.matching import Reader
from domain.payments import IncomingPayment
from domain.rules import ChannelRules, parse_rules


def measure(payments: int, *, plain: bool) -> dict[str, Any]:
    """Measure one size in a process of its own, so that its peak of memory is its own too."""
    done = subprocess.run(
        [sys.executable, __file__, "--payments", str(payments), *(["--plain"] if plain else [])],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


_FIRST = "Jana Petr Eva Karel Alena Jiří Hana Pavel Marie Tomáš Lenka Martin Věra Jan Ivana Josef".split()
_LAST = "ov ek ák ský ina ovec ička ala ura ler man ner ber ka ta da".split()
_ACCOUNT = "CZ2799100000001900260111"


def _plain(size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    random = Random(size)
    last: dict[str, Any] = {}
    for number in range(1, size + 1):
        name = (
            f"{random.choice(_FIRST)} {random.choice('BDHKMNPRSTVZ')}{random.choice('aeiou')}{random.randrange(9_999)}"
        )
        name = "".join(chr(ord("a") + int(ch)) if ch.isdigit() else ch for ch in name) + random.choice(_LAST)
        amount, symbol = random.randrange(9_900, 999_900, 100), f"{10_000_000 + number}"
        owner = f"CZ61{random.randrange(10**20):020}"
        yield (
            "orders",
            {
                "number": f"CZ{symbol}",
                "channel": "cz",
                "currency": "CZK",
                "total": f"{amount // 100}.00",
                "placed_at": "2026-09-01",
                "variable_symbol": symbol,
                "customer": {"id": str(number), "name": name},
            },
        )
        case = random.randrange(100)
        payment = {
            "id": str(number),
            "source": "bank",
            "account": _ACCOUNT,
            "amount": f"{amount // 100 - (case == 0)}.00",
            "currency": "CZK",
            "booked_on": f"2026-09-{2 + number * 28 // (size + 1):02}",
            "payer_name": _as_banks_write(name, random.randrange(10)),
            "payer_account": owner,
            "variable_symbol": None if case == 1 else symbol.zfill(10),
            "message": "platba za zboží, děkuji",
        }
        if number % 100 == 2:
            payment = last | {"id": str(number)}
        yield "payments", payment
        last = payment


def _as_banks_write(name: str, way: int) -> str:
    """Write a name in capitals: five of ten as it is, three with the surname first, two without diacritics."""
    first, last = name.upper().split()
    if way >= 8:
        return unicodedata.normalize("NFD", f"{first} {last}").encode("ascii", "ignore").decode()
    return f"{last} {first}" if way >= 5 else f"{first} {last}"


def _made(size: int, *, plain: bool) -> tuple[Orders, list[IncomingPayment], dict[str, ChannelRules]]:
    corpus = make(1, size)
    orders = Orders()
    payments: list[IncomingPayment] = []
    for what, row in _plain(size) if plain else corpus.rows():
        if what == "orders":
            orders.add(json.dumps(row))
        elif what == "payments":
            payments.append(read_payment(json.dumps(row)))
    given = {name: parse_rules(document) for name, document in corpus.rules.items()}
    payments.sort(key=lambda payment: payment.booked_on)
    return orders, payments, orders.channels(given, [payment.account for payment in payments])


def _merges(references: pd.DataFrame, payments: list[IncomingPayment], reader: Reader) -> float:
    """Time the merges alone: for each kind of reference, payments and items that share a value."""
    told = pd.DataFrame(
        [
            (place, kind.value, value)
            for place, payment in enumerate(payments)
            for kind, value, _ in reader.read(payment)
        ],
        columns=["payment", "kind", "value"],
        dtype=object,
    )
    pairs = [
        (
            told.loc[told["kind"] == kind, ["payment", "value"]],
            references.loc[references["kind"] == kind, ["item", "value"]],
        )
        for kind in references["kind"].unique()
    ]
    took: list[float] = []
    for _ in range(3):
        began = time.process_time()
        for left, right in pairs:
            left.merge(right, on="value")
        took.append(time.process_time() - began)
    return min(took)


def _measured(size: int, *, plain: bool) -> dict[str, Any]:
    orders, payments, channels = _made(size, plain=plain)
    items, references, accounts = orders.frames()
    del orders
    # What is kept for good needn't be looked through again and again.
    gc.collect()
    gc.freeze()
    began = time.process_time()
    told = payment_frame(payments)
    columns = time.process_time() - began
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    open_items = OpenItems(items, references, accounts, channels)
    index = time.process_time() - began
    deciding = 0.0
    by_columns = settled = 0
    for begin in range(0, len(told), CHUNK):
        some = told.iloc[begin : begin + CHUNK]
        began = time.process_time()
        matched = open_items.match(some)
        allocated = matched.allocations()
        deciding += time.process_time() - began
        by_columns += len(some) - len(matched.matches)
        settled += allocated["payment"].nunique()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    merges = _merges(references, payments, Reader(channels))
    return {
        "payments": len(payments),
        "open_items": len(items),
        "settled": settled,
        "decided_by_columns": by_columns,
        "columns_s": round(columns, 2),
        "index_s": round(index, 2),
        "match_s": round(deciding, 2),
        "merges_s": round(merges, 2),
        "all_to_merges": round((index + deciding) / merges, 2),
        "objects_to_merges": round((columns + index + deciding) / merges, 2),
        "us_per_payment": round((index + deciding) / len(payments) * 1e6, 1),
        "memory_before_mb": round(before / 1024),
        "memory_peak_mb": round(peak / 1024),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Bulk matching, beside the bare merges of the same keys")
    parser.add_argument("--payments", type=int, default=1_000_000)
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    sys.stdout.write(json.dumps(_measured(given.payments, plain=given.plain), indent=2) + "\n")


if __name__ == "__main__":
    main()
