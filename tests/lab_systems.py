"""An experiment of the faults laboratory with the connectors of real systems: a gateway, a shop, a CRM and a carrier.

The seed draws which gateway and which CRM, and whether 1C issues the invoices. Customers place orders in WooCommerce
and pay, mostly by money that is held first; operators capture and release it, people move cards in the CRM, the shop
gives money back, couriers take parcels. Callbacks are lost, come twice, or come late; every system goes wrong as often
as the experiment says. Once all is at rest, what the systems recorded is compared with what each order is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import yaml
from lab import DEADLY, UP_S, Bench, drawn_plan
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.errors import OutsideError
from deployments.processes import HOST
from deployments.sandbox import onec_odata, planfix
from deployments.sandbox.bitrix24 import Bitrix24StandIn
from deployments.sandbox.cdek import CdekStandIn
from deployments.sandbox.onec_odata import OneCODataStandIn
from deployments.sandbox.planfix import PlanfixStandIn
from deployments.sandbox.standin import Misbehavior, Plan, Seen, StandIn
from deployments.sandbox.wayforpay import WayForPayStandIn
from deployments.sandbox.woocommerce import Item, WooCommerceStandIn
from deployments.sandbox.yookassa import YooKassaStandIn
from domain.holds import Decision
from domain.rules import parse_rules
from store import orders, payments, rules, stock
from store.audit import audit
from tasks.holds import HoldError, decide_hold
from tasks.intake import poll

Json = dict[str, Any]

FATES = (
    "sold",
    "captured",
    "captured in the CRM",
    "released",
    "cancelled in the shop",
    "refunded",
    "captured, then refunded",
    "made ready in the CRM",
    "delivered",
)
_HELD = frozenset(FATES) - {"sold", "refunded", "delivered"}
_LET_GO = frozenset({"released", "cancelled in the shop"})
_BACK = frozenset({"refunded", "captured, then refunded"})
_POLLED = ("woocommerce", "till", "crm")
_TIMEOUT_S = 5.0
"""Of a request. A stand-in carries nothing out whose sender has given up, so a slow machine only makes more of them."""
_PATIENCE_S = 40.0
"""How long somebody waits for what must come first, before doing nothing or doing it once all is at rest."""
_SECRET = "laboratory-secret-0001"

_RULES = """
channel: woo
title: Чайный двор
currency: RUB
language: ru
seller: {name: Чайный двор, street: Лесная 26, city: Москва, postcode: "127055", country: RU, email: a@example.com}
statuses:
  held: {means: on_hold, labels: {ru: деньги удержаны, en: the money is held}}
references: {order_number: "W[0-9]{4,6}", priority: [provider_reference, order_number]}
holds:
  status: held
  capture: operator
  capture_on: [processing]
  release_on: [cancelled]
  released_status: cancelled
money_back: {refund: {status: cancelled}}
placed: {}
scenarios:
  card:
    status: processing
    invoice: {action: issue, kind: invoice}
    messages: [{template: order_held, moment: held}, {template: payment_received, moment: paid}]
    stock: deduct
    dispatch: {start: true, waits_for: [payment, stock], note: true}
series: {proforma: "S{year}{number:05}", invoice: "F{year}{number:05}", credit_note: "K{year}{number:05}"}
connectors: {carrier: cdek, shop: woocommerce, crm: crm}
tells:
  woocommerce:
    held: on-hold
    processing: processing
    ready: assembled
    dispatched: assembled
    completed: completed
    cancelled: cancelled
follows:
  woocommerce: {processing: processing, completed: completed, cancelled: cancelled}
  cdek: {RECEIVED_AT_SHIPMENT_WAREHOUSE: dispatched, DELIVERED: completed}
"""


class Chaos:
    """What goes wrong with a system: drawn from the experiment's seed, and counted."""

    def __init__(
        self,
        random_: random.Random,
        faults: Counter[str],
        *,
        now: Callable[[], datetime],
        workers: Callable[[], set[int]],
    ) -> None:
        """Bring a system's time, and who of the senders of its requests may be killed."""
        self.share = 0.0
        self.deadly = 0.0
        self.now = now
        self._random, self._faults, self._workers = random_, faults, workers

    def plan(self) -> Plan | None:
        """Draw whether a request goes wrong, and how.

        Most of these systems refuse for good by a failure in the body, which a person is then asked about. It is drawn
        seldom: an order about which somebody is asked may lack what others must have.
        """
        seldom = () if self._random.random() < 0.1 else (Misbehavior.FAILURE,)
        return drawn_plan(self.share, self._random, self._faults, without=seldom)

    def kill(self, said: str, request: Request) -> None:
        """Kill the worker that sent a request."""
        pid = int(request.headers.get("X-Worker", "0"))
        if pid in self._workers():
            self._faults[said] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return a system that carries out no request whose sender has given up, and has some senders killed."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            body = [await receive()]
            request = Request(scope, receive)
            draw = self._random.random()
            if draw < self.deadly:
                self.kill("killed as its request arrived, before it was carried out", request)
            # A moment, so that the sender's hanging up is read, too, that came while this process stood still.
            await asyncio.sleep(0.01)
            if await request.is_disconnected():
                await JSONResponse({})(scope, receive, send)
                return
            answer: list[Message] = []

            async def given() -> Message:
                return body.pop() if body else await receive()

            async def keep(message: Message) -> None:
                answer.append(message)

            await app(scope, given, keep)
            if draw > 1 - self.deadly:
                self.kill("killed after its request was carried out, before the answer", request)
            for message in answer:
                await send(message)

        return guarded


class Unruly(StandIn):
    """A stand-in that goes wrong as often as it is told to; mixed into each system's own."""

    chaos: Chaos

    def next_plan(self, seen: Seen) -> Plan | None:  # noqa: ARG002 - any request goes wrong alike
        """Draw whether a request goes wrong, and how."""
        return self.chaos.plan()

    async def __aenter__(self) -> Any:
        """Begin to answer."""
        self._app = self.chaos.around(self._app)
        return await super().__aenter__()


class Shop(Unruly, WooCommerceStandIn):
    """WooCommerce."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        super().__init__(currency="RUB", zone="Europe/Moscow", statuses=("assembled",))

    def _now(self) -> datetime:
        return self.chaos.now().replace(microsecond=0)


class Carrier(Unruly, CdekStandIn):
    """CDEK."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        super().__init__(looks=1, clock=chaos.now)


class Books(Unruly, OneCODataStandIn):
    """1C, which knows no idempotency keys either, with the goods and a customer for all."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        super().__init__()
        self.goods("Сенча, 100 г", sku="TEA")
        self._service = self.goods("Услуга")
        self._anybody = self.customer("Розничный покупатель")

    def settings(self) -> Json:
        """Return its part of kvit.yaml."""
        return {
            "type": "onec_odata",
            "base_url": self.base_url,
            "username": self.username,
            "password": self.password,
            "invoice": {
                "entity": onec_odata.SALE,
                "number_field": onec_odata.NUMBER,
                "fields": {"Организация_Key": onec_odata.ORGANIZATION, "СуммаВключаетНДС": True},
                "vat_rate_field": "СтавкаНДС",
                "vat_sum_field": "СуммаНДС",
            },
            "vat_rates": {"22": "НДС22"},
            "customers": {"by": "name", "field": "Description", "otherwise": self._anybody},
            "goods": {"otherwise": self._service},
            "limits": {"per_second": 1000},
        }

    def sales(self, number: str) -> list[tuple[bool, Decimal]]:
        """Return of each invoice of an order whether it is posted, and its sum."""
        return [(one["Posted"], one["СуммаДокумента"]) for one in self.of_order(number, onec_odata.SALE)]


class Till:
    """A gateway, as its customers and the shop's people use it there."""

    @property
    @abstractmethod
    def system(self) -> StandIn:
        """The stand-in."""

    @abstractmethod
    def settings(self) -> Json:
        """Return its part of kvit.yaml."""

    @abstractmethod
    def take(self, number: str, amount: Decimal, *, hold: bool) -> Json:
        """Let a customer pay an order, or let the money be held; return the callback."""

    @abstractmethod
    def refund(self, number: str) -> Json:
        """Give an order's payment back at the gateway itself; return the callback."""

    @abstractmethod
    def news(self) -> list[Json]:
        """Return the callbacks about what requests have brought about since the last time."""

    @abstractmethod
    async def deliver(self, callback: Json, url: str) -> bool:
        """Post a callback once; say whether it was accepted."""

    @abstractmethod
    def names(self, number: str) -> set[str]:
        """Return what the gateway calls an order's payment."""

    @abstractmethod
    def moved(self, number: str) -> list[tuple[str, Decimal]]:
        """Return what was done with an order's money, in order: hold, pay, capture, release or refund."""


class _WayForPay(Unruly, WayForPayStandIn):
    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        super().__init__()

    def _now(self, now: datetime | None = None) -> datetime:
        return now or self.chaos.now()


class WayForPayTill(Till):
    """WayForPay, which knows no idempotency keys."""

    _SAID: Mapping[str, str] = {"settle": "capture", "void": "release"}

    def __init__(self, chaos: Chaos) -> None:
        self._gateway = _WayForPay(chaos)
        self._told = 0

    @property
    def system(self) -> StandIn:
        """The stand-in."""
        return self._gateway

    def settings(self) -> Json:
        """Return its part of kvit.yaml."""
        account, key = self._gateway.account, self._gateway.key
        return {
            "type": "wayforpay",
            "base_url": self._gateway.url,
            "merchant_account": account,
            "secret_key": key,
            "holds": True,
        }

    def take(self, number: str, amount: Decimal, *, hold: bool) -> Json:
        """Let a customer pay an order, or let the money be held; return the callback."""
        return self._gateway.pay(self._name(number), f"{amount}", "RUB", hold=hold)

    def refund(self, number: str) -> Json:
        """Give an order's payment back at the gateway itself; return the callback."""
        return self._gateway.refund(self._name(number))

    def news(self) -> list[Json]:
        """Return the callbacks about what requests have brought about since the last time."""
        new, self._told = self._gateway.done[self._told :], len(self._gateway.done)
        return [self._gateway.callback(name) for what, name, _ in new if what in self._SAID]

    async def deliver(self, callback: Json, url: str) -> bool:
        """Post a callback once; say whether it was accepted."""
        return await self._gateway.deliver(callback, url, tries=1) == [200]

    def names(self, number: str) -> set[str]:
        """Return what the gateway calls an order's payment."""
        return {self._name(number)}

    def moved(self, number: str) -> list[tuple[str, Decimal]]:
        """Return what was done with an order's money, in order."""
        done = self._gateway.done
        return [(self._SAID.get(what, what), Decimal(sum_)) for what, name, sum_ in done if name == self._name(number)]

    def _name(self, number: str) -> str:
        return f"{number}_woo_w4p_1700000000"


class _YooKassa(Unruly, YooKassaStandIn):
    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        super().__init__()

    def now(self) -> datetime:
        """Return the time that the shop goes by."""
        return self.chaos.now()


class YooKassaTill(Till):
    """YooKassa, which knows a key again for a day, and registers fiscal receipts."""

    _SAID: Mapping[str, str] = {"cancel": "release"}

    def __init__(self, chaos: Chaos) -> None:
        self._gateway = _YooKassa(chaos)
        self._ids: dict[str, str] = {}
        self._by_hand: list[tuple[str, str, Decimal]] = []
        self._told = 0

    @property
    def system(self) -> StandIn:
        """The stand-in."""
        return self._gateway

    def settings(self) -> Json:
        """Return its part of kvit.yaml."""
        return {
            "type": "yookassa",
            "base_url": self._gateway.base_url,
            "shop_id": self._gateway.shop_id,
            "secret_key": self._gateway.secret_key,
            "webhook_networks": ["127.0.0.0/8"],
            "holds": True,
        }

    def take(self, number: str, amount: Decimal, *, hold: bool) -> Json:
        """Let a customer pay an order, or let the money be held; return the callback."""
        take = self._gateway.hold if hold else self._gateway.pay
        told = take(number, int(amount.scaleb(2)))
        self._ids[number] = told["object"]["id"]
        self._by_hand.append((number, "hold" if hold else "pay", amount))
        return told

    def refund(self, number: str) -> Json:
        """Give an order's payment back at the gateway itself; return the callback."""
        amount = Decimal(self._gateway.payments[self._ids[number]]["amount"]["value"])
        self._by_hand.append((number, "refund", amount))
        return self._gateway.refund(self._ids[number], int(amount.scaleb(2)))

    def news(self) -> list[Json]:
        """Return the callbacks about what requests have brought about since the last time."""
        new, self._told = self._gateway.notifications[self._told :], len(self._gateway.notifications)
        return new

    async def deliver(self, callback: Json, url: str) -> bool:
        """Post a callback once; say whether it was accepted."""
        return await self._gateway.deliver(callback, url, tries=1) == [200]

    def names(self, number: str) -> set[str]:
        """Return what the gateway calls an order's payment."""
        return {self._ids[number]} if number in self._ids else set()

    def moved(self, number: str) -> list[tuple[str, Decimal]]:
        """Return what was done with an order's money: by people, then by requests."""
        by_hand = [(what, amount) for of, what, amount in self._by_hand if of == number]
        effects, known = self._gateway.effects, self._ids.get(number)
        return by_hand + [(self._SAID.get(what, what), Decimal(sum_)) for what, id_, sum_ in effects if id_ == known]


class Board:
    """A CRM, as the shop's people use it there."""

    tells: Mapping[str, str]
    """Its statuses by ours."""
    follows: Mapping[str, str]
    """Our statuses by its."""
    path = ""
    """What stands after the address of its webhooks."""

    @property
    @abstractmethod
    def system(self) -> StandIn:
        """The stand-in."""

    @abstractmethod
    def settings(self) -> Json:
        """Return its part of kvit.yaml."""

    @abstractmethod
    def cards(self, number: str) -> list[int]:
        """Return the numbers of an order's cards, which should be one."""

    @abstractmethod
    def status(self, card: int) -> str:
        """Return a card's status, in the CRM's words."""

    @abstractmethod
    def sums(self, card: int) -> tuple[Decimal, Decimal]:
        """Return what a card says was paid, and what is missing."""

    @abstractmethod
    def incomes(self, card: int) -> list[str]:
        """Return what tells one income of a card from another, by place of record."""

    @abstractmethod
    def move(self, card: int, status: str) -> None:
        """Let a person move a card."""

    @abstractmethod
    def news(self) -> list[Json]:
        """Return the webhooks about what has changed since the last time."""

    @abstractmethod
    async def deliver(self, event: Json, url: str) -> int | None:
        """Post a webhook once."""

    @abstractmethod
    def card_of(self, external_id: str) -> int | None:
        """Return the card that a stored event is about."""


class _Planfix(Unruly, PlanfixStandIn):
    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        super().__init__()

    def _time(self) -> datetime:
        return self.chaos.now()


class PlanfixBoard(Board):
    """Planfix, where each income is a comment and an entry of a data tag."""

    tells: Mapping[str, str] = {
        "held": "101",
        "processing": "2",
        "ready": "102",
        "dispatched": "102",
        "completed": "3",
        "cancelled": "1",
    }
    follows: Mapping[str, str] = {"2": "processing", "102": "ready", "3": "completed"}
    path = f"/{_SECRET}"

    def __init__(self, chaos: Chaos) -> None:
        self._account = _Planfix(chaos)
        self._told = 0
        self._by_people: list[Json] = []

    @property
    def system(self) -> StandIn:
        """The stand-in."""
        return self._account

    def settings(self) -> Json:
        """Return its part of kvit.yaml."""
        return {
            "type": "planfix",
            "base_url": self._account.base_url,
            "token": self._account.token,
            "webhook_token": _SECRET,
            "template_id": planfix.TEMPLATE,
            "number_field": planfix.NUMBER,
            "make_cards": True,
            "to_pay_field": planfix.TO_PAY,
            "paid_field": planfix.PAID,
            "difference_field": planfix.DIFFERENCE,
            "income_tag": planfix.INCOME,
            "income_reference_field": planfix.REFERENCE,
            "income_amount_field": planfix.AMOUNT,
            "income_date_field": planfix.DATE,
            "income_payment_field": planfix.PAYMENT,
            "time_zone": "Europe/Kyiv",
            "limits": {"concurrent": 8, "per_second": 1000},
        }

    def cards(self, number: str) -> list[int]:
        """Return the numbers of an order's cards, which should be one."""
        return [id_ for id_, task in self._account.tasks.items() if task["values"].get(planfix.NUMBER) == number]

    def status(self, card: int) -> str:
        """Return a card's status, in the CRM's words."""
        return str(self._account.tasks[card]["status"])

    def sums(self, card: int) -> tuple[Decimal, Decimal]:
        """Return what a card says was paid, and what is missing."""
        values = self._account.tasks[card]["values"]
        return Decimal(values.get(planfix.PAID, 0)), Decimal(values.get(planfix.DIFFERENCE, 0))

    def incomes(self, card: int) -> list[str]:
        """Return what tells one income of a card from another, by place of record."""
        entries = [one for one in self._account.entries.values() if one["task"] == card]
        comments = [one for one in self._account.comments.values() if one["task"] == card]
        return [f"entry {one['values'][planfix.REFERENCE]}" for one in entries] + [
            f"comment {one['description']}" for one in comments
        ]

    def move(self, card: int, status: str) -> None:
        """Let a person move a card."""
        self._by_people.append(self._account.set_status(card, int(status)))

    def news(self) -> list[Json]:
        """Return the webhooks about what has changed since the last time."""
        new, self._told = self._account.done[self._told :], len(self._account.done)
        by_people, self._by_people = self._by_people, []
        changed = [task for what, task in new if what == "change"]
        return by_people + [{"task": str(task), "changed": f"{self._told}"} for task in changed]

    async def deliver(self, event: Json, url: str) -> int | None:
        """Post a webhook once."""
        return await self._account.deliver(event, url)

    def card_of(self, external_id: str) -> int | None:
        """Return the card that a stored event is about."""
        return int(external_id.split(":")[1])


class _Bitrix24(Unruly, Bitrix24StandIn):
    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        super().__init__(custom={"UF_CRM_PAID": "double", "UF_CRM_DIFF": "double"}, burst=1_000_000)

    def _now(self) -> str:
        return self.chaos.now().astimezone(UTC).isoformat(timespec="seconds")


class Bitrix24Board(Board):
    """Bitrix24, where each income is a comment in the timeline of a deal."""

    tells: Mapping[str, str] = {
        "held": "PREPARATION",
        "processing": "EXECUTING",
        "ready": "FINAL_INVOICE",
        "dispatched": "FINAL_INVOICE",
        "completed": "WON",
        "cancelled": "LOSE",
    }
    follows: Mapping[str, str] = {"EXECUTING": "processing", "FINAL_INVOICE": "ready", "WON": "completed"}

    def __init__(self, chaos: Chaos) -> None:
        self._portal = _Bitrix24(chaos)
        self._told = 0

    @property
    def system(self) -> StandIn:
        """The stand-in."""
        return self._portal

    def settings(self) -> Json:
        """Return its part of kvit.yaml."""
        return {
            "type": "bitrix24",
            "base_url": self._portal.url,
            "user": self._portal.user,
            "token": self._portal.token,
            "application_token": self._portal.application_token,
            "paid_field": "UF_CRM_PAID",
            "difference_field": "UF_CRM_DIFF",
            "limits": {"concurrent": 8, "per_second": 1000},
        }

    def cards(self, number: str) -> list[int]:
        """Return the numbers of an order's cards, which should be one."""
        return [id_ for id_, item in self._portal.kinds[2].items.items() if item["originId"] == number]

    def status(self, card: int) -> str:
        """Return a card's status, in the CRM's words."""
        return self._portal.kinds[2].items[card]["stageId"]

    def sums(self, card: int) -> tuple[Decimal, Decimal]:
        """Return what a card says was paid, and what is missing."""
        item = self._portal.kinds[2].items[card]
        return Decimal(str(item["UF_CRM_PAID"] or 0)), Decimal(str(item["UF_CRM_DIFF"] or 0))

    def incomes(self, card: int) -> list[str]:
        """Return what tells one income of a card from another, by place of record."""
        return [f"comment {text}" for text in self._portal.texts(card)]

    def move(self, card: int, status: str) -> None:
        """Let a person move a card."""
        self._portal.move(card, status)

    def news(self) -> list[Json]:
        """Return the webhooks about what has changed since the last time."""
        new, self._told = self._portal.events[self._told :], len(self._portal.events)
        return new

    async def deliver(self, event: Json, url: str) -> int | None:
        """Post a webhook once."""
        return await self._portal.deliver(event, url)

    def card_of(self, external_id: str) -> int | None:
        """Return the card that a stored event is about."""
        known = [part for part in external_id.split(":") if part.isdecimal()]
        return int(known[0]) if known else None


class SystemsBench(Bench):
    """An experiment with the connectors of real systems under way."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)

        def chaos() -> Chaos:
            return Chaos(self.random, self.result.faults, now=self.now, workers=self._pids)

        self._all_chaos = [chaos() for _ in range(5)]
        of_shop, of_till, of_crm, of_carrier, of_books = self._all_chaos
        self.shop = Shop(of_shop)
        self.till: Till = self.random.choice([WayForPayTill, YooKassaTill])(of_till)
        self.crm: Board = self.random.choice([PlanfixBoard, Bitrix24Board])(of_crm)
        self.carrier = Carrier(of_carrier)
        self.books = Books(of_books) if self.random.random() < 0.5 else None
        self.shop_ids: dict[str, int] = {}
        self.undecided: dict[str, Decision] = {}
        """What operators still want to do with held money, by order."""

    def _pids(self) -> set[int]:
        return {process.pid for process in self.workers.values()}

    @property
    def tag(self) -> str:
        """What names this experiment in what it finds."""
        systems = [type(self.till).__name__.removesuffix("Till"), type(self.crm).__name__.removesuffix("Board")]
        return f"{super().tag[:-1]}, {', '.join([*systems, '1C'] if self.books else systems)})"

    @property
    def outside(self) -> Sequence[StandIn]:
        """The systems of the outside world."""
        books = [self.books] if self.books else []
        return *super().outside, self.shop, self.till.system, self.crm.system, self.carrier, *books

    def stir(self) -> None:
        """Let the outside world go wrong as often as the experiment says."""
        super().stir()
        for chaos in self._all_chaos:
            chaos.share = self.experiment.share
            chaos.deadly = DEADLY if self.experiment.share else 0.0

    def calm(self) -> None:
        """Let the outside world do what it is asked for."""
        super().calm()
        for chaos in self._all_chaos:
            chaos.share = chaos.deadly = 0.0

    def _url(self, name: str, path: str = "") -> str:
        return f"http://{HOST}:{self.web_port}/webhooks/{name}{path}"

    def _configure(self) -> None:
        limits = {"timeout": _TIMEOUT_S, "concurrent": 8}
        woocommerce: Json = {
            "type": "woocommerce",
            "base_url": self.shop.base_url,
            "consumer_key": self.shop.consumer_key,
            "consumer_secret": self.shop.consumer_secret,
            "webhook_secret": _SECRET,
            "channel": "woo",
            "language": "ru",
            "methods": {"card": "card"},
            "discount_lines": False,
        }
        cdek: Json = {
            "type": "cdek",
            "base_url": self.carrier.base_url,
            "client_id": self.carrier.client_id,
            "client_secret": self.carrier.client_secret,
            "webhook_token": _SECRET,
            "tariff": 139,
            "sender_phone": "+74950000001",
            "poll_every": 0.05,
        }
        stanzas = {"woocommerce": woocommerce, "till": self.till.settings(), "crm": self.crm.settings(), "cdek": cdek}
        if self.books:
            stanzas["books"] = self.books.settings()
        connectors = [
            {"name": name, **stanza, "limits": {**limits, **stanza.get("limits", {})}}
            for name, stanza in stanzas.items()
        ]
        (self.home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": connectors}))

    async def _open_shop(self) -> None:
        document = yaml.safe_load(_RULES)
        document["tells"]["crm"] = dict(self.crm.tells)
        document["follows"]["crm"] = dict(self.crm.follows)
        if self.books:
            document["connectors"]["accounting"] = "books"
        document["holds"]["receipt"] = isinstance(self.till, YooKassaTill)
        parsed = parse_rules(document, where="laboratory").model_dump(mode="json", exclude_unset=True)
        now = self.now()
        async with self.opened.store.write() as connection:
            await rules.save(connection, parsed, channel="woo", author="laboratory", reason="opening", now=now)
            await stock.count(connection, "TEA", "Сенча, 100 г", 100_000, now=now)
        for topic in ("order.created", "order.updated", "order.deleted", "order.restored"):
            await self.shop.subscribe(topic, self._url("woocommerce"), _SECRET)
        self.carrier.subscriptions["ORDER_STATUS"] = self._url("cdek", f"/{_SECRET}")

    # What people and systems do

    async def _break(self) -> None:
        gossip = asyncio.create_task(self._gossip())
        customers = asyncio.create_task(self._customers())
        deadline = time.monotonic() + self.experiment.seconds
        done = False
        try:
            while not (customers.done() and self._is_enough(done=done, deadline=deadline)):
                if customers.done():
                    await customers
                    if done:
                        customers = asyncio.create_task(self._customers())
                came = customers.done()
                done = await self.pass_time() and came
                await asyncio.sleep(0.15)
            await customers
        finally:
            customers.cancel()
            gossip.cancel()
            await asyncio.gather(gossip, customers, return_exceptions=True)

    async def _customers(self) -> None:
        numbers = self._more_numbers("W", 1001, self.experiment.orders)
        await asyncio.gather(*(self._customer(number) for number in numbers))

    async def _customer(self, number: str) -> None:
        """Let an order be placed and paid, and let happen to it what its fate is."""
        fate = self.fates[number] = self.random.choice(FATES)
        early = self.random.random() < 0.3
        await asyncio.sleep(self.random.uniform(0, 2))
        self._place(number)
        self.expected[number] = 1
        if not early:
            await self._until(lambda: self._known(number))
        hold = fate in _HELD
        await self._call_back(self.till.take(number, self._total(number), hold=hold))
        if fate in ("captured", "captured, then refunded"):
            self.undecided[number] = Decision.CAPTURE
        elif fate == "released":
            self.undecided[number] = Decision.RELEASE
        if number in self.undecided:
            await self._until(lambda: self._decide(number))
        elif hold and await self._until(lambda: self._is(number, "held")):
            if fate == "cancelled in the shop":
                self.shop.set_status(self.shop_ids[number], "cancelled")
            else:
                await self._until(lambda: self._moved(number, "processing"))
        if fate == "made ready in the CRM" and await self._until(lambda: self._is(number, "processing")):
            await self._until(lambda: self._moved(number, "ready"))
        elif fate in _BACK and await self._until(lambda: self._is_taken(number)):
            await asyncio.sleep(self.random.uniform(0, 2))
            await self._call_back(self.till.refund(number))
        elif fate == "delivered" and await self._until(lambda: self._parcel(number)):
            await self._courier(number)

    def _place(self, number: str) -> None:
        person = {"first_name": "Анна", "last_name": "Смирнова", "address_1": "ул. Садовая, д. 5", "city": "Тула"}
        person |= {"postcode": "300000", "country": "RU"}
        self.shop_ids[number] = self.shop.place(
            Item(sku="TEA", name="Сенча, 100 г", quantity=self.random.randint(1, 4), price="650.00", rate="22"),
            payment_method="card",
            status="pending",
            number=number,
            delivery="350.00",
            delivery_rate="22",
            billing={**person, "email": f"{number.lower()}@customer.example.com", "phone": "+79000000471"},
            shipping=person,
        )

    def _total(self, number: str) -> Decimal:
        return self.shop.orders[self.shop_ids[number]]["total"]

    async def _call_back(self, callback: Json) -> None:
        """Let the gateway call back: once, more than once, late, or never."""
        way = self.random.choice(["once", "twice", "three at once", "late", "lost"])
        if way != "once":
            self.result.faults[f"callback: {way}"] += 1
        if way == "lost":
            return
        if way == "late":
            await asyncio.sleep(self.random.uniform(1, 4))
        if way == "three at once":
            await asyncio.gather(*(self._post(callback) for _ in range(3)))
        for _ in range(2 if way == "twice" else 1):
            await self._post(callback)

    async def _post(self, callback: Json) -> None:
        """Post a callback as the gateway does: again until it is accepted."""
        deadline = time.monotonic() + UP_S
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if await self.till.deliver(callback, self._url("till")):
                    return
            self._keep_running()
            await asyncio.sleep(0.2)
        raise AssertionError("a callback was never taken")

    async def _until(self, seen: Callable[[], Awaitable[bool]]) -> bool:
        """Wait until something is so, and say whether it was in time."""
        give_up = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up and self.breaking:
            if await seen():
                return True
            await asyncio.sleep(0.3)
        return False

    async def _known(self, number: str) -> bool:
        return bool(await self._sql("SELECT id FROM orders WHERE number = :number", number=number))

    async def _is(self, number: str, status: str) -> bool:
        return [status] == [row.status for row in await self._status_of(number)]

    async def _status_of(self, number: str) -> list[Any]:
        return await self._sql("SELECT status FROM orders WHERE number = :number", number=number)

    async def _is_taken(self, number: str) -> bool:
        return any(what in ("pay", "capture") for what, _ in self.till.moved(number))

    async def _moved(self, number: str, status: str) -> bool:
        """Move an order's card to what its CRM calls a status of ours, once there is one."""
        cards = self.crm.cards(number)
        if not cards:
            return False
        self.crm.move(cards[0], next(theirs for theirs, ours in self.crm.follows.items() if ours == status))
        return True

    async def _parcel(self, number: str) -> bool:
        return bool(await self._tracking(number))

    async def _tracking(self, number: str) -> list[str]:
        rows = await self._sql(
            "SELECT s.tracking_number FROM shipments s JOIN orders o ON o.id = s.order_id WHERE o.number = :number",
            number=number,
        )
        return [row.tracking_number for row in rows]

    async def _courier(self, number: str) -> None:
        """Bring a parcel to its customer. CDEK calls again until it is answered: its statuses are not polled."""
        (tracking,) = await self._tracking(number)
        events = [self.carrier.move(tracking, what) for what in ("RECEIVED_AT_SHIPMENT_WAREHOUSE", "DELIVERED")]
        if self.random.random() < 0.5:
            self.result.faults["webhook: out of order"] += 1
            events.reverse()
        for event in events:
            deadline = time.monotonic() + UP_S
            while await self.carrier.deliver(event) != 200 and time.monotonic() < deadline:
                self._keep_running()
                await asyncio.sleep(0.2)

    async def _decide(self, number: str) -> bool:
        """Decide about an order's held money as an operator does, once there is some."""
        try:
            await decide_hold(
                self.opened, number, self.undecided[number], channel="woo", author="laboratory", because="by its plan"
            )
        except (HoldError, SQLAlchemyError, OSError):
            return False
        del self.undecided[number]
        return True

    async def _gossip(self) -> None:
        """Let shop, CRM and gateway tell of all that changed, with losses; and poll them now and then."""
        while True:
            await asyncio.sleep(0.5)
            told: list[Coroutine[Any, Any, Any]] = [self._shop_tells()]
            told += [self.crm.deliver(event, self._url("crm", self.crm.path)) for event in self._some(self.crm.news())]
            told += [self._once(callback) for callback in self._some(self.till.news())]
            self.random.shuffle(told)
            await asyncio.gather(*told)
            if self.random.random() < 0.2:
                await self._poll()

    def _some(self, events: list[Json]) -> list[Json]:
        """Lose some events, and double others."""
        kept: list[Json] = []
        for event in events:
            times = self.random.choice([0, 1, 1, 1, 2])
            if times != 1:
                self.result.faults["webhook: twice" if times else "webhook: lost"] += 1
            kept += [event] * times
        return kept

    async def _once(self, callback: Json) -> None:
        with contextlib.suppress(httpx.HTTPError):
            await self.till.deliver(callback, self._url("till"))

    async def _shop_tells(self) -> None:
        for webhook in self.shop.webhooks.values():
            kept = [order for order in webhook.pending if self.random.random() > 0.2]
            self.result.faults["webhook: lost"] += len(webhook.pending) - len(kept)
            webhook.pending = kept
        await self.shop.deliver()

    async def _poll(self) -> int:
        """Poll every system that can be, and return how much was new; one that fails is polled another time."""
        found = 0
        for name in (*_POLLED, "books") if self.books else _POLLED:
            with contextlib.suppress(OutsideError, SQLAlchemyError, OSError):
                found += (await poll(self.opened, [name]))[name]
        return found

    async def let_rest(self) -> None:
        """Break nothing more; let everything run, and what was missed be polled, until nothing comes any more."""
        await super().let_rest()
        for number in self.shop_ids:
            acts = {what for what, _ in self.till.moved(number)}
            if "hold" in acts and not acts & {"capture", "release"}:
                let_go = self.fates[number] in _LET_GO
                self.undecided.setdefault(number, Decision.RELEASE if let_go else Decision.CAPTURE)
        for _ in range(20):
            decided = [await self._decide(number) for number in list(self.undecided)]
            if not await self._poll() and not any(decided):
                return
            await super().let_rest()
        self.result.unaccounted.append(f"{self.tag}: polling never came to an end")

    # What must be

    async def _count(self) -> None:
        """Compare what each system recorded with what each order is here."""
        result = self.result
        waits = await self._waiting()
        result.in_doubt_accounted += len(waits)
        result.effects += (await self._sql("SELECT count(*) FROM effects"))[0][0]
        sold = Counter(number for number, _ in await self._deducted())
        for number in self.shop_ids:
            seen = f"{self.tag}: {number}, {self.fates[number]}"
            twice = self._doubled(number)
            if sold[number] > 1:
                twice.append(f"goods deducted {sold[number]} times")
            result.doubled += [f"{seen}: {what}" for what in twice]
            if number not in waits:
                result.lost += [f"{seen}: {what}" for what in await self._missing(number, sold[number])]
        async with self.opened.store.read() as connection:
            findings = await audit(connection, now=self.now())
        result.unaccounted += [f"{self.tag}: {one.invariant}: {one.subject}: {one.said}" for one in findings]

    def _doubled(self, number: str) -> list[str]:
        """Return what was done for an order more than once, or with more money than there was."""
        said: list[str] = []
        moved = self.till.moved(number)
        acts = Counter(what for what, _ in moved)
        said += [f"{what} {times} times" for what, times in acts.items() if times > 1]
        if acts["capture"] and acts["release"]:
            said.append("money captured and released")
        amounts = dict(moved)
        if amounts.get("capture", Decimal(0)) > amounts.get("hold", Decimal(0)):
            said.append(f"{amounts['capture']} captured of {amounts['hold']}")
        if acts["refund"] and self.fates[number] not in _BACK:
            said.append("refunded by nobody")
        parcels = self._parcels(number)
        said += [f"{len(parcels)} consignments"] if len(parcels) > 1 else []
        cards = self.crm.cards(number)
        said += [f"{len(cards)} cards"] if len(cards) > 1 else []
        noted = Counter(income for card in cards for income in self.crm.incomes(card))
        said += [f"income noted {times} times" for times in noted.values() if times > 1]
        notes = [note for note in self.shop.notes[self.shop_ids[number]] if note["customer_note"]]
        said += [f"{len(notes)} notes to the customer"] if len(notes) > 1 else []
        sales = self.books.sales(number) if self.books else []
        said += [f"{len(sales)} invoices in 1C"] if len(sales) > 1 else []
        return said

    def _parcels(self, number: str) -> list[Any]:
        return [one for one in self.carrier.parcels if str(one.body["number"]).startswith(f"{number}-")]

    async def _missing(self, number: str, sold: int) -> list[str]:
        """Return what should have come of an order and did not."""
        async with self.opened.store.read() as connection:
            known = await orders.ids_of(connection, number, "woo")
            if not known:
                return ["it never came in"]
            order = (await orders.load(connection, [known[0][0]]))[known[0][0]]
            came = await payments.incomes(connection, order.id)
        fate, said = self.fates[number], list[str]()

        def want(what: str, found: object, wanted: object) -> None:
            if found != wanted:
                said.append(f"{what}: {found} instead of {wanted}")

        moved = Counter(what for what, _ in self.till.moved(number))
        let_go, back = fate in _LET_GO, moved["refund"] > 0
        paid = not let_go and not back
        if order.status not in (ends := self._ends(fate, back=back)):
            said.append(f"status: {order.status} instead of {' or '.join(sorted(ends))}")
        want("captured", moved["capture"], int(fate in _HELD and not let_go))
        want("released", moved["release"], int(let_go))
        received = sum((one["amount"].decimal for one in came), Decimal(0))
        want("received", received, self._total(number) if paid else Decimal(0))
        want("goods deducted", sold, int(not let_go) if not back else sold)
        live = [one for one in self._parcels(number) if one.live]
        want("live consignments", len(live), int(paid))
        want("status in the shop", self.shop.orders[self.shop_ids[number]]["status"], self._tells_shop(order.status))
        cards = self.crm.cards(number)
        want("cards", len(cards), 1)
        for card in cards:
            if (told := self.crm.tells.get(order.status)) is not None:
                want("status in the CRM", self.crm.status(card), told)
            want("sums in the CRM", self.crm.sums(card), (received, self._total(number) - received))
            want("incomes in the CRM", len(self.crm.incomes(card)) // self._places(), len(came))
        rows = await self._sql(
            "SELECT e.step FROM effects e JOIN orders o ON o.id = e.order_id WHERE o.number = :number"
            " AND e.state = 'done'",
            number=number,
        )
        if paid:
            if self.books:
                want("invoices in 1C", self.books.sales(number), [(True, self._total(number))])
            steps = {"status", "invoice", "message", "stock", "dispatch", "shop", "shop note", "crm"}
            want("steps not done", sorted(steps - {row.step for row in rows}), [])
        return said

    def _places(self) -> int:
        """Return in how many places the CRM keeps an income."""
        return 2 if isinstance(self.crm, PlanfixBoard) else 1

    def _tells_shop(self, status: str) -> str:
        return yaml.safe_load(_RULES)["tells"]["woocommerce"].get(status, "pending")

    def _ends(self, fate: str, *, back: bool) -> set[str]:
        """Return the statuses in which an order of a fate may end. A person's move may be too late to be seen.

        An order whose money was gone again before it was looked at stays what it was.
        """
        if fate in _LET_GO or back:
            return {"cancelled", "new", "held"} if back else {"cancelled"}
        return {"processing"} | {
            "made ready in the CRM": {"ready"},
            "delivered": {"completed"},
        }.get(fate, set())

    async def _waiting(self) -> set[str]:
        """Return the orders about which a person is asked: a step's, or an event's that could not be used."""
        steps = await self._sql(
            "SELECT DISTINCT o.number FROM effects e JOIN orders o ON o.id = e.order_id"
            " WHERE e.state IN ('in_doubt', 'rejected')"
        )
        parked = await self._sql(
            "SELECT source, external_id, body FROM inbox WHERE due_at IS NULL AND handled_at IS NULL"
        )
        numbers = {id_: number for number, id_ in self.shop_ids.items()}
        cards = {card: number for number in self.shop_ids for card in self.crm.cards(number)}
        found = {row.number for row in steps}
        for row in parked:
            if row.source == "woocommerce":
                found.add(numbers.get(json.loads(bytes(row.body))["id"], "?"))
            elif row.source == "crm":
                found.add(cards.get(self.crm.card_of(row.external_id) or 0, "?"))
            else:
                body = bytes(row.body).decode(errors="replace")
                found |= {one for one in self.shop_ids if any(name in body for name in self.till.names(one))}
        return found
