"""YooKassa's own specification judges what the connector asks and what the stand-in answers, by prism between the two.

The document is YooKassa's and not part of this repository: `make prism SPEC=FILE` runs these, FILE being it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import yaml

from connectors.errors import Misconfigured, Rejected, Transient
from connectors.yookassa import YooKassa, YooKassaConfig
from deployments.sandbox.yookassa import HOLD, KEY, SHOP, Json, YooKassaStandIn
from domain.fiscal import FiscalLine, FiscalReceipt
from domain.holds import HoldState
from domain.money import Money

PRISM, SPEC = os.environ.get("KVIT_PRISM"), os.environ.get("KVIT_YOOKASSA_SPEC")
pytestmark = pytest.mark.skipif(
    not (PRISM and SPEC), reason="YooKassa's specification judges nothing here: `make prism SPEC=FILE` lets it"
)

NOW = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
NO_ID = "1da5c87d-0984-50e8-a7f3-8de646dd9ec9"
WRONG_SUBJECT = (
    "post /payments/ID/capture: request.body.receipt.items.0.payment_subject Request body property "
    "receipt.items.0.payment_subject"
)
ASKED = {
    "get /me",
    "get /payments",
    "get /payments/ID",
    "post /payments/ID/capture",
    "post /payments/ID/cancel",
    "get /refunds",
    "get /refunds/ID",
    "post /refunds",
    "get /receipts",
    "post /receipts",
}
"""All that the connector asks YooKassa for."""
_END = "/that-is-all"


def readable(spec: Path) -> Any:
    """Return the specification so that prism can judge by all of it.

    In what it should judge by a schema that it can't compile, prism finds nothing, and doesn't say so. A pattern that
    JavaScript can't read is part of the schema of payments, so it would judge none. And it goes by no discriminator,
    without which one payment method is of every kind at once, where it must be of one.
    """
    document = yaml.safe_load(spec.read_text(encoding="utf-8"))
    kinds: dict[str, list[str]] = {}
    for node in _objects(document):
        for kind, schema in node.get("discriminator", {}).get("mapping", {}).items():
            kinds.setdefault(schema, []).append(kind)
    for node in _objects(document):
        if isinstance(node.get("pattern"), str):
            node["pattern"] = node["pattern"].replace("(?s).", r"[\s\S]")
        if "oneOf" in node and "discriminator" in node:
            name = node.pop("discriminator")["propertyName"]
            node["oneOf"] = [
                {"allOf": [one, {"properties": {name: {"enum": kinds[one["$ref"]]}}, "required": [name]}]}
                for one in node["oneOf"]
            ]
    return document


def _objects(node: Any) -> list[Json]:
    inner = cast("Json", node).values() if isinstance(node, dict) else cast("list[Any]", node)
    found = [cast("Json", node)] if isinstance(node, dict) else []
    return found + [one for value in inner if isinstance(value, dict | list) for one in _objects(value)]


class Judge:
    """Prism, before a stand-in."""

    def __init__(self, url: str, lines: asyncio.Queue[str]) -> None:
        self.url = url
        self._lines = lines

    async def findings(self) -> tuple[list[str], list[str]]:
        """Return what was asked since this was called last, and what prism found in it or in its answers."""
        async with httpx.AsyncClient() as client:
            await client.get(f"{self.url}{_END}")  # of which prism says, last, that there is no such thing
        asked: list[str] = []
        found: list[str] = []
        while True:
            line = await self._lines.get()
            if request := re.search(r"\[HTTP SERVER\] (\w+ \S+)", line):
                asked.append(re.sub("[0-9a-f-]{36}", "ID", request[1]))
            elif violation := re.search("Violation: (.*)", line):
                if asked[-1].endswith(_END):
                    return asked[:-1], found
                found.append(f"{asked[-1]}: {violation[1].strip()}")


@asynccontextmanager
async def judging(shop: YooKassaStandIn, spec: Path) -> AsyncGenerator[Judge]:
    """Run prism by a specification that it can read."""
    prism = await asyncio.create_subprocess_exec(
        *shlex.split(PRISM or ""),
        *("proxy", str(spec), shop.base_url, "--port", "0"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1"},
        start_new_session=True,
    )
    lines: asyncio.Queue[str] = asyncio.Queue()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def read() -> None:
        assert prism.stdout is not None
        async for raw in prism.stdout:
            line = raw.decode(errors="replace")
            if started := re.search(r"listening on (http://\S+)", line):
                url.set_result(started[1])
            elif url.done():
                lines.put_nowait(line)
        if not url.done():
            url.set_exception(RuntimeError("prism has ended before it had begun to listen; see what it said above"))

    reading = asyncio.create_task(read())
    try:
        yield Judge(await url, lines)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(prism.pid, signal.SIGTERM)  # npx and what it runs
        await reading
        await prism.wait()


@pytest.fixture
async def shop() -> AsyncIterator[YooKassaStandIn]:
    async with YooKassaStandIn() as running:
        running.time = NOW
        yield running


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("prism") / "spec.yaml"
    made.write_text(yaml.safe_dump(readable(Path(SPEC or "")), allow_unicode=True), encoding="utf-8")
    return made


@pytest.fixture
async def judge(shop: YooKassaStandIn, spec: Path) -> AsyncIterator[Judge]:
    async with judging(shop, spec) as running:
        yield running


@asynccontextmanager
async def connected(judge: Judge, **changed: Any) -> AsyncGenerator[YooKassa]:
    fields = {"name": "kassa", "home": Path(), "shop_id": SHOP, "secret_key": KEY, "base_url": judge.url}
    made = YooKassa(YooKassaConfig.model_validate(fields | changed))
    try:
        yield made
    finally:
        await made.aclose()


def rub(text: str) -> Money:
    return Money.parse(text, "RUB")


def receipt(*amounts: str, email: str | None = "anna@example.ru", phone: str | None = None) -> FiscalReceipt:
    lines = [FiscalLine(title="Чай «Юн Ву»", quantity=2, amount=rub(one), vat_rate=Decimal(20)) for one in amounts]
    return FiscalReceipt(lines=tuple(lines), email=email, phone=phone)


async def do_all(kassa: YooKassa, shop: YooKassaStandIn) -> None:
    """Do all that Kvit does with holds, payments, refunds and receipts."""
    await kassa.check()
    whole, part, given_back, late = [shop.hold(f"CZ{n}", 45_000, description="Заказ")["object"]["id"] for n in range(4)]
    await kassa.capture((await kassa.hold(whole))[0], rub("450"), "key-1", receipt=None)
    told = receipt("100", "50", phone="+7 900 000-00-00")
    await kassa.capture((await kassa.hold(part))[0], rub("300"), "key-2", receipt=told)
    await kassa.release((await kassa.hold(given_back))[0], "key-3")
    bought, prepaid = [(await kassa.hold(one))[1][0] for one in (whole, part)]
    await kassa.refund(bought, rub("10"), "key-4", because="", receipt=None)
    back = receipt("50", email=None, phone="79000000000")
    await kassa.refund(prepaid, rub("100"), "key-5", because="Не подошло", receipt=back)
    assert await kassa.handed_over(part) is None
    handed_over = await kassa.hand_over(part, "key-6", email="anna@example.ru", phone=None)
    assert await kassa.handed_over(part) == handed_over
    shop.refunds_end = shop.receipts_end = "pending"
    with pytest.raises(Transient):
        await kassa.refund(prepaid, rub("100"), "key-7", because="", receipt=receipt("50"))
    shop.finish_refund([*shop.refunds][-1], "canceled")
    shop.finish_receipt([*shop.receipts][-1], "canceled")
    shop.fail("CZ5", 100)
    shop.create("CZ6", 100)
    shop.time = NOW + HOLD
    for n in range(101):
        shop.pay(f"CZ{n}", 100, "EUR" if n % 2 else "RUB")
    assert (await kassa.hold(late))[0].state is HoldState.EXPIRED
    for notification in shop.notifications[:20]:
        await kassa.truth(json.dumps(notification).encode())
    cursor, more = None, True
    while more:
        page = await kassa.fetch(cursor, now=shop.time)
        cursor, more = page.cursor, page.more
    assert [one async for one in kassa.transactions(NOW - timedelta(days=1))]


async def be_refused(judge: Judge, shop: YooKassaStandIn, kassa: YooKassa) -> None:
    """Ask for what is refused, of what may be asked for."""
    with pytest.raises(Rejected):
        await kassa.hold(NO_ID)
    shop.me_allowed = False
    await kassa.check()
    async with connected(judge, secret_key="other") as stranger:
        with pytest.raises(Misconfigured):
            await stranger.check()
    hold = (await kassa.hold(shop.hold("CZ9", 45_000)["object"]["id"]))[0]
    async with connected(judge, payment_subject="tea") as other:
        with pytest.raises(Rejected):
            await other.capture(hold, rub("450"), "key-8", receipt=receipt("225"))


async def test_all_that_is_asked_and_answered_is_as_the_specification_has_it(
    shop: YooKassaStandIn, judge: Judge
) -> None:
    async with connected(judge, payment_mode="full_prepayment", tax_system_code=1) as kassa:
        await do_all(kassa, shop)
        asked, found = await judge.findings()
        assert found == []
        assert {one.partition("?")[0] for one in asked} == ASKED
        await be_refused(judge, shop, kassa)
    # That "tea" is sold is wrong, and found to be; each refusal has the form of one.
    _, found = await judge.findings()
    assert [one.partition(" must be")[0] for one in found] == [WRONG_SUBJECT]


async def test_prism_finds_what_is_wrong_in_each_request_and_each_answer(shop: YooKassaStandIn, judge: Judge) -> None:
    """That nothing was found means something only where something wrong would have been."""
    bought, first, second = [
        one["object"]["id"] for one in (shop.pay("1", 900), shop.hold("2", 900), shop.hold("3", 9))
    ]
    sum_, keys = {"value": "1.00", "currency": "RUB"}, count()
    line = {"description": "Tea", "quantity": 1, "amount": sum_, "vat_code": 1}
    told = {
        "type": "payment",
        "payment_id": bought,
        "send": True,
        "customer": {"phone": "79000000000"},
        "items": [line],
    }
    async with httpx.AsyncClient(base_url=judge.url, auth=(SHOP, KEY)) as api:

        async def found(method: str, path: str, sent: Json | None = None) -> str:
            await api.request(method, path, json=sent, headers={"Idempotence-Key": f"key-{next(keys)}"})
            return " ".join((await judge.findings())[1])

        assert "request.body.amount.value" in await found(
            "POST", f"/payments/{first}/capture", {"amount": {"value": 1}}
        )
        assert "non-empty body" in await found("POST", f"/payments/{first}/cancel", {"reason": "none"})
        assert "'payment_id'" in await found("POST", "/refunds", {"amount": sum_})
        assert "'settlements'" in await found("POST", "/receipts", told)
        for path in ("/payments", "/refunds", "/receipts"):
            assert "request.query.limit" in await found("GET", f"{path}?limit=101")

        for payment in shop.payments.values():
            payment["test"] = "no boolean"
        shop.refunds_end = shop.receipts_end = "no status"
        assert "response.body.test" in await found("GET", f"/payments/{bought}")
        assert "response.body.items.2.test" in await found("GET", "/payments")
        assert "response.body.test" in await found("POST", f"/payments/{first}/capture", {})
        assert "response.body.test" in await found("POST", f"/payments/{second}/cancel")
        assert "response.body.status" in await found("POST", "/refunds", {"payment_id": bought, "amount": sum_})
        assert "response.body.status" in await found("GET", f"/refunds/{next(iter(shop.refunds))}")
        assert "response.body.items.0.status" in await found("GET", "/refunds")
        settled = {"settlements": [{"type": "prepayment", "amount": sum_}]}
        assert "response.body.status" in await found("POST", "/receipts", told | settled)
        assert "response.body.items.0.status" in await found("GET", "/receipts")
        shop.payments[bought]["payment_method"]["card"]["last4"] = "no digits"
        assert "response.body.payment_method.card.last4" in await found("GET", f"/payments/{bought}")
        vars(shop)["shop_id"] = int(SHOP)
        assert "response.body.account_id" in await found("GET", "/me")
