"""The sample shop: three channels, their orders, and real files with every kind of payment."""

from __future__ import annotations

import asyncio
import csv
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from deployments.processes import Running
from deployments.sandbox.stripe import StripeStandIn
from domain.money import Money
from domain.order_document import parse_order
from domain.rules import parse_rules
from store import inbox, payments, rules, stock
from store.journal import Actor
from tasks.installation import Installation
from tasks.rules import save_rules

_HERE = Path(__file__).parent
SAMPLE = _HERE / "sample"
RULES = _HERE / "rules"
_CONNECTOR = "stripe"
_ACTOR = Actor(name="sample shop")
_REST_S = 300.0


def prepare(home: Path, stripe: StripeStandIn) -> None:
    """Write the sample shop's kvit.yaml: its bank's and courier's files, and Stripe played by a stand-in here."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = home / "kvit.yaml"
    market = parse_rules(yaml.safe_load((RULES / "market.yaml").read_text(encoding="utf-8")))
    connectors = [
        {"name": "market-bank", "type": "csv_statement", "account": market.accounts[0]},
        {"name": "courier", "type": "cod_remittance", "carrier": "courier"},
        {
            "name": _CONNECTOR,
            "type": "stripe",
            "base_url": stripe.base_url,
            "api_key": stripe.api_key,
            "webhook_secret": stripe.webhook_secret,
        },
    ]
    document = {"orders_secret": secrets.token_urlsafe(32), "connectors": connectors}
    said = "# The sample shop. Stripe is played by a stand-in that runs with it; replace it by your own account.\n"
    file.write_text(said + yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    file.chmod(0o600)


async def fill(opened: Installation) -> int:
    """Store the sample's rules, stock and orders, those that aren't there yet; return how many orders were new."""
    from tasks.order_intake import take_order

    now = opened.clock()
    async with opened.store.write() as connection:
        for file in sorted(RULES.glob("*.yaml")):
            written = cast("dict[str, Any]", yaml.safe_load(file.read_text(encoding="utf-8")))
            if await rules.document(connection, str(written["channel"])) is None:
                await save_rules(connection, written, author=_ACTOR.name, reason="sample", now=now, where=file.name)
        if not await stock.levels(connection):
            with (SAMPLE / "stock.csv").open(encoding="utf-8", newline="") as rows:
                for row in csv.DictReader(rows):
                    await stock.count(connection, row["sku"], row["title"], int(row["on_hand"]), now=now)
    orders = cast("list[Any]", json.loads((SAMPLE / "orders.json").read_text(encoding="utf-8")))
    new = 0
    for place, order in enumerate(orders, start=1):
        document = parse_order(order, where=f"orders.json, order {place}")
        async with opened.store.write() as connection:
            new += await take_order(connection, opened, document, actor=_ACTOR) is not None
    return new


async def at_rest(running: Running) -> None:
    """Wait until nothing is due, and no webhook is to be asked about again later.

    Raises TimeoutError when that takes longer than five minutes.
    """

    async def at_work() -> bool:
        async with running.opened.store.read() as connection:
            asked_again = await inbox.next_due(connection) is not None
        return asked_again or bool(await running.dispatcher.waiting()) or running.dispatcher.busy

    async with asyncio.timeout(_REST_S):
        while await at_work():  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # rows fall due in other processes too, so there is no event to wait for


async def pay_by_card(running: Running, stripe: StripeStandIn) -> list[int]:
    """Let customers pay at the gateway, and deliver its signed webhooks; return the payments in the file's order."""
    rows = cast("list[dict[str, Any]]", json.loads((SAMPLE / "stripe.json").read_text(encoding="utf-8")))
    url = f"{running.web_url}/webhooks/{_CONNECTOR}"
    references: list[str] = []
    paid: set[str] = set()
    for row in rows:
        if row["order"] in paid:  # of two payments in the same moment either may be the one that settles the order
            await at_rest(running)
        paid.add(row["order"])
        hint = row.get("outcome_hint")
        if hint == "failed_then_succeeded":
            failed = stripe.fail(row["order"], row["amount"], row["currency"])
            await stripe.deliver(failed, url)
        event = stripe.pay(row["order"], row["amount"], row["currency"])
        references.append(event["data"]["object"]["id"])
        await stripe.deliver(event, url, times=2 if hint == "delivered_twice" else 1)
    await at_rest(running)
    async with running.opened.store.read() as connection:
        stored = {row["external_id"]: row["id"] for row in await payments.listing(connection)}
    return [stored[reference] for reference in references if reference in stored]


async def import_files(running: Running) -> dict[str, list[int]]:
    """Import the sample's statements and remittances; return the payments of each, in the file's order."""
    from tasks.intake import take_statement

    found: dict[str, list[int]] = {}
    for file in sorted(path for path in (SAMPLE / "statements").rglob("*") if path.is_file()):
        imported = await take_statement(running.opened, await asyncio.to_thread(file.read_bytes), file.name)
        found[str(file.relative_to(SAMPLE))] = list(imported.ids)
        running.dispatcher.wake()
        await at_rest(running)
    return found


@dataclass(slots=True)
class Compared:
    """A sample payment beside what its file says it should end as."""

    payment: dict[str, Any] | None
    expected: dict[str, Any]
    allocations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def agrees(self) -> bool:
        """Whether the payment ended as expected, settling the expected orders with the expected amounts."""
        if self.payment is None or self.payment["outcome"] != self.expected["outcome"]:
            return False
        amount = Money(self.payment["amount_minor"], self.payment["currency"])
        if (amount.amount, amount.currency) != (self.expected["amount"], self.expected["currency"]):
            return False
        settled = [(part["number"], Money(part["amount_minor"], amount.currency).amount) for part in self.allocations]
        wanted = list(zip(self.expected["orders"], self.expected["allocated"], strict=True))
        return sorted(settled) == sorted(wanted)


async def compare(opened: Installation, by_file: dict[str, list[int]]) -> list[Compared]:
    """Hold every sample payment against expected.json."""
    expected = cast("list[dict[str, Any]]", json.loads((SAMPLE / "expected.json").read_text(encoding="utf-8")))
    async with opened.store.read() as connection:
        stored = {row["id"]: row for row in await payments.listing(connection)}
        allocated = await payments.allocated(connection, list(stored))
    compared: list[Compared] = []
    for line in expected:
        file, n = str(line["file"]), int(line["n"])
        ids = by_file.get(file, [])
        id_ = ids[n - 1] if n <= len(ids) else 0
        compared.append(Compared(stored.get(id_), line, allocated.get(id_, [])))
    return compared
