"""The chain WooCommerce → YooKassa → Bitrix24 → bank → 1C → CDEK: retail and dealers, cards held and invoices paid.

Ten orders of one shop go from their first event to their last. Every outside system is a stand-in on a real socket,
and the clock is set forward where days must pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any, cast

from deployments.chain import Stage
from deployments.sandbox.bitrix24 import Bitrix24StandIn
from deployments.sandbox.cdek import WAY, CdekStandIn
from deployments.sandbox.onec import OneC
from deployments.sandbox.woocommerce import Item, WooCommerceStandIn
from deployments.sandbox.yookassa import YooKassaStandIn
from domain.holds import Decision
from domain.orders import Order
from domain.waiting import last_day
from domain.wording import listed
from store import documents, effects, orders, stock
from store.effects import EffectState

if TYPE_CHECKING:
    from prefect import State

    from tasks.holds import HoldRow
    from tasks.unmatched import QueueRow

RULES = "woocommerce-yookassa-bitrix24-1c-cdek.yaml"
DEALER = 501
"""The account in WooCommerce of the dealer who pays later."""

_ACCOUNT = "40702810900000000261"
_WEBHOOKS = "order.created order.updated order.deleted order.restored".split()
_SECRET = "sandbox-webhook-secret"  # noqa: S105 - a stand-in's secrets are none
_CDEK_TOKEN = "sandbox-cdek-token-0001"  # noqa: S105 - the same
_1C_USER, _1C_PASSWORD = "1c", "sandbox-1c-password"
_VAT = "22"
_GOODS = {"TEA-PUE": ("Пуэр, прессованный, 357 г", "2400.00"), "TEA-SEN": ("Сенча, 100 г", "650.00")}

# What this shop writes to a customer whose payment came; a file in KVIT_HOME/templates takes the place of Kvit's own.
_LETTERS = {
    "payment_received.subject.j2": "Заказ {{ order.number }}: оплата получена",
    "payment_received.txt.j2": """{% extends "base.txt.j2" %}
{% block content %}
Мы получили оплату за Ваш заказ № {{ order.number }}{% if not shipment %} и приступили к сборке{% endif %}.
{% endblock %}
""",
    "payment_received.html.j2": """{% extends "base.html.j2" %}
{% block heading %}Спасибо, оплата получена{% endblock %}
{% block content %}
<p>Мы получили оплату за Ваш заказ №&nbsp;{{ order.number }}{% if not shipment %} и приступили к сборке{% endif %}.</p>
{% endblock %}
""",
}


@dataclass(slots=True)
class Shop:
    """What is played: the stage, and the systems that stand beside the installation."""

    stage: Stage
    woo: WooCommerceStandIn
    kassa: YooKassaStandIn
    portal: Bitrix24StandIn
    cdek: CdekStandIn
    told: int = 0
    """How many of Bitrix24's events were delivered."""
    notified: int = 0
    """How many of YooKassa's notifications were delivered."""
    ids: dict[str, int] = field(default_factory=dict[str, int])
    """WooCommerce's ids of its orders, by number."""

    def settings(self) -> dict[str, Any]:
        """Return kvit.yaml. Of the stand-ins all is local, so they may be asked oftener than the real systems."""
        connectors: list[dict[str, Any]] = [
            {
                "name": "woocommerce",
                "type": "woocommerce",
                "base_url": self.woo.base_url,
                "consumer_key": self.woo.consumer_key,
                "consumer_secret": self.woo.consumer_secret,
                "webhook_secret": _SECRET,
                "channel": "woo",
                "language": "ru",
                "methods": {"yookassa_bank_card": "card"},
                "statuses": {"assembled": "ready"},
                "paid_on_delivery": ["cdek_pickup"],
                "discount_lines": False,
            },
            {
                "name": "yookassa",
                "type": "yookassa",
                "base_url": self.kassa.base_url,
                "shop_id": self.kassa.shop_id,
                "secret_key": self.kassa.secret_key,
                "webhook_networks": ["127.0.0.0/8"],
                "holds": True,
                "payment_mode": "full_prepayment",
            },
            {
                "name": "bitrix24",
                "type": "bitrix24",
                "base_url": self.portal.url,
                "user": self.portal.user,
                "token": self.portal.token,
                "application_token": self.portal.application_token,
                "paid_field": "UF_CRM_PAID",
                "difference_field": "UF_CRM_DIFF",
                "limits": {"per_second": 100},
            },
            {"name": "bank", "type": "client_bank_1c"},
            {
                "name": "1c",
                "type": "commerceml",
                "username": _1C_USER,
                "password": _1C_PASSWORD,
                "channels": ["woo"],
                "time_zone": "Europe/Moscow",
            },
            {
                "name": "cdek",
                "type": "cdek",
                "base_url": self.cdek.base_url,
                "client_id": self.cdek.client_id,
                "client_secret": self.cdek.client_secret,
                "webhook_token": _CDEK_TOKEN,
                "tariff": 139,
                "sender_phone": "+74950000001",
                "poll_every": 0.05,
            },
        ]
        return {"connectors": connectors}

    # What people do

    def place(
        self, number: str, payment_method: str, *, items: Sequence[tuple[str, int]], status: str, **more: Any
    ) -> None:
        """Let a customer place an order in WooCommerce."""
        told = [
            Item(sku=sku, name=_GOODS[sku][0], quantity=quantity, price=_GOODS[sku][1], rate=_VAT)
            for sku, quantity in items
        ]
        person = {"first_name": "Анна", "last_name": "Смирнова", "address_1": "ул. Садовая, д. 5", "city": "Тула"}
        person |= {"postcode": "300000", "country": "RU"}
        self.ids[number] = self.woo.place(
            *told,
            payment_method=payment_method,
            status=status,
            number=number,
            delivery="350.00",
            delivery_rate=_VAT,
            delivery_name="СДЭК, курьер",
            billing={**person, "email": f"{number.lower()}@customer.example.com", "phone": "+79000000471"},
            shipping=person,
            **more,
        )

    def pay_by_card(self, *numbers: str) -> dict[str, str]:
        """Let customers pay by card in two stages; return YooKassa's ids of the payments, by order."""
        return {number: self.kassa.hold(number, self.minor(number))["object"]["id"] for number in numbers}

    def minor(self, number: str) -> int:
        """Return what an order costs in WooCommerce, in kopecks."""
        return int(self.woo.orders[self.ids[number]]["total"].scaleb(2))

    # What is told, and how all stands

    async def settle(self) -> None:
        """Deliver what the outside systems tell, of their people's changes and of ours, until nothing moves."""
        webhooks = f"{self.stage.web_url}/webhooks"
        while True:
            await self.stage.at_rest(seconds=120)
            answered = await self.woo.deliver()
            new, self.notified = self.kassa.notifications[self.notified :], len(self.kassa.notifications)
            for notification in new:
                answered += await self.kassa.deliver(notification, f"{webhooks}/yookassa")
            events, self.told = self.portal.events[self.told :], len(self.portal.events)
            answered += [await self.portal.deliver(event, f"{webhooks}/bitrix24") or 0 for event in events]
            if any(status != 200 for status in answered):
                raise AssertionError(f"webhooks were answered {answered}")
            if not answered:
                return

    async def order(self, number: str) -> Order:
        """Return an order as it stands here."""
        async with self.stage.opened.store.read() as connection:
            ((id_, _),) = await orders.ids_of(connection, number, "woo")
            return (await orders.load(connection, [id_]))[id_]

    async def costs(self, number: str, total: str) -> bool:
        """Say whether an order costs so much here now."""
        return str((await self.order(number)).total) == total

    async def history(self, number: str) -> list[str]:
        """Return the statuses that an order came to, the oldest first."""
        async with self.stage.opened.store.read() as connection:
            ((id_, _),) = await orders.ids_of(connection, number, "woo")
            return [row["after"] for row in await orders.status_history(connection, id_)]

    async def shipment(self, number: str) -> dict[str, Any] | None:
        """Return an order's live consignment."""
        order = await self.order(number)
        async with self.stage.opened.store.read() as connection:
            return await orders.live_shipment(connection, order.id)

    async def invoices(self, number: str) -> list[str]:
        """Return the numbers of an order's invoices."""
        order = await self.order(number)
        async with self.stage.opened.store.read() as connection:
            return [one["number"] for one in await documents.of_order(connection, order.id) if one["kind"] == "invoice"]

    async def reserved(self, sku: str) -> int:
        """Return how many of an article are set aside."""
        async with self.stage.opened.store.read() as connection:
            return next(level.reserved for level in await stock.levels(connection) if level.sku == sku)

    def in_shop(self, number: str) -> str:
        """Return the status of an order in WooCommerce."""
        return self.woo.orders[self.ids[number]]["status"]

    def card(self, number: str) -> dict[str, Any]:
        """Return an order's deal in Bitrix24."""
        return next(item for item in self.portal.kinds[2].items.values() if item["originId"] == number)

    def letters(self, number: str) -> list[str]:
        """Return the subjects of the letters that went to an order's customer."""
        return sorted(self.texts(number))

    def texts(self, number: str) -> dict[str, str]:
        """Return the letters that went to an order's customer: their texts by their subjects."""
        recipient = f"{number.lower()}@customer.example.com"
        read = [
            message_from_bytes(file.read_bytes(), policy=policy.default)
            for file in (self.stage.home / "maildir" / "new").glob("*")
        ]
        mine = [letter for letter in read if recipient in str(letter["To"])]
        found: dict[str, str] = {}
        for letter in mine:
            subject, body = str(letter["Subject"]), letter.get_body(("plain",))
            if subject in found:
                raise AssertionError(f"the customer of {number} was told “{subject}” twice")
            found[subject] = body.get_content() if body else ""
        return found

    async def decides(self, number: str, decision: Decision, because: str) -> str:
        """Let an operator decide about held money, as `kvit hold capture` does; return why that is refused, if so."""
        from tasks.holds import HoldError, decide_hold

        try:
            await decide_hold(self.stage.opened, number, decision, channel="woo", author="Ольга", because=because)
        except HoldError as error:
            return str(error)
        self.stage.wake()
        return ""

    async def holds(self) -> list[HoldRow]:
        """Return what is held, as `kvit hold show` does."""
        from tasks.holds import rows

        return await rows(self.stage.opened)

    async def queue(self) -> list[QueueRow]:
        """Return what waits for a person, as `kvit payments list --unmatched` does."""
        from tasks.unmatched import queue_rows

        async with self.stage.opened.store.read() as connection:
            return await queue_rows(connection, self.stage.clock())

    async def parked(self) -> list[str]:
        """Return why messages of other systems wait for a person."""
        return [row.why for row in await self.queue() if row.payment is None]

    async def waiting(self) -> list[str]:
        """Return why payments wait for a person."""
        return [row.why for row in await self.queue() if row.payment is not None]

    async def asked(self, number: str) -> list[str]:
        """Return what a person is asked to do about steps of an order."""
        order = await self.order(number)
        async with self.stage.opened.store.read() as connection:
            found = await effects.of_order(connection, order.id)
        return [f"{one['step']}: {one['reason']}" for one in found if one["state"] == EffectState.REJECTED]

    async def statement(self, number: str, text: str) -> None:
        """Let a customer pay an order at the bank, and import the bank's statement, as it is exported for 1C."""
        from tasks.intake import take_statement

        order = await self.order(number)
        async with self.stage.opened.store.read() as connection:
            issued = (await documents.of_order(connection, order.id))[-1]["number"]
        day = self.stage.clock().date()
        file = bank_statement(day, order.to_pay.amount, text.format(number=number, document=issued))
        imported = await take_statement(self.stage.opened, file, f"kl_to_1c-{day}.txt")
        if imported.new != 1 or imported.refused:
            raise AssertionError(f"of the statement about {number} {imported.new} payments are new: {imported.refused}")
        self.stage.wake()

    async def carry(self, number: str, *statuses: str) -> None:
        """Let CDEK carry an order's parcel on, and tell of each status by a webhook."""
        (parcel,) = self.parcels(number)
        for status in statuses:
            await self.cdek.deliver(self.cdek.move(parcel.number, status))

    def effects(self, what: str, payment: str) -> list[str]:
        """Return the amounts with which something was asked of YooKassa about a payment."""
        return [amount for done, id_, amount in self.kassa.effects if (done, id_) == (what, payment)]

    def parcels(self, number: str) -> list[Any]:
        """Return the consignments that CDEK took of an order."""
        return [one for one in self.cdek.parcels if str(one.body["number"]).startswith(f"{number}-")]


async def play(stage: Stage) -> None:
    """Play the chain; every proof is noted on the stage."""
    shop = Shop(
        stage,
        await stage.beside(WooCommerceStandIn(currency="RUB", zone="Europe/Moscow", statuses=("assembled",))),
        await stage.beside(YooKassaStandIn()),
        await stage.beside(Bitrix24StandIn(custom={"UF_CRM_PAID": "double", "UF_CRM_DIFF": "double"}, burst=10_000)),
        await stage.beside(CdekStandIn(clock=stage.clock, looks=1)),
    )
    _write_letters(shop)
    await stage.open(shop.settings(), RULES)
    async with stage.opened.store.write() as connection:
        for sku, (title, _) in _GOODS.items():
            await stock.count(connection, sku, title, 100, now=stage.clock())
    for topic in _WEBHOOKS:
        await shop.woo.subscribe(topic, f"{stage.web_url}/webhooks/woocommerce", _SECRET)
    shop.cdek.subscriptions["ORDER_STATUS"] = f"{stage.web_url}/webhooks/cdek/{_CDEK_TOKEN}"
    await _orders_are_placed(shop)
    held = await _cards_are_held(shop)
    await _an_operator_decides(shop, held)
    await _invoices_are_paid(shop)
    await _orders_go_to_1c(shop)
    await _statuses_follow(shop)
    await _goods_are_paid_online(shop)
    await _parcels_arrive(shop)
    await _goods_are_handed_over(shop, held)
    await _cdek_pays_out(shop)
    await _the_last_day(shop)
    await _a_hold_expires(shop, held["W1004"])
    await _a_dealer_pays_later(shop)


async def _orders_are_placed(shop: Shop) -> None:
    shop.stage.show("customers place orders in WooCommerce")
    card = {"payment_method": "yookassa_bank_card", "status": "pending"}
    shop.place("W1001", items=[("TEA-PUE", 2)], **card)
    shop.place("W1002", items=[("TEA-SEN", 3)], **card)
    shop.place("W1003", items=[("TEA-SEN", 1)], **card)
    shop.place("W1004", items=[("TEA-PUE", 1)], **card)
    invoice = {"payment_method": "bacs", "status": "on-hold"}
    shop.place("W1005", items=[("TEA-SEN", 2)], **invoice)
    shop.place("W1006", items=[("TEA-PUE", 3)], **invoice)
    shop.place("W1007", items=[("TEA-PUE", 20)], customer_id=DEALER, **invoice)
    on_delivery = {"payment_method": "cod", "status": "processing"}
    shop.place("W1008", items=[("TEA-SEN", 1)], **on_delivery)
    shop.place("W1009", items=[("TEA-SEN", 4)], **on_delivery)
    await shop.settle()
    stage = shop.stage
    order, letters = await shop.order("W1005"), shop.letters("W1005")
    day = last_day(order.reserved_until) if order.reserved_until else None
    stage.prove(
        20,
        "The customer gets the invoice by e-mail by itself; stock is reserved for three days",
        f"letters to the customer: {said(letters)}; the last day is {day}; "
        f"{await shop.reserved('TEA-SEN')} packets are set aside",
        letters == ["Реквизиты для оплаты заказа W1005"]
        and day == (stage.clock() + timedelta(days=3)).date()
        and await shop.reserved("TEA-SEN") == 2 + 3 + 1,
    )
    cards = {number: shop.card(number)["stageId"] for number in ("W1005", "W1006")}
    stage.prove(
        21,
        "The order is exported to Bitrix24",
        f"Bitrix24 has {len(shop.portal.kinds[2].items)} deals; {cards}",
        len(shop.portal.kinds[2].items) == 9 and set(cards.values()) == {"PREPAYMENT_INVOICE"},
    )
    dealer = await shop.order("W1007")
    stage.prove(
        24,
        "Payment by invoice with deferral: assembling starts at once, the money comes later",
        f"W1007 is {dealer.status}, due on {dealer.due_on}, with {len(shop.parcels('W1007'))} parcel at CDEK "
        f"and nothing paid; WooCommerce has it at {shop.in_shop('W1007')}",
        dealer.status == shop.in_shop("W1007") == "processing"
        and dealer.due_on == (stage.clock() + timedelta(days=14)).date()
        and len(shop.parcels("W1007")) == 1
        and not dealer.settled,
    )


async def _cards_are_held(shop: Shop) -> dict[str, str]:
    shop.stage.show("customers pay by card, and YooKassa holds the money")
    numbers = ["W1001", "W1002", "W1003", "W1004"]
    held = shop.pay_by_card(*numbers)
    await shop.settle()
    here = [(await shop.order(number)).status for number in numbers]
    there = [shop.in_shop(number) for number in numbers]
    letters = [shop.letters(number) for number in numbers]
    shop.stage.prove(
        18,
        "Authorised money is held; order accepted, on hold; letter “order accepted, awaiting processing”",
        f"YooKassa holds the money of {len(held)} orders; here they are {here[0]}, in WooCommerce {there[0]}; letters: "
        f"{said(letters[0])}",
        set(here) == {"on_hold"}
        and set(there) == {"on-hold"}
        and letters == [[f"Заказ {number} принят"] for number in numbers]
        and not [effect for effect in shop.kassa.effects if effect[0] == "capture"],
    )
    return held


async def _an_operator_decides(shop: Shop, held: dict[str, str]) -> None:
    """Make two orders smaller and take their money, one of them in WooCommerce alone; let one go."""
    stage, woo = shop.stage, shop.woo
    stage.show("an operator edits orders in WooCommerce, and takes or releases the money")
    woo.edit_line(shop.ids["W1001"], quantity=1)
    woo.edit_line(shop.ids["W1002"], quantity=1)
    woo.set_status(shop.ids["W1002"], "processing")
    woo.edit_line(shop.ids["W1003"], quantity=2)
    before = (await shop.order("W1003")).total
    await shop.woo.deliver()
    await stage.until(lambda: shop.costs("W1001", "2750.00 RUB"), "W1001 has shrunk here, too")
    await stage.until(shop.parked, "a person is told that W1003 has outgrown its hold")
    said_no = [
        await shop.decides("W1001", Decision.CAPTURE, "one cake is sold out; agreed by phone"),
        await shop.decides("W1003", Decision.RELEASE, "the customer has changed her mind"),
    ]
    await shop.settle()
    kept = (await shop.order("W1003")).total
    stage.prove(
        18,
        "While held the operator can edit the order within the held sum",
        f"W1001 was changed to {(await shop.order('W1001')).total} of 5150.00 held; W1003, changed to more than is "
        f"held, stayed at {kept} here, and a person is told: {said(await shop.parked())}",
        kept == before and str((await shop.order("W1001")).total) == "2750.00 RUB" and len(await shop.parked()) == 1,
    )
    taken = {number: shop.effects("capture", held[number]) for number in ("W1001", "W1002")}
    receipts = [shop.kassa.payments[held[number]].get("receipt_registration") for number in taken]
    stage.prove(
        18,
        "Capture less, if the order shrank; or release",
        f"YooKassa was asked to take {taken} with a fiscal receipt each, and to release "
        f"{shop.effects('cancel', held['W1003'])} of W1003, once; W1001 as by `kvit hold capture`, W1002 by its status "
        f"in WooCommerce, W1003 as by `kvit hold release`; of W1003 nothing is set aside or sent",
        not any(said_no)
        and taken == {"W1001": ["2750.00"], "W1002": ["1000.00"]}
        and receipts == ["succeeded", "succeeded"]
        and shop.effects("cancel", held["W1003"]) == ["1000.00"]
        and shop.in_shop("W1003") == (await shop.order("W1003")).status == "cancelled"
        and shop.card("W1003")["stageId"] == "LOSE"
        and not shop.parcels("W1003")
        and await shop.reserved("TEA-SEN") == 2,
    )
    here = [(await shop.order(number)).status for number in taken]
    letters = {number: shop.letters(number) for number in taken}
    stage.prove(
        19,
        "On capture: confirmed, awaiting dispatch (Processing), and its letter",
        f"here {said(here)}, in WooCommerce {said([shop.in_shop(number) for number in taken])}; letters: "
        f"{said(letters['W1001'])}",
        set(here) == {"processing"}
        and {shop.in_shop(number) for number in taken} == {"processing"}
        and all(f"Заказ {number}: подтверждён, собираем к отправке" in letters[number] for number in taken),
    )
    tracking = {number: (await shop.shipment(number) or {}).get("tracking_number") for number in taken}
    notes = [text for text in woo.mailed if any(str(one) in text for one in tracking.values())]
    stage.prove(
        19,
        "On dispatch: tracking number to the customer as a note to the customer",
        f"WooCommerce sent to the customers: {said(notes)}",
        None not in tracking.values() and len(notes) == 2,
    )
    stage.prove(
        23,
        "CDEK: shipments created by themselves, tracking numbers sent by themselves",
        f"CDEK took on {tracking}, each once",
        all([one.number for one in shop.parcels(number)] == [tracking[number]] for number in taken),
    )


async def _invoices_are_paid(shop: Shop) -> None:
    stage = shop.stage
    stage.show("the bank's statement comes")
    await shop.statement("W1005", "Оплата по счету N {document}, в т.ч. НДС")
    await shop.settle()
    order, deal = await shop.order("W1005"), shop.card("W1005")
    letters = shop.texts("W1005")
    stage.prove(
        21,
        "When the bank statement confirms the payment: Processing, and the letter “we have received the payment and "
        "begun to assemble your order”",
        f"here {order.status}, in WooCommerce {shop.in_shop('W1005')}, in Bitrix24 {deal['stageId']} with "
        f"{deal['UF_CRM_PAID']} paid, {deal['UF_CRM_DIFF']} missing and {len(shop.portal.texts(deal['id']))} payment "
        f"in its timeline; letters: {said(sorted(letters))}",
        order.status == shop.in_shop("W1005") == "processing"
        and deal["stageId"] == "EXECUTING"
        and deal["UF_CRM_DIFF"] == 0
        and len(shop.portal.texts(deal["id"])) == 1
        and "приступили к сборке" in letters["Заказ W1005: оплата получена"],
    )


async def _orders_go_to_1c(shop: Shop) -> None:
    """Let 1C fetch orders twice, and tell the second time that it has sent one of them."""
    stage = shop.stage
    stage.show("1C fetches the orders")
    onec = await stage.beside(OneC(url=f"{stage.web_url}/1c/1c", username=_1C_USER, password=_1C_PASSWORD))
    given = await onec.exchange()
    onec.status("woo:W1007", Отгружен="true")
    again = await onec.exchange()
    await shop.settle()
    paid = onec.orders["woo:W1005"]
    numbers = sorted(onec.orders[id_].number for id_ in given)
    stage.prove(
        22,
        "From that status orders can be exported to 1C",
        f"1C fetched {said(numbers)}, each once, and none that waits for its money or is on hold; of W1005 it has "
        f"{paid.total} {paid.currency}, “{paid.requisites['Статус заказа']}”, paid {paid.requisites['Заказ оплачен']}; "
        f"asked again at once, it is given {said(again)}",
        numbers == ["W1001", "W1002", "W1005", "W1007", "W1008", "W1009"]
        and again == []
        and len(onec.taken) == len(set(onec.taken))
        and (str(paid.total), paid.requisites["Заказ оплачен"]) == ("1650.00", "true"),
    )
    sent = await shop.order("W1007")
    stage.prove(
        22,
        "What 1C says of an order follows",
        f"1C told that W1007 was handed out: it is {sent.status} here, {shop.in_shop('W1007')} in WooCommerce and "
        f"{shop.card('W1007')['stageId']} in Bitrix24",
        (sent.status, shop.in_shop("W1007"), shop.card("W1007")["stageId"]) == ("ready", "assembled", "FINAL_INVOICE"),
    )


async def _statuses_follow(shop: Shop) -> None:
    """Let a manager move deals in Bitrix24, and another finish an order in WooCommerce."""
    stage, portal, woo = shop.stage, shop.portal, shop.woo
    stage.show("people change statuses in Bitrix24 and in WooCommerce")
    done = len(portal.done), len(woo.done)
    portal.move(shop.card("W1005")["id"], "FINAL_INVOICE")
    portal.move(shop.card("W1006")["id"], "EXECUTING")
    woo.set_status(shop.ids["W1002"], "completed")
    await shop.settle()
    asked = [what for what, _ in portal.done[done[0] :]], [what for what, _ in woo.done[done[1] :]]
    here = {number: (await shop.order(number)).status for number in ("W1005", "W1006", "W1002")}
    stage.prove(
        21,
        "The status may be changed on the site or in Bitrix24, and follows in the other",
        f"W1005, moved in Bitrix24, is {here['W1005']} here and {shop.in_shop('W1005')} in WooCommerce; W1002, changed "
        f"in WooCommerce, is {here['W1002']} here and {shop.card('W1002')['stageId']} in Bitrix24; no echo: all that "
        f"it led to is {said(asked[0])} in Bitrix24 and {said(asked[1])} in WooCommerce",
        (here["W1005"], shop.in_shop("W1005")) == ("ready", "assembled")
        and (here["W1002"], shop.card("W1002")["stageId"]) == ("completed", "WON")
        and asked == (["crm.item.update", "crm.item.update"], ["status assembled"]),
    )
    stage.prove(
        21,
        "Without payment no order is sent to work, wherever somebody says so",
        f"W1006, unpaid, was moved on in Bitrix24: it stayed {here['W1006']} here, and its deal went back to "
        f"{shop.card('W1006')['stageId']}; a person is told",
        (here["W1006"], shop.card("W1006")["stageId"]) == ("awaiting_payment", "PREPAYMENT_INVOICE")
        and any("7550.00 RUB is missing" in why for why in await shop.parked()),
    )


async def _goods_are_paid_online(shop: Shop) -> None:
    """Let a customer pay goods of 650 by card, and leave 350 for the delivery to be paid when it is picked up."""
    stage = shop.stage
    stage.show("a customer pays for the goods online, and is to pay for the delivery at pick-up")
    card = {"payment_method": "yookassa_bank_card", "status": "pending", "delivery_id": "cdek_pickup"}
    shop.place("W1010", items=[("TEA-SEN", 1)], **card)
    payment = shop.kassa.hold("W1010", shop.minor("W1010") - 350_00)["object"]["id"]
    await shop.settle()
    refused = await shop.decides("W1010", Decision.CAPTURE, "all is in stock")
    await shop.settle()
    order, parcels = await shop.order("W1010"), shop.parcels("W1010")
    of_goods = [str(item["payment"]["value"]) for one in parcels for item in one.body["packages"][0]["items"]]
    of_delivery = [str(one.body.get("delivery_recipient_cost", {}).get("value")) for one in parcels]
    stage.prove(
        34,
        "Goods paid online and delivery paid at pick-up, in one order: paid for so far, it goes",
        f"W1010 costs {order.total}; YooKassa was asked to take {said(shop.effects('capture', payment))}, and it is "
        f"{order.status}, invoiced as {said(await shop.invoices('W1010'))}; CDEK is to collect {said(of_delivery)} for "
        f"the delivery and {said(of_goods)} for the goods",
        not refused
        and shop.effects("capture", payment) == ["650.00"]
        and (order.status, str(order.paid), str(order.to_pay)) == ("processing", "650.00 RUB", "350.00 RUB")
        and len(await shop.invoices("W1010")) == 1
        and [Decimal(one) for one in of_delivery] == [350]
        and [Decimal(one) for one in of_goods] == [0],
    )


async def _parcels_arrive(shop: Shop) -> None:
    shop.stage.show("CDEK takes parcels to their customers")
    numbers = ("W1001", "W1008", "W1009", "W1010")
    for number in numbers:
        await shop.carry(number, WAY[0])
    await shop.settle()
    # The courier took less than he was to collect.
    shop.parcels("W1009")[0].collected = Decimal("2500.00")
    for number in numbers:
        await shop.carry(number, *WAY[1:])
    await shop.settle()
    came = [status for status in await shop.history("W1001") if status in ("processing", "dispatched", "completed")]
    shop.stage.prove(
        23,
        "When CDEK says received by the customer, the order becomes Completed",
        f"W1001 became {' → '.join(came)} here, {shop.in_shop('W1001')} in WooCommerce and "
        f"{shop.card('W1001')['stageId']} in Bitrix24",
        came == ["processing", "dispatched", "completed"]
        and shop.in_shop("W1001") == "completed"
        and shop.card("W1001")["stageId"] == "WON",
    )


async def _goods_are_handed_over(shop: Shop, held: dict[str, str]) -> None:
    """See what the tax office was told of goods that were paid before, and that asking once more tells it nothing."""
    from tasks.repeat import repeat

    stage = shop.stage
    because = "the customer asks for the receipt"
    await repeat(stage.opened, "W1001", "second receipt", channel="woo", author="Ольга", because=because)
    stage.wake()
    await shop.settle()
    sums = {number: shop.effects("receipt", held[number]) for number in ("W1001", "W1002", "W1003", "W1004")}
    of_goods = [amount for what, id_, amount in shop.kassa.effects if what == "receipt" and id_ not in held.values()]
    modes = {item["payment_mode"] for one in shop.kassa.receipts.values() for item in one["items"]}
    async with stage.opened.store.read() as connection:
        done = await effects.of_order(connection, (await shop.order("W1001")).id)
    history = [one["state"] for one in done if one["step"] == "second receipt" and one["state"] == EffectState.DONE]
    stage.prove(
        23,
        "When the goods are handed over, the second fiscal receipt follows",
        f"YooKassa was asked for second receipts over {sums} and, of W1010, whose delivery was not paid by card, over "
        f"{said(of_goods)}, each once, though a person asked for W1001's again; the receipts say {said(sorted(modes))}",
        sums == {"W1001": ["2750.00"], "W1002": ["1000.00"], "W1003": [], "W1004": []}
        and of_goods == ["650.00"]
        and modes == {"full_prepayment", "full_payment"}
        and len(history) == 1,
    )


async def _cdek_pays_out(shop: Shop) -> None:
    from flows.pull_payments import pull_payments

    stage = shop.stage
    stage.show("CDEK pays out what it collected")
    registry = shop.cdek.pay_out(stage.clock().date())
    await run(pull_payments, ["cdek"])
    await shop.settle()
    exact, short = await shop.order("W1008"), await shop.order("W1009")
    waiting = await shop.waiting()
    stage.prove(
        34,
        "COD remittances matched to orders, with a list of discrepancies",
        f"registry {registry['registry_number']} tells of {len(registry['orders'])} parcels; W1008 is paid with "
        f"{exact.settled}; in the list: {said(waiting)}",
        exact.to_pay.minor == 0
        and short.to_pay.minor > 0
        and ["W1009" in why and "450.00 RUB is still missing" in why for why in waiting] == [True],
    )
    both, letters = await shop.order("W1010"), shop.letters("W1010")
    stage.prove(
        34,
        "Goods paid online and delivery paid at pick-up, in one order: the registry pays the rest",
        f"W1010 is paid with {both.settled} and {both.status}; invoices: {said(await shop.invoices('W1010'))}; "
        f"parcels: {len(shop.parcels('W1010'))}; letters: {said(letters)}",
        both.settled == both.total
        and both.status == "completed"
        and len(await shop.invoices("W1010")) == len(shop.parcels("W1010")) == 1
        and letters.count("Заказ W1010: оплата получена") == 1,
    )


async def _the_last_day(shop: Shop) -> None:
    stage = shop.stage
    stage.show("two days later, and the day after that")
    stage.clock.forward(days=2)
    await shop.settle()
    reminded = shop.letters("W1006")
    stage.clock.forward(days=1)
    await shop.settle()
    order = await shop.order("W1006")
    told = await shop.asked("W1006")
    stage.prove(
        20,
        "On day 3, unpaid: the manager is told to call the customer",
        f"the customer was reminded the day before ({reminded[0]}), and the run “last day” needs a person: "
        f"{said(told)}",
        "Заказ W1006 ждёт оплаты" in reminded and len(told) == 1 and "call the customer" in told[0],
    )
    from tasks.waiting import extend

    day = await extend(stage.opened, "W1006", 3, channel="woo", author="Ольга", because="the customer pays on Friday")
    await shop.settle()
    after = await shop.order("W1006")
    stage.prove(
        20,
        "The manager can extend the reserve",
        f"one action put the last day off to {day}; nobody is asked to call any more, and "
        f"{await shop.reserved('TEA-PUE')} cakes are still set aside",
        not await shop.asked("W1006")
        and after.reserved_until is not None
        and order.reserved_until is not None
        and after.reserved_until - order.reserved_until == timedelta(days=3)
        and await shop.reserved("TEA-PUE") >= 3,
    )
    await shop.statement("W1006", "Заказ {number}, без НДС")
    await shop.settle()


async def _a_hold_expires(shop: Shop, payment: str) -> None:
    from flows.authorization import holds_waiting

    stage = shop.stage
    stage.show("seven days after the cards were held")
    stage.clock.forward(days=3, hours=2)
    shop.kassa.time = stage.clock()
    warned = await run(holds_waiting)
    rows = [row for row in await shop.holds() if row.warned]
    stage.prove(
        38,
        "Holds that warn before they expire",
        f"the run “holds” ended as “{warned.name}”: {warned.message}; it names "
        f"{said([str(row.stored.number) for row in rows])}, held until {rows[0].stored.hold.expires_at:%d.%m. %H:%M}"
        if rows
        else "nobody was warned",
        warned.name == "Needs a person" and [row.stored.number for row in rows] == ["W1004"],
    )
    stage.clock.forward(days=1)
    shop.kassa.time = stage.clock()
    shop.kassa.expire(stage.clock())
    await shop.settle()
    parked = len(await shop.parked())
    shop.woo.set_status(shop.ids["W1004"], "processing")
    await shop.settle()
    order = await shop.order("W1004")
    told = [f"{row.stored.number} {row.stored.hold.state}" for row in await shop.holds() if row.warned]
    refused = await shop.decides("W1004", Decision.CAPTURE, "the customer insists")
    stage.prove(
        38,
        "A guard against shipping on a dead hold",
        f"YooKassa gave the money back: {shop.kassa.payments[payment]['cancellation_details']['reason']}; made "
        f"Processing in WooCommerce all the same, W1004 stays {order.status} here and {shop.in_shop('W1004')} there, "
        f"CDEK has {len(shop.parcels('W1004'))} parcels of it, and a capture is refused: {refused}. `kvit hold show` "
        f"names it until it is paid anew or cancelled: {said(told)}",
        (order.status, shop.in_shop("W1004")) == ("on_hold", "on-hold")
        and not shop.parcels("W1004")
        and "any more" in refused
        and told == ["W1004 expired"]
        and len(await shop.parked()) == parked + 1,
    )


async def _a_dealer_pays_later(shop: Shop) -> None:
    stage = shop.stage
    stage.show("the day before the dealer's invoice is due")
    due_on = (await shop.order("W1007")).due_on
    assert due_on is not None  # noqa: S101 - as it was proved before
    left = due_on - timedelta(days=1) - stage.clock().date()
    stage.clock.forward(days=left.days)
    await shop.settle()
    reminded = shop.letters("W1007")
    await shop.statement("W1007", "Оплата заказа {number} по договору 12")
    await shop.settle()
    stage.clock.forward(days=10)
    await shop.settle()
    order = await shop.order("W1007")
    stage.prove(
        24,
        "Due date, reminders",
        f"the dealer was reminded the day before {due_on} and paid {order.settled}; ten days later nobody was told "
        f"anything more: {said(shop.letters('W1007'))}",
        reminded.count("Заказ W1007 ждёт оплаты") == 1
        and order.to_pay.minor == 0
        and shop.letters("W1007").count("Заказ W1007 ждёт оплаты") == 1
        and len(shop.parcels("W1007")) == 1
        and not await shop.asked("W1007"),
    )


def bank_statement(day: date, amount: str, purpose: str) -> bytes:
    """Return a day's statement of the shop's account with one payment that came in, in 1CClientBankExchange."""
    written = f"{day:%d.%m.%Y}"
    account: dict[str, str] = {"ДатаНачала": written, "ДатаКонца": written, "РасчСчет": _ACCOUNT}
    account |= {"НачальныйОстаток": "0.00", "ВсегоПоступило": amount, "ВсегоСписано": "0.00", "КонечныйОстаток": amount}
    payment: dict[str, str] = {"Номер": f"{day:%m%d}", "Дата": written, "Сумма": amount, "ДатаПоступило": written}
    payment |= {"ПлательщикСчет": "40702810800000000312", "Плательщик": "ООО «Самовар»", "ПлательщикБИК": "044500002"}
    payment |= {"ПолучательСчет": _ACCOUNT, "Получатель": "ООО «Чайный двор»", "ПолучательБИК": "044500001"}
    payment |= {"НазначениеПлатежа": purpose}
    head = {"ВерсияФормата": "1.03", "Кодировка": "Windows", "РасчСчет": _ACCOUNT}
    lines = ["1CClientBankExchange", *(f"{name}={value}" for name, value in head.items())]
    for begins, ends, fields in (
        ("СекцияРасчСчет", "КонецРасчСчет", account),
        ("СекцияДокумент=Платежное поручение", "КонецДокумента", payment),
    ):
        lines += [begins, *(f"{name}={value}" for name, value in fields.items()), ends]
    return "\r\n".join([*lines, "КонецФайла", ""]).encode("cp1251")


async def run(flow: Any, *given: Any) -> State[Any]:
    """Run a flow; asked for its state it returns that, which its type doesn't say."""
    return cast("State[Any]", await flow(*given, return_state=True))


def said(words: Sequence[str]) -> str:
    """Return words as a list in a sentence."""
    return listed(words) if words else "nothing"


def _write_letters(shop: Shop) -> None:
    folder = shop.stage.home / "templates" / "ru"
    folder.mkdir(parents=True)
    for name, text in _LETTERS.items():
        (folder / name).write_text(text, encoding="utf-8")
