"""The chain WayForPay → Planfix: a payment and its notice by e-mail, part payments that add up, in production at once.

Orders are tasks in Planfix. WayForPay, Planfix and the bank's statement are played on real sockets and files, the
mailbox by a real mail server where one is installed; the clock is set forward where hours must pass.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from email.message import EmailMessage
from typing import Any, cast

import httpx

from connectors import load
from connectors.notices import Notices
from connectors.planfix import Planfix
from connectors.wayforpay import WayForPay
from deployments.chain import Stage
from deployments.sandbox.mailbox import MailServer, NoDovecot
from deployments.sandbox.planfix import (
    AMOUNT,
    DATE,
    DIFFERENCE,
    INCOME,
    NUMBER,
    PAID,
    PAYMENT,
    REFERENCE,
    STATUSES,
    TEMPLATE,
    TO_PAY,
    PlanfixStandIn,
)
from deployments.sandbox.wayforpay import WayForPayStandIn
from domain.orders import Order
from store import inbox, orders

Json = dict[str, Any]

RULES = "planfix-wayforpay.yaml"
ACCOUNT = "UA469999990000026001234567890"
SENDER, MAIL_SERVER = "no-reply@pay.example", "mx.yavir.example"
COMPLETED, AWAITING, IN_PRODUCTION, CANCELLED = 3, 101, 102, 103

PATTERNS = (
    r"^Замовлення:\s*(?P<order>PF\d{4,6}(?:_\d{1,2})?)$",
    r"^Сума:\s*(?P<amount>[\d ]{1,12},\d\d)\s(?P<currency>грн)",
    r"^Дата:\s*(?P<date>\d\d\.\d\d\.\d{4})",
    r"^Номер платежу:\s*(?P<payment>\d{4,20})",
)

_LOOK_EVERY_S = 0.002
_IDLE_S = 1.0
_NOTICE = "a notice by e-mail is recognised by its sender and read; the gateway says what is true"
_FORGED = "a notice or a callback that somebody made up moves nothing"
_SUMS = "incomes are added to the order of their number; to pay, paid and difference are kept, part payments add up"
_AT_ONCE = "at zero difference the order goes to In production at once, nobody confirms by hand"
_ONCE = "a callback that comes again, late or out of order doubles nothing; a lost one is found by polling"
_NOT_UNPAID = "without payment no order can be sent to work"
_PLANFIX = "the change reaches Planfix: a comment, an entry of the data tag Income, the status"
_BACK = "money that goes back reaches Planfix too"
_TIMES = "a report of the times between statuses shows where the delay is"


def settings(gateway: WayForPayStandIn, account: PlanfixStandIn, mailbox: MailServer | None) -> Json:
    """Return the chain's kvit.yaml. The stand-in of Planfix lets more than one request a second pass."""
    connectors: list[Json] = [
        {
            "name": "wayforpay",
            "type": "wayforpay",
            "base_url": gateway.url,
            "merchant_account": gateway.account,
            "secret_key": gateway.key,
        },
        _planfix(account) | {"limits": {"per_second": 100}},
        {"name": "bank", "type": "csv_statement", "account": ACCOUNT},
    ]
    if mailbox is not None:
        connectors.append(
            {
                "name": "payment-mails",
                "type": "notices",
                "host": mailbox.host,
                "port": mailbox.port,
                "security": "none",
                "username": mailbox.username,
                "password": mailbox.password,
                "senders": [SENDER],
                "authserv_id": MAIL_SERVER,
                "gateway": "wayforpay",
                "rules": [{"name": "paid", "subject": "^Успішна оплата", "patterns": list(PATTERNS)}],
            }
        )
    return {"orders_secret": secrets.token_urlsafe(32), "connectors": connectors}


def _planfix(account: PlanfixStandIn) -> Json:
    return {
        "name": "planfix",
        "type": "planfix",
        "base_url": account.base_url,
        "token": account.token,
        "webhook_token": account.webhook_token,
        "template_id": TEMPLATE,
        "number_field": NUMBER,
        "to_pay_field": TO_PAY,
        "paid_field": PAID,
        "difference_field": DIFFERENCE,
        "income_tag": INCOME,
        "income_reference_field": REFERENCE,
        "income_amount_field": AMOUNT,
        "income_date_field": DATE,
        "income_payment_field": PAYMENT,
        "time_zone": "Europe/Kyiv",
    }


def notice(reference: str, amount: str, payment: str, *, day: str, vouched_for: bool = True) -> bytes:
    """Write WayForPay's letter about a payment; our mail server vouches for it, or finds that it is forged."""
    letter = EmailMessage()
    result = "dkim=pass header.d=pay.example" if vouched_for else "dkim=fail header.d=pay.example"
    letter["Authentication-Results"] = f"{MAIL_SERVER}; {result}"
    letter["From"] = f"WayForPay <{SENDER}>"
    letter["To"] = "oplata@yavir.example"
    letter["Subject"] = f"Успішна оплата замовлення {reference}"
    letter["Message-ID"] = f"<{payment}@pay.example>"
    lines = ("Вітаємо!", "", f"Замовлення: {reference}", f"Сума: {amount} грн", f"Дата: {day} 12:24")
    letter.set_content("\n".join((*lines, f"Номер платежу: {payment}", "")))
    return letter.as_bytes()


@asynccontextmanager
async def mail_server() -> AsyncGenerator[MailServer]:
    """Run a mail server. Raises NoDovecot where there is none."""
    server = MailServer()
    await asyncio.to_thread(server.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds from the gateway's callback on: until it was accepted, and until the status stood in Planfix."""

    accepted: float
    in_planfix: float


class Workshop:
    """The shop: its tasks in Planfix, its payments at WayForPay, and what Kvit has of both."""

    def __init__(self, stage: Stage, gateway: WayForPayStandIn, account: PlanfixStandIn) -> None:
        self.stage, self.gateway, self.account = stage, gateway, account
        self.ids: dict[str, int] = {}
        self.tasks: dict[str, int] = {}

    # What people and systems do

    async def order(self, number: str, total: str) -> None:
        """Let an order come: its task is made in Planfix, and the shop sends it; wait until that awaits its money."""
        self.tasks[number] = self.account.make(number, name=f"Стіл на замовлення {number}", status=1)["id"]
        document = {
            "number": number,
            "channel": "planfix",
            "method": "card",
            "placed_at": self.stage.clock().isoformat(),
            "currency": "UAH",
            "total": total,
            "customer": {"number": f"C{number}", "name": "Олена Коваль", "email": "olena.koval@example.com"},
            "lines": [{"title": "Стіл дубовий", "quantity": 1, "unit_price": total}],
        }
        self.ids[number] = await self.stage.order(document)
        await self.until(number, AWAITING, "0")
        await self.stage.at_rest()

    async def callback(self, sent: Mapping[str, Any]) -> list[int]:
        """Let WayForPay post a callback until it is accepted; return what it was answered."""
        return await self.gateway.deliver(sent, f"{self.stage.web_url}/webhooks/wayforpay")

    async def person_sets(self, number: str, status: int, *, told: bool = True) -> None:
        """Let a person give a task a status in Planfix, which tells of it or fails to."""
        sent = self.account.set_status(self.tasks[number], status)
        if told:
            url = f"{self.stage.web_url}/webhooks/planfix/{self.account.webhook_token}"
            await self.account.deliver(sent, url)

    # How things stand

    def status(self, number: str) -> int:
        """Return the status of an order's task."""
        return self.account.tasks[self.tasks[number]]["status"]

    def sums(self, number: str) -> tuple[Decimal, Decimal, Decimal]:
        """Return to pay, paid and difference, as an order's task shows them."""
        values = self.account.tasks[self.tasks[number]]["values"]
        to_pay, paid, difference = (Decimal(values.get(field, -1)) for field in (TO_PAY, PAID, DIFFERENCE))
        return to_pay, paid, difference

    def incomes(self, number: str) -> list[Mapping[int, Any]]:
        """Return the entries of the data tag on an order's task."""
        return [one["values"] for one in self.account.entries.values() if one["task"] == self.tasks[number]]

    def comments(self, number: str) -> list[str]:
        """Return the comments on an order's task."""
        return [one["description"] for one in self.account.comments.values() if one["task"] == self.tasks[number]]

    def shown(self, number: str) -> str:
        """Say how an order's task stands."""
        to_pay, paid, difference = self.sums(number)
        noted = " + ".join(f"{Decimal(one[AMOUNT]):f}" for one in self.incomes(number)) or "none"
        return (
            f"task {number}: {STATUSES[self.status(number)]}; to pay {to_pay:f}, paid {paid:f}, difference "
            f"{difference:f}; incomes {noted}"
        )

    def asked(self, kind: str, reference: str = "") -> int:
        """Return how often the gateway was asked something."""
        requests = [seen.body.decode() for seen in self.gateway.requests]
        return sum(f'"{kind}"' in body and reference in body for body in requests)

    async def in_kvit(self, number: str) -> Order:
        """Return an order as Kvit has it."""
        id_ = self.ids[number]
        async with self.stage.opened.store.read() as connection:
            return (await orders.load(connection, [id_]))[id_]

    async def parked(self, *parts: str) -> list[str]:
        """Return what is left to a person, as far as it says all of some words."""
        async with self.stage.opened.store.read() as connection:
            found = [str(row["problem"]) for row in await inbox.parked(connection)]
        return [said for said in found if all(part in said for part in parts)]

    async def until(self, number: str, status: int, paid: str, *, incomes: int | None = None) -> None:
        """Wait until a task shows a status and a sum that was paid, and as many incomes."""

        def there() -> bool:
            stands = (self.status(number), self.sums(number)[1]) == (status, Decimal(paid))
            return stands and incomes in (None, len(self.incomes(number)))

        await self.stage.until(there, f"Planfix shows {number} as {STATUSES[status]}, with {paid} paid")

    async def now(self) -> None:
        """Let WayForPay's clock show the installation's time."""
        self.gateway.time = self.stage.clock()


async def play(stage: Stage) -> None:
    """Play the chain's document from its first event to its last."""
    mailbox: MailServer | None = None
    why = ""
    try:
        mailbox = await stage.beside(mail_server())
    except NoDovecot as error:
        why = str(error)
    gateway = await stage.beside(WayForPayStandIn())
    account = await stage.beside(PlanfixStandIn())
    await stage.open(settings(gateway, account, mailbox), RULES)
    shop = Workshop(stage, gateway, account)
    await _parts_and_notice(shop, mailbox, why)
    await _forged(shop, mailbox, why)
    await _at_once(shop)
    await _nothing_unpaid(shop)
    await _lost_callback(shop)
    await _money_back(shop)
    await _times(shop)


async def _parts_and_notice(shop: Workshop, mailbox: MailServer | None, why: str) -> None:
    stage, gateway = shop.stage, shop.gateway
    stage.show("PF1001 is paid in three parts: told by a letter, by a callback, and by the bank's statement")
    await shop.order("PF1001", "12500.00")
    first, polls = gateway.pay("PF1001_1", "5000"), shop.asked("TRANSACTION_LIST")
    letter = notice("PF1001_1", "5 000,00", "541963001", day=f"{stage.clock():%d.%m.%Y}")
    if mailbox is not None:
        mailbox.deliver(letter)  # and the callback doesn't come
    else:
        await shop.callback(first)
    await shop.until("PF1001", AWAITING, "5000", incomes=1)
    if mailbox is not None:
        reading = stage.opened.connector("payment-mails", Notices).examine(letter)
        read = {one.field: one.value for one in reading.fields}
        wanted = {"order": "PF1001_1", "amount": "5000.00", "currency": "UAH", "payment": "541963001"}
        checked, polled = shop.asked("CHECK_STATUS", "PF1001_1"), shop.asked("TRANSACTION_LIST") - polls
        stage.prove(
            13,
            _NOTICE,
            f"read from the letter: {', '.join(f'{name} {value}' for name, value in read.items())}; no callback came, "
            f"and nothing polled the gateway; CHECK_STATUS was asked {checked} time(s); {shop.shown('PF1001')}",
            wanted.items() <= read.items() and read.get("date") and checked == 1 and not polled,
        )
    else:
        stage.not_played(13, _NOTICE, why)
    after_one = shop.sums("PF1001")
    await shop.callback(gateway.pay("PF1001_2", "4000"))
    await shop.until("PF1001", AWAITING, "9000", incomes=2)
    after_two = shop.sums("PF1001")
    await _bank(shop, "3500.00", "Оплата замовлення PF-1001")
    await shop.until("PF1001", IN_PRODUCTION, "12500", incomes=3)
    sums = [after_one, after_two, shop.sums("PF1001")]
    stage.prove(
        14,
        _SUMS,
        f"paid and difference after each part: {', '.join(f'{paid:f} and {left:f}' for _, paid, left in sums)}; "
        f"{shop.shown('PF1001')}",
        sums == [tuple(map(Decimal, one)) for one in ((12500, 5000, 7500), (12500, 9000, 3500), (12500, 12500, 0))],
    )
    history = await _history(shop, "PF1001")
    stage.prove(
        15,
        _AT_ONCE,
        f"paid in parts by card and by bank transfer, PF1001 came from one status to the next as: {history}",
        history == "new → awaiting_payment → in_production",
    )
    late = await shop.callback(first)
    await stage.at_rest()
    stage.prove(
        14,
        _ONCE,
        f"the callback about the first part came late and was accepted ({late}); {shop.shown('PF1001')}",
        late == [200] and len(shop.incomes("PF1001")) == 3 and shop.sums("PF1001") == sums[2],
    )


async def _bank(shop: Workshop, amount: str, said: str) -> None:
    """Import a bank's statement with one payment, as `kvit payments import` does."""
    from tasks.intake import take_statement

    titles = "booked_on,amount,currency,bank_reference,payer_name,remittance"
    line = f"{shop.stage.clock():%Y-%m-%d},{amount},UAH,B-1,Коваль Олена,{said}"
    await take_statement(shop.stage.opened, f"{titles}\n{line}\n".encode(), "statement.csv")
    shop.stage.wake()


async def _history(shop: Workshop, number: str) -> str:
    async with shop.stage.opened.store.read() as connection:
        rows = await orders.status_history(connection, shop.ids[number])
    return " → ".join(str(row["after"]) for row in rows)


async def _forged(shop: Workshop, mailbox: MailServer | None, why: str) -> None:
    stage, gateway = shop.stage, shop.gateway
    stage.show("somebody makes up notices about PF1002, and a callback")
    await shop.order("PF1002", "9900.00")
    day = f"{stage.clock():%d.%m.%Y}"
    declined = gateway.fail("PF1002_1", "9900")
    forged = declined | {"transactionStatus": "Approved", "reasonCode": 1100}
    async with httpx.AsyncClient(timeout=30) as client:
        answer = await client.post(f"{stage.web_url}/webhooks/wayforpay", content=gateway.body(forged))
    holds = answer.status_code == 401
    said = f"a callback that says Approved with another's signature was answered {answer.status_code}"
    if mailbox is not None:
        mailbox.deliver(notice("PF1002", "9 900,00", "541963777", day=day, vouched_for=False))
        mailbox.deliver(notice("PF1002_1", "9 900,00", "541963778", day=day))
        (unsigned,) = await stage.until(lambda: shop.parked("dkim=pass"), "the forged letter is left to a person")
        await stage.until(lambda: shop.asked("CHECK_STATUS", '"PF1002_1"'), "the gateway is asked about PF1002_1")
        said += (
            f"; a letter that its sender did not sign waits for a person ({unsigned}); a signed one about a payment "
            "that the bank declined was asked about, and the gateway said so"
        )
        holds = holds and not shop.asked("CHECK_STATUS", '"PF1002"')
    await stage.at_rest()
    holds = holds and (shop.status("PF1002"), shop.sums("PF1002")[1]) == (AWAITING, 0)
    if mailbox is None:
        stage.not_played(13, _FORGED, f"{why}; {said}")
    else:
        stage.prove(13, _FORGED, f"{said}; {shop.shown('PF1002')}", holds)


async def _at_once(shop: Workshop) -> None:
    stage, gateway, account = shop.stage, shop.gateway, shop.account
    stage.show("PF1003 is paid at once: how long it takes until Planfix shows it in production")
    await shop.order("PF1003", "8400.00")
    paid = gateway.pay("PF1003", "8400")
    took = await _measured(shop, "PF1003", paid)
    await shop.until("PF1003", IN_PRODUCTION, "8400", incomes=1)
    await stage.at_rest()
    calls = await _bare(shop, "PF1003")
    await shop.order("PF1004", "6200.00")
    at_its_pace = await _at_planfix_pace(shop, "PF1004", gateway.pay("PF1004", "6200"))
    stage.prove(
        15,
        "what took up to 6 hours takes about a second",
        f"from the gateway's callback: accepted after {took.accepted:.2f} s, In production in Planfix after "
        f"{took.in_planfix:.2f} s; the same calls made bare take {calls:.2f} s. With the one request a second that "
        f"Planfix lets pass: {at_its_pace.in_planfix:.2f} s",
        holds=(shop.status("PF1003"), shop.status("PF1004")) == (IN_PRODUCTION, IN_PRODUCTION),
    )
    (comment,), (entry,) = shop.comments("PF1003"), shop.incomes("PF1003")
    stage.prove(
        16,
        _PLANFIX,
        f"{shop.shown('PF1003')}; comment: {comment}; entry: {entry[AMOUNT]} on {entry[DATE]['date']}, payment "
        f"{entry[PAYMENT]}, known again by {entry[REFERENCE]}",
        "+8400.00 UAH" in comment and entry[PAYMENT] == "PF1003" and entry[AMOUNT] == 8400,
    )
    before = _changes(account, shop.tasks["PF1003"])
    answered = [await shop.callback(paid) for _ in range(3)]
    earlier = gateway.signed(paid | {"transactionStatus": "InProcessing", "reasonCode": 1131})
    answered.append(await shop.callback(earlier))
    await stage.at_rest()
    after = _changes(account, shop.tasks["PF1003"])
    stage.prove(
        15,
        _ONCE,
        f"the callback came three more times, and then an older one that says InProcessing; all accepted "
        f"({answered}); Planfix was written to {before} times before, and {after - before} times since; "
        f"{shop.shown('PF1003')}",
        before == after and all(one == [200] for one in answered) and len(shop.incomes("PF1003")) == 1,
    )


def _changes(account: PlanfixStandIn, task: int) -> int:
    return sum(number == task for _, number in account.done)


async def _measured(shop: Workshop, number: str, paid: Mapping[str, Any]) -> Took:
    """Deliver a callback, and return how long it took until Planfix showed the order in production."""
    await asyncio.sleep(_IDLE_S)  # what is measured is a shop that wasn't at work a moment ago
    began = time.perf_counter()

    async def send() -> float:
        await shop.callback(paid)
        return time.perf_counter() - began

    sending = asyncio.create_task(send())
    async with asyncio.timeout(60):
        while shop.status(number) != IN_PRODUCTION:  # noqa: ASYNC110 - the stand-in tells by no event
            await asyncio.sleep(_LOOK_EVERY_S)
    there = time.perf_counter() - began
    return Took(accepted=await sending, in_planfix=there)


async def _bare(shop: Workshop, number: str) -> float:
    """Return how long the calls take that bring an order into production, made one after the other and alone."""
    opened = shop.stage.opened
    gateway, crm = opened.connector("wayforpay", WayForPay), opened.connector("planfix", Planfix)
    order = await shop.in_kvit(number)
    shop.account.tasks[shop.tasks[number]]["status"] = AWAITING
    began = time.perf_counter()
    await gateway.truth(gateway.question(number))
    await crm.tell(order, str(IN_PRODUCTION), "bare")
    return time.perf_counter() - began


async def _at_planfix_pace(shop: Workshop, number: str, paid: Mapping[str, Any]) -> Took:
    """Measure with a connector that keeps to Planfix's limit, as one does that isn't told otherwise."""
    connectors = shop.stage.opened.connectors
    quick = connectors["planfix"]
    connectors["planfix"] = slow = load(_planfix(shop.account), home=shop.stage.home, where="chain")
    try:
        took = await _measured(shop, number, paid)
        await shop.until(number, IN_PRODUCTION, "6200", incomes=1)
        await shop.stage.at_rest()
    finally:
        connectors["planfix"] = quick
        await cast("Planfix", slow).aclose()
    return took


async def _nothing_unpaid(shop: Workshop) -> None:
    stage = shop.stage
    stage.show("somebody sends PF1002 to work in Planfix, though nothing was paid")
    for told in (True, False):
        await shop.person_sets("PF1002", IN_PRODUCTION, told=told)
        if not told:
            await _pull("planfix")
            stage.wake()
        await stage.until(lambda: shop.status("PF1002") == AWAITING, "the task of PF1002 is put back")
    await stage.at_rest()
    said = await shop.parked("PF1002", "in_production")
    order = await shop.in_kvit("PF1002")
    stage.prove(
        15,
        _NOT_UNPAID,
        f"a person made PF1002 “{STATUSES[IN_PRODUCTION]}” twice, once told by Planfix at once and once found by "
        f"polling; each time the task was put back, and a person was told: {'; '.join(said)}; {shop.shown('PF1002')}",
        order.status == "awaiting_payment" and len(said) == 1,
    )


async def _pull(name: str) -> None:
    from flows.pull_payments import pull_payments

    await pull_payments([name])


async def _lost_callback(shop: Workshop) -> None:
    stage, gateway = shop.stage, shop.gateway
    stage.show("PF1005 waits for six hours; then it is paid, and the callback gets lost")
    await shop.order("PF1005", "15300.00")
    stage.clock.forward(hours=6)
    await shop.now()
    gateway.pay("PF1005", "15300")
    await _pull("wayforpay")
    stage.wake()
    await shop.until("PF1005", IN_PRODUCTION, "15300", incomes=1)
    await stage.at_rest()
    late = await shop.callback(gateway.callback("PF1005"))
    await stage.at_rest()
    stage.prove(
        15,
        _ONCE,
        f"no callback came; polling found the payment: {shop.shown('PF1005')}; the callback came after all "
        f"({late}), and nothing more",
        late == [200] and len(shop.incomes("PF1005")) == 1,
    )


async def _money_back(shop: Workshop) -> None:
    stage, gateway = shop.stage, shop.gateway
    stage.show("a part of PF1001 is given back, and all of PF1003")
    await shop.now()
    await shop.callback(gateway.refund("PF1001_2", "500"))
    await shop.until("PF1001", IN_PRODUCTION, "12000", incomes=4)
    await shop.callback(gateway.refund("PF1003"))
    await shop.until("PF1003", CANCELLED, "0", incomes=2)
    await stage.at_rest()
    stage.prove(
        16,
        _BACK,
        f"{shop.shown('PF1001')}; {shop.shown('PF1003')}",
        (shop.sums("PF1001")[2], shop.sums("PF1003")[2]) == (Decimal(500), Decimal(8400)),
    )


async def _times(shop: Workshop) -> None:
    from domain.transitions import lasted, worst_said
    from tasks.transitions import asked, worked_out

    stage = shop.stage
    stage.show("PF1005 is completed two days later; the report of times")
    stage.clock.forward(days=2)
    await shop.person_sets("PF1005", COMPLETED)

    async def completed() -> bool:
        return (await shop.in_kvit("PF1005")).status == "completed"

    await stage.until(completed, "PF1005 is completed in Kvit too")
    await stage.at_rest()
    period = await asked(channel="planfix", since=None, until=None, before_after=None)
    rows = await worked_out(stage.opened, period, "planfix")
    of = {(row.before, row.after): row.whole for row in rows}
    paid, made = of[("awaiting_payment", "in_production")], of[("in_production", "completed")]
    lines: Sequence[str] = [
        f"{row.name}: {row.whole.count}, median {lasted(row.whole.median_s)}, longest {worst_said(row.whole)}"
        for row in rows
    ]
    stage.prove(
        17,
        _TIMES,
        "; ".join(lines),
        (paid.count, paid.worst[0][1]) == (4, "PF1005")
        and paid.worst_s >= 6 * 3600
        and made.worst_s >= 2 * 24 * 3600
        and rows[0].after == "completed",
    )
