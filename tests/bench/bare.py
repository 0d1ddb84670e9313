"""The floor: the six calls of a payment, made bare. No journal, no log, no database.

    python tests/bench/bare.py --url http://127.0.0.1:8000 --first 1 --count 2000 [--at-once 64] [--pool aiohttp]

The cards must be there (POST /bench/cards). What the gateway says comes first; then the message goes, and beside it the
card is looked for, updated, looked at for the payment, and told of it. `--pool` is what the calls go through: `aiohttp`
is plain httpx on aiohttp's connections, `httpx` plain httpx on its own, `connectors` the client that Kvit's connectors
use. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
from httpx_aiohttp import HttpxAiohttpClient

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from bench.figures import spread
from bench.outside import (
    ACCOUNT,
    API_KEY,
    AUTH_TOKEN,
    DIFFERENCE_FIELD,
    PAID_FIELD,
    PORTAL_TOKEN,
    PORTAL_USER,
    PRICE_MINOR,
    SENDER,
    intent_of,
    number_of,
    phone_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    Send = Callable[..., Awaitable[httpx.Response]]

POOLS = ("aiohttp", "httpx", "connectors")
_STRIPE = {"Authorization": f"Bearer {API_KEY}"}
_TWILIO = httpx.BasicAuth(ACCOUNT, AUTH_TOKEN)
_BATCH = f"/rest/{PORTAL_USER}/{PORTAL_TOKEN}/batch.json"
_TEXT = "Your payment of 290.00 CZK for order {} has arrived. Thank you."


def _command(method: str, **params: str) -> dict[str, Any]:
    return {"halt": 0, "cmd": {"one": f"{method}?{urlencode(params)}"}}


async def _card(send: Send, number: str) -> None:
    wanted = _command("crm.item.list", **{"entityTypeId": "2", "filter[=originId]": number})
    told = json.loads((await send("POST", _BATCH, json=wanted)).content)
    id_ = str(told["result"]["result"]["one"]["items"][0]["id"])
    changed = {f"fields[{PAID_FIELD}]": f"{PRICE_MINOR / 100:.2f}", f"fields[{DIFFERENCE_FIELD}]": "0.00"}
    changed |= {"entityTypeId": "2", "id": id_, "fields[stageId]": "EXECUTING"}
    await send("POST", _BATCH, json=_command("crm.item.update", **changed))
    both = {"card": wanted["cmd"]["one"]}
    both |= {"comments": "crm.timeline.comment.list?" + urlencode({"filter[ENTITY_ID]": "$result[card][items][0][id]"})}
    await send("POST", _BATCH, json={"halt": 0, "cmd": both})
    said = {"fields[ENTITY_ID]": id_, "fields[ENTITY_TYPE]": "deal", "fields[COMMENT]": f"+290.00 CZK · {number}"}
    await send("POST", _BATCH, json=_command("crm.timeline.comment.add", **said))


async def _payment(send: Send, number: str) -> None:
    told = json.loads((await send("GET", f"/v1/payment_intents/{intent_of(number)}", headers=_STRIPE)).content)
    if told["status"] != "succeeded":
        raise SystemExit(f"the payment of {number} is {told['status']}")
    message = {"To": phone_of(number), "From": SENDER, "Body": _TEXT.format(number)}
    path = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    sms = send("POST", path, data=message, auth=_TWILIO)
    await asyncio.gather(sms, _card(send, number))


@asynccontextmanager
async def _sending(pool: str, url: str, at_once: int) -> AsyncGenerator[Send]:
    connections = 2 * at_once
    if pool == "connectors":
        from connectors.http import Client, Limits

        client = Client("bench", url, Limits(concurrent=min(connections, 1000)))

        # Its signature has one header of authorization per client, so this one is given as a header.
        async def send(method: str, path: str, **options: Any) -> httpx.Response:
            return await client.request(method, path, **options)

        try:
            yield send
        finally:
            await client.aclose()
        return
    made = HttpxAiohttpClient if pool == "aiohttp" else httpx.AsyncClient
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with made(base_url=url, limits=limits, timeout=60, verify=False) as plain:
        yield plain.request


async def measure(url: str, pool: str, first: int, count: int, at_once: int) -> dict[str, Any]:
    """Make the calls of so many payments, so many payments at once; seconds are those of each payment by itself."""
    seconds: list[float] = []
    slots = asyncio.Semaphore(at_once)

    async def one(send: Send, place: int) -> None:
        async with slots:
            began = time.perf_counter()
            await _payment(send, number_of(place))
            seconds.append(time.perf_counter() - began)

    async with _sending(pool, url, at_once) as send:
        await _payment(send, number_of(first))  # the first one connects
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(send, place) for place in range(first + 1, first + count)))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "payments": count - 1,
        "at_once": at_once,
        "seconds": round(took, 3),
        "per_s": round((count - 1) / took, 1),
        "cpu_s_per_payment": round(cpu / (count - 1), 5),
        "payment_s": spread(seconds),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The six calls of a payment, made bare")
    parser.add_argument("--url", required=True)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--pool", choices=POOLS, default="aiohttp")
    given = parser.parse_args()
    found = asyncio.run(measure(given.url, given.pool, given.first, given.count, given.at_once))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
