"""Measures bulk matching beside the bare pandas merges of the same keys, in the same process.

    python tests/bench/matching.py --payments 1000000

Prints one JSON document. The corpus is that of corpus.py; making and parsing its files is not measured. "read" is the
reading of what payments name out of their fields and texts, "match" all that follows: the index over the open items,
the joins and the decisions. The yardstick merges what payments name with what items are called, kind by kind, and does
nothing with it.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

if __name__ == "__main__":
    # Instead of this script's own folder, where bench.py would be taken for the package.
    sys.path[0] = str(Path(__file__).parents[1])

from bench.corpus import make

from domain.bulk_matching import CHUNK, OpenItems
from domain.match_documents import Orders, read_payment
from domain.matching import Read
from domain.payments import IncomingPayment
from domain.rules import ChannelRules, parse_rules


def measure(payments: int, seed: int = 1) -> dict[str, Any]:
    """Measure one size in a process of its own, so that its peak of memory is its own too."""
    done = subprocess.run(
        [sys.executable, __file__, "--payments", str(payments), "--seed", str(seed)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _made(size: int, seed: int) -> tuple[Orders, list[IncomingPayment], dict[str, ChannelRules]]:
    corpus = make(seed, size)
    orders = Orders()
    payments: list[IncomingPayment] = []
    for what, row in corpus.rows():
        if what == "orders":
            orders.add(json.dumps(row))
        elif what == "payments":
            payments.append(read_payment(json.dumps(row)))
    given = {name: parse_rules(document) for name, document in corpus.rules.items()}
    payments.sort(key=lambda payment: payment.booked_on)
    return orders, payments, orders.channels(given, [payment.account for payment in payments])


def _merges(references: pd.DataFrame, read: list[Read]) -> float:
    """Time the merges alone: for each kind of reference, payments and items that share a value."""
    told = pd.DataFrame(
        [(place, kind.value, value) for place, names in enumerate(read) for kind, value, _ in names],
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
    began = time.perf_counter()
    for left, right in pairs:
        left.merge(right, on="value")
    return time.perf_counter() - began


def _measured(size: int, seed: int) -> dict[str, Any]:
    orders, payments, channels = _made(size, seed)
    items, references, accounts = orders.frames()
    del orders
    # What is kept for good needn't be looked through again and again.
    gc.collect()
    gc.freeze()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    open_items = OpenItems(items, references, accounts, channels)
    index = time.perf_counter() - began
    reading = deciding = 0.0
    plain = settled = 0
    every: list[Read] = []
    for begin in range(0, len(payments), CHUNK):
        some = payments[begin : begin + CHUNK]
        began = time.perf_counter()
        read = [open_items.reader.read(payment) for payment in some]
        reading += time.perf_counter() - began
        began = time.perf_counter()
        matched = open_items.match(some, read)
        deciding += time.perf_counter() - began
        plain += len(some) - len(matched.matches)
        settled += matched.allocations()["payment"].nunique()
        every += read
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    merges = _merges(references, every)
    return {
        "payments": len(payments),
        "open_items": len(items),
        "settled": settled,
        "decided_by_columns": plain,
        "index_s": round(index, 2),
        "read_s": round(reading, 2),
        "match_s": round(deciding, 2),
        "merges_s": round(merges, 2),
        "match_to_merges": round((index + deciding) / merges, 2),
        "all_to_merges": round((index + reading + deciding) / merges, 2),
        "us_per_payment": round((index + reading + deciding) / len(payments) * 1e6, 1),
        "memory_before_mb": round(before / 1024),
        "memory_peak_mb": round(peak / 1024),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Bulk matching, beside the bare merges of the same keys")
    parser.add_argument("--payments", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sys.stdout.write(json.dumps(_measured(given.payments, given.seed), indent=2) + "\n")


if __name__ == "__main__":
    main()
