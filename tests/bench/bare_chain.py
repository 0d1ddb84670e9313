"""The chain's floor: the requests of each payment, sent again as they were, through the client that connectors use.

    python tests/bench/bare_chain.py < calls.json

Reads one JSON document: `urls` and `per_second` by system (null is no limit), and `payments`, each a list of requests
with the place of the one that brought the order into production. They go one after the other, each payment's after a
rest. Prints the seconds of each payment, until production and until its last answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from connectors.http import Client, Limits

REST_S = 1.0
"""What a payment waits for after the one before, so that connections and limits are as in a shop that was idle."""


async def _payment(clients: Mapping[str, Client], calls: Sequence[Mapping[str, Any]], brings: int) -> list[float]:
    began, there = time.perf_counter(), 0.0
    for place, call in enumerate(calls):
        client, headers = clients[call["system"]], call["headers"]
        answer = await client.request(call["method"], call["target"], content=call["body"].encode(), headers=headers)
        if answer.status_code >= 300:
            raise SystemExit(f"{call['system']} answered {answer.status_code} to {call['method']} {call['target']}")
        if place == brings:
            there = time.perf_counter() - began
    return [there, time.perf_counter() - began]


async def measure(told: Mapping[str, Any]) -> list[list[float]]:
    """Send the requests of payments again; raises SystemExit when one is refused."""
    async with AsyncExitStack() as stack:
        clients: dict[str, Client] = {}
        for system, url in told["urls"].items():
            clients[system] = Client(system, url, Limits(per_second=told["per_second"][system]))
            stack.push_async_callback(clients[system].aclose)
        seconds: list[list[float]] = []
        for payment in told["payments"]:
            await asyncio.sleep(REST_S if seconds else 0)
            seconds.append(await _payment(clients, payment["calls"], payment["brings"]))
        return seconds


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(measure(json.load(sys.stdin)))) + "\n")
