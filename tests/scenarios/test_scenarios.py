"""The scenarios of the documents, step by step: what each does, in which order, by which rule, and only once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prefect import State, flow
from pypdf import PdfReader
from shop_builders import (
    EMAIL,
    SHOPKEEPER,
    Clock,
    buy,
    cancel,
    carry_on,
    change_rules,
    done_outside,
    letters,
    order_of,
    pay,
    payment_of,
    payment_row,
    shop,
    steps_of,
    take_payments,
)
from sqlalchemy import select, update

from connectors.roles import IssuedDocument
from domain.documents import Document
from domain.orders import Order, Status
from domain.payments import Method
from domain.rules import DocumentKind, moments_of
from domain.scenarios import STEPS, TELLING, TIMED, in_order
from flows.scenarios import SCENARIOS
from store import documents, effects, journal, orders, rules, stock
from store.audit import audit
from store.tables import EffectRow, OrderLineRow, WorkRow
from tasks.close import close
from tasks.dispatch import start_dispatch
from tasks.installation import Installation
from tasks.intake import take_statement
from tasks.invoice import issue_invoice, issue_proforma
from tasks.match import match_payments
from tasks.status import set_status
from tasks.step import Batch, Entry, Item, Step
from tasks.stock import deduct_stock, reserve_stock


@pytest.fixture
async def opened(opened: Installation) -> AsyncGenerator[Installation]:
    """Open an installation, and audit it when the test has ended: whatever happened, it must agree with itself."""
    yield opened
    async with opened.store.read() as connection:
        assert await audit(connection, now=opened.clock()) == []


METHODS = ("card", "bank_transfer", "cash_on_delivery")
MESSAGES = {
    "placed": "proforma",
    "paid": "payment_received",
    "status": "status_changed",
    "incomplete": "payment_incomplete",
    "dispatch": "dispatch_prepared",
}
EVERYTHING: dict[str, Any] = {
    "placed": {method: {"reserve_stock": True, "proforma": True, "status": "awaiting_payment"} for method in METHODS},
    "scenarios": {
        method: {
            "change_status": True,
            "status": status,
            "invoice": {"action": "issue", "kind": "invoice"},
            "messages": [
                {"template": template, "moment": moment}
                for moment, template in MESSAGES.items()
                if moment in moments_of(Method(method))
            ],
            "stock": "deduct",
            "dispatch": {"start": True, "waits_for": waits_for},
        }
        for method, status, waits_for in (
            ("card", "paid", ["payment", "invoice", "stock"]),
            ("bank_transfer", "processing", ["payment", "invoice", "stock"]),
            ("cash_on_delivery", "completed", ["stock"]),
        )
    },
}
"""Rules that leave out nothing that a scenario can do."""


# The documents.


@dataclass(frozen=True)
class Told:
    """A scenario as its document tells it, and what the rules can add to it."""

    method: str
    document: str
    besides: str = ""
    needs: dict[str, str] = field(default_factory=dict[str, str])
    """By step: the steps that must have ended before it begins."""

    @property
    def steps(self) -> list[str]:
        """The steps of the document, in its order."""
        return self.document.split(" → ")

    @property
    def added(self) -> set[str]:
        """The steps that the rules add."""
        return set(filter(None, self.besides.split(", ")))


TOLD = {
    # "Match → at once paid → invoice → message → stock → start of dispatch."
    "card": Told(
        "card",
        "match → status → invoice → message → stock → dispatch",
        besides="message dispatch",
        needs={
            "status": "match",
            "invoice": "status",
            "stock": "status",
            "message": "invoice",
            "dispatch": "stock, invoice",
            "message dispatch": "dispatch",
        },
    ),
    # "Match → message → invoice → by the rules into the next status / dispatch."
    "bank_transfer": Told(
        "bank_transfer",
        "match → message → invoice → status → dispatch",
        besides="message status, stock, message dispatch",
        needs={
            "message": "match",
            "invoice": "match",
            "status": "invoice",
            "message status": "status",
            "stock": "status",
            "dispatch": "stock",
            "message dispatch": "dispatch",
        },
    ),
    # "Payment only after delivery", so the goods leave unpaid …
    "dispatch_unpaid": Told(
        "cash_on_delivery",
        "placed status → stock → dispatch",
        besides="message dispatch",
        needs={"stock": "placed status", "dispatch": "stock", "message dispatch": "dispatch"},
    ),
    # … "→ message → invoice", when the carrier has remitted what it collected.
    "cash_on_delivery": Told(
        "cash_on_delivery",
        "match → message → invoice",
        besides="status, message status",
        needs={"message": "match", "invoice": "match", "status": "invoice", "message status": "status"},
    ),
    # "At order creation the customer gets the invoice by e-mail by itself; stock is reserved."
    "order_placed": Told(
        "bank_transfer",
        "reservation → proforma → message placed",
        besides="placed status",
        needs={"proforma": "reservation", "message placed": "proforma", "placed status": "proforma"},
    ),
}
"""Every scenario; a new one needs one row here."""


ELSEWHERE = {
    *(
        "money_back",
        "revert",
        "authorization",
        "capture",
        "release",
        "status_changed",
        "deferred",
        "balance_release",
        "by_hand",
    ),
    *TIMED,
}
"""What takes back, holds, waits or tells, instead of carrying on; the tests named for these tell how."""


def of_document(scenario: str) -> list[str]:
    """Return a scenario's steps without those that tell other systems; this shop has none."""
    return [step for step in STEPS[scenario] if step not in TELLING]


def test_every_scenario_is_in_the_table() -> None:
    assert set(TOLD) == set(SCENARIOS) - ELSEWHERE == set(STEPS) - ELSEWHERE


@pytest.mark.parametrize("scenario", TOLD)
def test_a_scenario_has_the_steps_of_its_document_in_the_documents_order(scenario: str) -> None:
    told = TOLD[scenario]
    assert [step for step in of_document(scenario) if step not in told.added] == told.steps
    assert len(of_document(scenario)) == len(told.steps) + len(told.added)


async def history_of(opened: Installation, order_id: int, cause: str) -> list[tuple[str, str]]:
    """Return what one cause did to an order, as (step, move) in the journal's order."""
    async with opened.store.read() as connection:
        rows = await journal.of_order(connection, order_id)
    return [(row["step"], row["move"]) for row in rows if row["cause"] == cause]


@pytest.mark.parametrize("scenario", TOLD)
async def test_an_order_goes_through_exactly_the_steps_of_its_document(opened: Installation, scenario: str) -> None:
    told = TOLD[scenario]
    await change_rules(opened, EVERYTHING)
    order_id = await buy(opened, method=told.method)
    cause, subject = f"order:{order_id}", order_id
    if SCENARIOS[scenario][1] == "payments":
        subject = await pay(opened, method=told.method)
        cause = f"payment:{subject}"
    state = await carry_on(scenario, subject)
    assert (state.type.value, state.name) == ("COMPLETED", "Done")
    history = await history_of(opened, order_id, cause)
    done = [step for step, move in history if move in ("done", "exact")]
    assert len(done) == len(set(done))  # each effect once
    assert in_order(scenario, done) == of_document(scenario)
    for step, needed in told.needs.items():
        began = history.index((step, "intended"))
        for need in needed.split(", "):
            assert history.index((need, "exact" if need == "match" else "done")) < began, f"{step} before {need}"
    # A step of a scenario is journaled by its two moves and by nothing else.
    assert sorted(history) == sorted(
        [(step, move) for step in done if step != "match" for move in ("intended", "done")]
        + [("match", "exact")] * ("match" in done)
    )


async def park(opened: Installation, step: str, order_id: int, cause: str) -> None:
    """Let a step of an order be parked for a person before it could begin."""
    async with opened.store.write() as connection:
        where: dict[str, Any] = {"actor": SHOPKEEPER, "now": opened.clock()}
        wanted = [effects.Wanted(order_id, cause, None)]
        (claim,) = await effects.claim(connection, step, wanted, owner="test", lease_until=opened.clock(), **where)
        rows = await effects.lock(connection, [claim.effect_id])
        parked = effects.EffectState.REJECTED
        ending = effects.Ending(effect_id=claim.effect_id, state=parked, reason="parked", before={}, after={})
        await effects.end(connection, step, [ending], rows, **where)


def after(told: Told, step: str) -> set[str]:
    """Return the steps that need a step, or need one that does."""
    found = {later for later, needs in told.needs.items() if step in needs.split(", ")}
    return found.union(*(after(told, later) for later in found))


@pytest.mark.parametrize("scenario", TOLD)
async def test_a_step_that_is_parked_holds_up_what_needs_it_and_nothing_else(
    opened: Installation, scenario: str
) -> None:
    told = TOLD[scenario]
    await change_rules(opened, EVERYTHING)
    steps = [step for step in of_document(scenario) if step != "match"]
    causes: dict[str, tuple[int, str]] = {}
    subjects: list[int] = []
    for place, step in enumerate(steps):
        order_id = await buy(opened, f"CZ{5001 + place}", told.method)
        subject, cause = order_id, f"order:{order_id}"
        if SCENARIOS[scenario][1] == "payments":
            subject = await pay(opened, f"CZ{5001 + place}", method=told.method)
            cause = f"payment:{subject}"
        await park(opened, step, order_id, cause)
        subjects.append(subject)
        causes[step] = order_id, cause
    state = await carry_on(scenario, *subjects)
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    for step, (order_id, cause) in causes.items():
        ends = {name: effect["state"] for name, effect in (await steps_of(opened, order_id, cause)).items()}
        assert ends.pop(step) == "rejected"
        assert set(ends) == set(steps) - {step} - after(told, step), f"{step} is parked"
        assert set(ends.values()) <= {"done", "skipped"}


# The channel's rules: in one batch, a rule for each customer.


MAIL = [{"template": "payment_received", "moment": "paid"}]
RULES_OF: dict[str, dict[str, Any]] = {
    "status by hand": {"change_status": False},
    "own status": {"status": "k_expedici"},
    "no document": {"invoice": {"action": "ignore"}},
    "proforma": {"invoice": {"action": "issue", "kind": "proforma"}},
    "no message": {"messages": []},
    "another message": {"messages": [{"template": "status_changed", "moment": "paid"}]},
    "stock elsewhere": {"stock": "ignore", "dispatch": {"waits_for": ["payment"]}},
    "dispatch by hand": {"dispatch": {"start": False}},
    "waits for the invoice": {"invoice": {"action": "ignore"}, "dispatch": {"waits_for": ["invoice"]}},
    "waits for stock": {"stock": "ignore", "dispatch": {"waits_for": ["payment", "stock"]}},
    "in a group, with a wish": {"invoice": {"action": "ignore"}},
}
"""What differs for a customer in the scenario card of the Czech shop; a customer is called by what his rule says."""


@dataclass(frozen=True)
class Ended:
    """An order after the batch."""

    order: Order
    steps: dict[str, dict[str, Any]]
    documents: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    shipment: dict[str, Any] | None
    journal: list[dict[str, Any]]

    def said(self, step: str) -> tuple[str, str | None]:
        """Return how a step ended and why."""
        return self.steps[step]["state"], self.steps[step]["reason"]


async def _all_at_once(home: Path) -> dict[str, Ended]:
    """Carry on every customer's order in one run, with those of two other channels."""
    async with shop(home) as opened:
        await change_rules(
            opened,
            {
                "scenarios": {"card": {"messages": MAIL}},
                "groups": {"loyal": {"scenarios": {"card": {"status": "processing", "messages": []}}}},
                "customers": {name: {"scenarios": {"card": rule}} for name, rule in RULES_OF.items()},
            },
        )
        names = ["the channel's rules", "in a group", *RULES_OF]
        ids: dict[str, int] = {}
        paid: list[int] = []
        for place, name in enumerate(names):
            group = "loyal" if name.startswith("in a group") else None
            address = {"name": name, "street": "Lipová 26", "city": "Brno", "country": "CZ"}
            customer = {"number": name, "name": name, "email": EMAIL, "group": group, "address": address}
            ids[name] = await buy(opened, f"CZ{5001 + place}", customer=customer)
            paid.append(await pay(opened, f"CZ{5001 + place}"))
        for name, number, currency in (("ro", "RO2001", "RON"), ("market", "M-3001", "EUR")):
            line = {"sku": "TEA-SEN-100", "title": "Sencha", "quantity": 1, "unit_price": "10.00"}
            ids[name] = await buy(
                opened, number, channel=name, currency=currency, total="10.00", lines=[line], variable_symbol=None
            )
            paid.append(await pay(opened, number, "10.00", currency=currency))
        state = await carry_on("card", *paid)
        assert (state.name, state.message) == ("Done", f"{len(paid)} exact")
        return {name: await _ended(opened, order_id) for name, order_id in ids.items()}


async def _ended(opened: Installation, order_id: int) -> Ended:
    async with opened.store.read() as connection:
        return Ended(
            order=(await orders.load(connection, [order_id]))[order_id],
            steps=await steps_of(opened, order_id),
            documents=await documents.of_order(connection, order_id),
            messages=await documents.messages(connection, order_id),
            shipment=await orders.live_shipment(connection, order_id),
            journal=await journal.of_order(connection, order_id),
        )


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, stocked: Path) -> dict[str, Ended]:
    """Return every customer's order after one run over all of them, by the customer's name."""
    home = tmp_path_factory.mktemp("rules") / "shop"
    shutil.copytree(stocked, home)
    return asyncio.run(_all_at_once(home))


def done_but(ended: Ended, *others: str) -> bool:
    """Say whether every step of an order was done but those named, which were skipped."""
    states = {step: effect["state"] for step, effect in ended.steps.items()}
    return states == {step: "skipped" if step in others else "done" for step in of_document("card")[1:]}


def test_the_channels_rules_hold_for_who_has_no_others(batch: dict[str, Ended]) -> None:
    ended = batch["the channel's rules"]
    assert done_but(ended, "message dispatch")
    assert (ended.order.status, ended.documents[0]["kind"]) == ("paid", "invoice")
    assert [message["template"] for message in ended.messages] == ["payment_received"]
    assert ended.shipment is not None


def test_the_status_can_be_left_to_a_person(batch: dict[str, Ended]) -> None:
    ended = batch["status by hand"]
    assert ended.order.status == "new"
    assert ended.said("status") == ("skipped", "the rules of cz leave the status to a person")
    assert done_but(ended, "status", "message dispatch")


def test_the_status_can_be_one_of_the_channels_own(batch: dict[str, Ended]) -> None:
    order = batch["own status"].order
    assert (order.status, order.standard_status) == ("k_expedici", Status.READY)


def test_a_document_can_be_left_to_another_system(batch: dict[str, Ended]) -> None:
    ended = batch["no document"]
    assert ended.documents == []
    assert ended.said("invoice") == ("skipped", "the rules of cz issue no document in this scenario")
    assert done_but(ended, "invoice", "message dispatch")


def test_the_document_can_be_a_proforma(batch: dict[str, Ended]) -> None:
    (document,) = batch["proforma"].documents
    assert (document["kind"], document["number"]) == ("proforma", "ZF202600001")


def test_messages_are_those_that_the_rules_name(batch: dict[str, Ended]) -> None:
    assert batch["no message"].messages == []
    assert [message["template"] for message in batch["another message"].messages] == ["status_changed"]


def test_stock_can_be_left_to_another_system(batch: dict[str, Ended]) -> None:
    ended = batch["stock elsewhere"]
    assert ended.said("stock") == ("skipped", "the rules of cz leave stock to another system")
    assert done_but(ended, "stock", "message dispatch")


def test_dispatch_can_be_left_to_a_person(batch: dict[str, Ended]) -> None:
    ended = batch["dispatch by hand"]
    assert ended.shipment is None
    assert ended.said("dispatch") == ("skipped", "the rules of cz leave dispatch to a person")


def test_dispatch_waits_for_what_the_rules_say(batch: dict[str, Ended]) -> None:
    assert batch["waits for the invoice"].said("dispatch") == ("skipped", "dispatch waits for the invoice")
    waits = ("skipped", "dispatch waits for the goods to be deducted from stock")
    assert batch["waits for stock"].said("dispatch") == waits
    assert batch["waits for the invoice"].shipment is None
    assert batch["waits for stock"].shipment is None


def test_a_groups_rules_come_before_the_channels(batch: dict[str, Ended]) -> None:
    ended = batch["in a group"]
    assert (ended.order.status, ended.messages) == ("processing", [])
    assert [document["kind"] for document in ended.documents] == ["invoice"]


def test_a_customers_rules_come_before_the_groups(batch: dict[str, Ended]) -> None:
    ended = batch["in a group, with a wish"]
    assert (ended.order.status, ended.messages, ended.documents) == ("processing", [], [])


def test_each_channel_of_a_batch_has_its_own_rules(batch: dict[str, Ended]) -> None:
    ro, market = batch["ro"], batch["market"]
    assert (ro.order.status, market.order.status) == ("de_expediat", "u_marketplace")
    assert [ended.documents[0]["number"] for ended in (ro, market)] == ["LTF202600001", "MF202600001"]
    assert {message["language"] for message in ro.messages} == {"ro"}
    assert {message["language"] for message in market.messages} == {"en"}
    assert (ro.steps["stock"]["state"], market.steps["stock"]["state"]) == ("done", "skipped")
    assert (ro.shipment is not None, market.shipment) == (True, None)


def test_the_version_of_the_rules_is_on_each_row_of_the_journal(batch: dict[str, Ended]) -> None:
    for name, ended in batch.items():
        version = 1 if name in ("ro", "market") else 2
        assert len(ended.journal) == 1 + 2 * len(of_document("card")[1:])
        assert {row["rule_version"] for row in ended.journal} == {version}, name


def caused(order_id: int, cause: str, number: str = "CZ5001") -> Batch:
    return Batch((Item(order_id, number, cause),))


async def act(opened: Installation, made: Step, batch: Batch) -> tuple[str, str | None, str | None]:
    """Carry out a step for one order without a run; return how it ended: state, reference and reason."""
    (attempt,) = await made.carry_out(opened, batch, owner="clerk")
    return str(attempt.state), attempt.receipt.reference if attempt.receipt else None, attempt.reason


@pytest.mark.parametrize(
    ("action", "ends"),
    [
        ("issue", ("skipped", None, "invoice FV202600001 was issued before")),
        ("update", ("done", "FV202600002", None)),
        ("ignore", ("skipped", None, "the rules of cz issue no document in this scenario")),
    ],
)
async def test_what_the_invoice_step_does_when_the_order_has_changed_since(
    opened: Installation, action: str, ends: tuple[str, str | None, str | None]
) -> None:
    order_id = await buy(opened)
    assert (await act(opened, issue_invoice, caused(order_id, "payment:1")))[1] == "FV202600001"
    await change_rules(opened, {"scenarios": {"card": {"invoice": {"action": action}}}})
    async with opened.store.write() as connection:
        await connection.execute(update(OrderLineRow).values(title="Sencha Kagošima"))
    assert await act(opened, issue_invoice, caused(order_id, "payment:2")) == ends
    async with opened.store.read() as connection:
        live = await documents.live(connection, order_id, DocumentKind.INVOICE)
        issued = [(row["kind"], row["number"]) for row in await documents.of_order(connection, order_id)]
    assert live is not None
    if action == "update":
        assert live["number"] == "FV202600002"
        assert issued == [("invoice", "FV202600001"), ("credit_note", "OD202600001"), ("invoice", "FV202600002")]
    else:
        assert issued == [("invoice", "FV202600001")]


async def test_an_update_of_what_did_not_change_issues_nothing(opened: Installation) -> None:
    await change_rules(opened, {"scenarios": {"card": {"invoice": {"action": "update"}}}})
    order_id = await buy(opened)
    await act(opened, issue_invoice, caused(order_id, "payment:1"))
    again = await act(opened, issue_invoice, caused(order_id, "payment:2"))
    assert again == ("skipped", None, "invoice FV202600001 was issued before")


async def test_dispatch_waits_for_the_payment(opened: Installation) -> None:
    order_id = await buy(opened)
    ends = await act(opened, start_dispatch, caused(order_id, "payment:1"))
    assert ends == ("skipped", None, "dispatch waits for payment: 378.00 CZK is missing")
    assert (await done_outside(opened))["labels"] == 0


@dataclass
class Books:
    """An outside accounting system: it numbers what it is asked to issue, once per key."""

    issued: dict[str, Document] = field(default_factory=dict[str, Document])

    async def issue(self, document: Document, key: str) -> IssuedDocument:
        self.issued.setdefault(key, document)
        return IssuedDocument(number=f"A-{[*self.issued].index(key) + 1}")

    async def find(self, document: Document, key: str) -> IssuedDocument | None:
        return await self.issue(document, key) if key in self.issued else None


async def test_an_outside_accounting_system_is_asked_for_a_document_once(opened: Installation) -> None:
    books = Books()
    opened.connectors["books"] = books
    await change_rules(
        opened,
        {
            "connectors": {"accounting": "books"},
            "scenarios": {"bank_transfer": {"invoice": {"action": "issue", "kind": "proforma"}}},
        },
    )
    order_id = await buy(opened, method="bank_transfer")
    assert await act(opened, issue_proforma, caused(order_id, f"order:{order_id}")) == ("done", "A-1", None)
    # The rules of the payment's scenario want a proforma too, and there is one.
    ends = await act(opened, issue_invoice, caused(order_id, "payment:1"))
    assert ends == ("skipped", None, "proforma A-1 was issued before")
    assert len(books.issued) == 1


# Cash on delivery.


def words_on(label: Path) -> str:
    """Return what a label says, without spaces."""
    return "".join("".join(page.extract_text() for page in PdfReader(label).pages).split())


async def shipment_of(opened: Installation, order_id: int) -> dict[str, Any]:
    async with opened.store.read() as connection:
        found = await orders.live_shipment(connection, order_id)
    assert found is not None
    return found


async def test_an_order_leaves_unpaid_with_the_amount_to_collect_on_its_label(opened: Installation) -> None:
    order_id = await buy(opened, method="cash_on_delivery")
    state = await carry_on("dispatch_unpaid", order_id)
    assert state.name == "Done"
    shipment = await shipment_of(opened, order_id)
    assert (shipment["collect_minor"], shipment["currency"]) == (37800, "CZK")
    said = words_on(opened.home / shipment["label"])
    assert "CASHONDELIVERY" in said
    assert "378.00" in said
    (letter,) = letters(opened)
    assert "378" in letter.as_string()
    assert await done_outside(opened) == {"documents": 0, "letters": 1, "labels": 1, "deductions": 1}


async def test_delivered_is_not_paid(opened: Installation) -> None:
    order_id = await buy(opened, method="cash_on_delivery")
    await carry_on("dispatch_unpaid", order_id)
    before = await done_outside(opened)
    async with opened.store.write() as connection:
        await orders.set_status(
            connection,
            order_id,
            after="delivered",
            standard=Status.DELIVERED,
            reason="the carrier says so",
            actor=SHOPKEEPER,
            now=opened.clock(),
        )
    state = await carry_on("dispatch_unpaid", order_id)
    order = await order_of(opened, order_id)
    assert (state.name, order.status, order.settled.minor) == ("Done", "delivered", 0)
    assert await done_outside(opened) == before


async def test_a_remittance_pays_by_tracking_number_and_by_order_number(opened: Installation) -> None:
    await change_rules(opened, EVERYTHING)
    ids = [await buy(opened, number, "cash_on_delivery") for number in ("CZ5001", "CZ5002", "CZ5003")]
    await carry_on("dispatch_unpaid", *ids)
    tracking = (await shipment_of(opened, ids[0]))["tracking_number"]
    file = (
        "remittance_id,tracking_number,order_number,collected,currency,delivered_on,paid_on\n"
        f"R-1,{tracking},,378.00,CZK,2026-11-20,2026-11-23\n"
        "R-1,,CZ5002,378.00,CZK,2026-11-20,2026-11-23\n"
        "R-1,,CZ5003,300.00,CZK,2026-11-20,2026-11-23\n"
    )
    imported = await take_statement(opened, file.encode(), "remittance.csv")
    state = await carry_on("cash_on_delivery", *imported.ids)
    assert (state.name, state.message) == ("Done", "2 exact, 1 short")
    found = [await order_of(opened, order_id) for order_id in ids]
    assert [order.status for order in found] == ["completed", "completed", "awaiting_payment"]
    assert [order.to_pay.minor for order in found] == [0, 0, 7800]
    assert await done_outside(opened) == {"documents": 2, "letters": 8, "labels": 3, "deductions": 3}


async def test_a_short_remittance_leaves_the_order_open(opened: Installation) -> None:
    await change_rules(opened, EVERYTHING)
    order_id = await buy(opened, method="cash_on_delivery")
    payment = await pay(opened, amount="300.00", method="cash_on_delivery")
    state = await carry_on("cash_on_delivery", payment)
    assert state.name == "Waits for the rest"
    assert {s: e["state"] for s, e in (await steps_of(opened, order_id)).items()} == {"message incomplete": "done"}
    assert (await order_of(opened, order_id)).status == "new"


# Payments.


CARRIED_ON = {"documents": 1, "letters": 2, "labels": 1, "deductions": 1}
"""What the Czech shop does for an order that is paid by card."""


async def due(opened: Installation) -> set[tuple[str, int]]:
    """Return what is due now: scenarios and the payments or orders that they are to carry on."""
    async with opened.store.read() as connection:
        rows = await connection.execute(
            select(WorkRow.scenario, WorkRow.subject_id).where(WorkRow.due_at <= opened.clock())
        )
    return {(row.scenario, row.subject_id) for row in rows.all()}


async def test_a_short_payment_waits_and_the_rest_completes_the_order(opened: Installation) -> None:
    order_id = await buy(opened)
    state = await carry_on("card", await pay(opened, amount="100.00"))
    assert (state.name, state.message) == ("Waits for the rest", "1 short")
    assert await done_outside(opened) == {"documents": 0, "letters": 1, "labels": 0, "deductions": 0}
    body = letters(opened)[0].get_body(("plain",))
    assert body is not None
    assert "278,00" in body.get_content()
    assert (await order_of(opened, order_id)).status == "new"
    state = await carry_on("card", await pay(opened, amount="278.00"))
    assert (state.name, state.message) == ("Done", "1 exact")
    assert await done_outside(opened) == CARRIED_ON | {"letters": 3}
    assert (await order_of(opened, order_id)).status == "paid"


async def test_parts_in_one_batch_carry_the_order_on_once_and_nobody_is_told_of_a_missing_part(
    opened: Installation,
) -> None:
    order_id = await buy(opened)
    parts = [await pay(opened, amount=amount) for amount in ("100.00", "200.00", "78.00")]
    state = await carry_on("card", *parts)
    assert (state.name, state.message) == ("Done", "2 short, 1 exact")
    assert await done_outside(opened) == CARRIED_ON
    told = (await steps_of(opened, order_id, f"payment:{parts[0]}"))["message incomplete"]
    assert (told["state"], told["reason"]) == ("skipped", "the rest has come meanwhile")


async def test_too_much_is_taken_and_the_surplus_is_kept_apart(opened: Installation) -> None:
    order_id = await buy(opened)
    payment = await pay(opened, amount="400.00")
    state = await carry_on("card", payment)
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert state.message == "over: 22.00 CZK is too much; decide where it goes"
    row = await payment_row(opened, payment)
    assert (row["outcome"], row["surplus_minor"]) == ("over", 2200)
    assert (await order_of(opened, order_id)).to_pay.minor == 0
    assert await done_outside(opened) == CARRIED_ON


async def test_a_duplicate_does_nothing_again_and_waits_for_a_person(opened: Installation) -> None:
    order_id = await buy(opened)
    await carry_on("card", await pay(opened))
    second = await pay(opened)
    state = await carry_on("card", second)
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    named = "CZ5001 is named by the order number CZ5001 and the payer's name with the exact amount"
    assert state.message == f"duplicate: {named}, but is already paid"
    assert await done_outside(opened) == CARRIED_ON
    assert await steps_of(opened, order_id, f"payment:{second}") == {}
    assert (await order_of(opened, order_id)).settled.minor == 37800


async def test_two_payments_of_the_whole_amount_in_one_batch_carry_the_order_on_once(opened: Installation) -> None:
    await buy(opened)
    state = await carry_on("card", await pay(opened), await pay(opened))
    assert (state.name, state.message) == ("Needs a person", "1 exact, 1 duplicate; 1 need a person")
    assert await done_outside(opened) == CARRIED_ON


async def test_a_payment_for_a_cancelled_order_is_parked(opened: Installation) -> None:
    order_id = await buy(opened, status="cancelled")
    payment = await pay(opened)
    state = await carry_on("card", payment)
    assert state.name == "Needs a person"
    assert (await payment_row(opened, payment))["outcome"] == "late"
    order = await order_of(opened, order_id)
    assert (order.status, order.settled.minor) == ("cancelled", 0)
    assert sum((await done_outside(opened)).values()) == 0


@pytest.mark.parametrize(("method", "parked"), [("card", {"status"}), ("bank_transfer", {"message", "invoice"})])
async def test_an_order_that_was_cancelled_after_its_payment_was_matched_is_carried_no_further(
    opened: Installation, method: str, parked: set[str]
) -> None:
    order_id = await buy(opened, method=method)
    payment = await pay(opened, method=method)

    @flow(name="match only")
    async def match_only() -> None:
        await match_payments([payment])

    await match_only()
    await cancel(opened, order_id)
    state = await carry_on(method, payment)
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert (state.message or "").endswith("the order is cancelled; decide by hand what to do with its money")
    steps = await steps_of(opened, order_id)
    assert {step for step, row in steps.items() if row["state"] == "rejected"} == set(steps) == parked
    assert sum((await done_outside(opened)).values()) == 0


async def test_one_payment_carries_on_the_three_orders_that_it_names(opened: Installation) -> None:
    ids = [await buy(opened, number) for number in ("CZ5001", "CZ5002", "CZ5003")]
    payment = await pay(opened, None, "1134.00", text="Objednávky CZ5001, CZ5002 a CZ5003")
    state = await carry_on("card", payment)
    assert (state.name, state.message) == ("Done", "1 exact")
    assert [(await order_of(opened, order_id)).status for order_id in ids] == ["paid"] * 3
    assert await done_outside(opened) == {"documents": 3, "letters": 6, "labels": 3, "deductions": 3}


async def test_a_payment_that_comes_before_its_order_is_carried_on_when_the_order_comes(opened: Installation) -> None:
    payment = await pay(opened)
    state = await carry_on("card", payment)
    assert state.name == "Needs a person"
    assert (await payment_row(opened, payment))["outcome"] == "unknown"
    assert await due(opened) == set()
    order_id = await buy(opened)
    assert await due(opened) == {("order_placed", order_id), ("card", payment)}
    state = await carry_on("card", payment)
    assert (state.name, state.message) == ("Done", "1 exact")
    assert await done_outside(opened) == CARRIED_ON


async def test_a_payment_that_is_taken_in_twice_is_one_payment(opened: Installation) -> None:
    await buy(opened)
    incoming = payment_of("CZ5001")
    (payment,) = await take_payments(opened, incoming)
    await carry_on("card", payment)
    assert await take_payments(opened, incoming, replace(incoming, text="told otherwise")) == []
    assert ("card", payment) not in await due(opened)
    assert await done_outside(opened) == CARRIED_ON


async def test_the_same_run_started_three_times_at_once_and_once_more_doubles_nothing(opened: Installation) -> None:
    await change_rules(opened, EVERYTHING)
    order_id = await buy(opened)
    payment = await pay(opened)
    await asyncio.gather(*(carry_on("card", payment) for _ in range(3)))
    state = await carry_on("card", payment)
    assert (state.name, state.message) == ("Done", "1 exact")
    assert await done_outside(opened) == CARRIED_ON
    assert (await order_of(opened, order_id)).settled.minor == 37800
    history = await history_of(opened, order_id, f"payment:{payment}")
    assert len(history) == len(set(history))  # each move once, match included


async def test_a_run_that_ends_before_every_step_has_begun_is_due_again(opened: Installation, clock: Clock) -> None:
    """Of two runs at once, each can find a step held by the other; what comes after both then begins in neither."""
    await buy(opened)
    payment = await pay(opened)

    @flow(name="card payment", flow_run_name="card · cut short")
    async def cut_short() -> State[Any]:
        await set_status((await match_payments([payment])).paid)
        return await close("card", payments=[payment])

    ended: Any = cut_short(return_state=True)
    state = await ended
    assert state.name == "Will go on"
    clock.forward(minutes=5)
    assert ("card", payment) in await due(opened)
    assert (await carry_on("card", payment)).name == "Done"
    assert ("card", payment) not in await due(opened)
    assert await done_outside(opened) == CARRIED_ON


# Faults in steps.


async def test_an_order_without_stock_is_parked_and_the_rest_of_its_batch_goes_on(opened: Installation) -> None:
    grinder = {"sku": "GRD-HND-01", "title": "Mlýnek", "quantity": 2, "unit_price": "189.00"}
    numbers = ["CZ5001", "CZ5002", "CZ5003", "CZ5004"]
    ids = {number: await buy(opened, number, lines=[grinder]) for number in numbers[:3]}
    ids["CZ5004"] = await buy(opened, "CZ5004")
    state = await carry_on("card", *[await pay(opened, number) for number in numbers])
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert state.message == "4 exact; 1 need a person"
    ends = {number: (await steps_of(opened, order_id))["stock"] for number, order_id in ids.items()}
    (parked,) = [number for number, stock_ in ends.items() if stock_["state"] == "rejected"]
    assert ends[parked]["reason"] == "article GRD-HND-01: 2 needed, 1 free"
    assert parked != "CZ5004"
    assert (await done_outside(opened))["labels"] == 3
    assert "dispatch" not in await steps_of(opened, ids[parked])
    # Its customer was told that the money came; that the goods are on their way he was not.
    async with opened.store.read() as connection:
        told = [message["template"] for message in await documents.messages(connection, ids[parked])]
        left = {level.sku: level.on_hand for level in await stock.levels(connection)}
    assert (told, left["GRD-HND-01"]) == (["payment_received"], 1)


async def test_a_single_order_that_is_parked_says_why_in_its_runs_state(opened: Installation) -> None:
    unheard = {"sku": "TEA-NEW-100", "title": "Nový čaj", "quantity": 2, "unit_price": "189.00"}
    await buy(opened, lines=[unheard])
    state = await carry_on("card", await pay(opened))
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert state.message == (
        "CZ5001 · stock: article TEA-NEW-100 is not in stock's list; add it with `kvit stock import`"
    )


async def test_a_carrier_that_cant_be_used_is_tried_again_and_the_rest_is_not_done_twice(
    opened: Installation, clock: Clock
) -> None:
    order_id = await buy(opened)
    payment = await pay(opened)
    in_the_way = opened.home / "labels"
    in_the_way.write_text("a file where the folder should be", encoding="utf-8")
    state = await carry_on("card", payment)
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert "CZ5001 · dispatch: misconfigured: labels: the folder labels in KVIT_HOME can't be written to" in (
        state.message or ""
    )
    assert (await steps_of(opened, order_id))["dispatch"]["state"] == "intended"
    assert ("card", payment) not in await due(opened)
    clock.forward(minutes=2)
    assert ("card", payment) in await due(opened)
    in_the_way.unlink()
    assert (await carry_on("card", payment)).name == "Done"
    assert await done_outside(opened) == CARRIED_ON


async def test_a_connector_that_is_not_configured_is_named_and_stops_its_step_alone(opened: Installation) -> None:
    await change_rules(opened, {"connectors": {"carrier": "dove"}})
    order_id = await buy(opened)
    state = await carry_on("card", await pay(opened))
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert "CZ5001 · dispatch: misconfigured: connector “dove” is not configured; kvit.yaml has" in (
        state.message or ""
    )
    ends = {step: effect["state"] for step, effect in (await steps_of(opened, order_id)).items()}
    assert ends.pop("dispatch") == "intended"
    assert set(ends.values()) == {"done"}


# Taken back.


async def entry_of(opened: Installation, made: Step, order_id: int) -> Entry:
    """Return what a step did to an order, as whoever takes it back gets it."""
    async with opened.store.read() as connection:
        row = (
            await connection.execute(
                select(*EffectRow.__table__.columns).where(EffectRow.order_id == order_id, EffectRow.step == made.name)
            )
        ).one()
        in_force = (await rules.current(connection))["cz"].rules
        (order,) = (await orders.load(connection, [order_id])).values()
    return Entry(
        effect_id=row.id,
        order_id=order_id,
        number=order.number,
        reference=row.reference,
        before=row.before,
        after=row.after,
        rules=in_force,
    )


async def take_back(opened: Installation, made: Step, order_id: int) -> tuple[str, str | None]:
    """Take back what a step did to an order; return the state and the reference of that."""
    attempt = await made.take_back(opened, await entry_of(opened, made, order_id), owner="clerk")
    return str(attempt.state), attempt.receipt.reference if attempt.receipt else None


async def levels_of(opened: Installation) -> list[stock.Level]:
    async with opened.store.read() as connection:
        return await stock.levels(connection)


async def test_all_that_a_payment_did_is_taken_back_and_only_once(opened: Installation) -> None:
    before = await levels_of(opened)
    ids = [await buy(opened, number) for number in ("CZ5001", "CZ5002")]
    await carry_on("card", *[await pay(opened, number) for number in ("CZ5001", "CZ5002")])
    labels = [(await shipment_of(opened, order_id))["tracking_number"] for order_id in ids]
    invoices = {order_id: (await steps_of(opened, order_id))["invoice"]["reference"] for order_id in ids}
    for _ in range(2):
        for place, order_id in enumerate(ids):
            once = [await take_back(opened, made, order_id) for made in (start_dispatch, deduct_stock, issue_invoice)]
            assert {state for state, _ in once} == {"done"}
            await take_back(opened, set_status, order_id)
            order = await order_of(opened, order_id)
            assert (order.status, order.standard_status) == ("new", Status.NEW)
            async with opened.store.read() as connection:
                issued = await documents.of_order(connection, order_id)
                assert await orders.live_shipment(connection, order_id) is None
            assert [(row["kind"], row["number"], row["live"]) for row in issued] == [
                ("invoice", invoices[order_id], False),
                ("credit_note", f"OD20260000{place + 1}", False),
            ]
    assert await levels_of(opened) == before
    folder = opened.home / "labels"
    assert sorted(file.name for file in folder.iterdir()) == sorted(f"{number}.cancelled.pdf" for number in labels)


async def test_a_credit_note_takes_back_the_invoices_whole_amount(opened: Installation) -> None:
    order_id = await buy(opened)
    await act(opened, issue_invoice, caused(order_id, "payment:1"))
    await take_back(opened, issue_invoice, order_id)
    async with opened.store.read() as connection:
        totals = [row["total_minor"] for row in await documents.of_order(connection, order_id)]
    assert totals == [37800, -37800]


async def test_a_status_that_somebody_changed_since_is_left_as_it_is(opened: Installation) -> None:
    order_id = await buy(opened)
    await act(opened, set_status, caused(order_id, "payment:1"))
    async with opened.store.write() as connection:
        await orders.set_status(
            connection,
            order_id,
            after="ready",
            standard=Status.READY,
            reason="by hand",
            actor=SHOPKEEPER,
            now=opened.clock(),
        )
    assert (await take_back(opened, set_status, order_id))[0] == "skipped"
    assert (await order_of(opened, order_id)).status == "ready"


async def test_what_was_reserved_is_free_again_and_what_was_deducted_comes_back_once(opened: Installation) -> None:
    before = await levels_of(opened)
    await change_rules(opened, EVERYTHING)
    order_id = await buy(opened, method="bank_transfer")
    await act(opened, reserve_stock, caused(order_id, f"order:{order_id}"))
    await act(opened, deduct_stock, caused(order_id, "payment:1"))
    taken = {level.sku: (level.on_hand, level.reserved) for level in await levels_of(opened)}
    assert taken["TEA-SEN-100"] == (118, 0)
    assert await take_back(opened, deduct_stock, order_id) == ("done", "2 × TEA-SEN-100")
    await take_back(opened, reserve_stock, order_id)
    assert await levels_of(opened) == before


async def test_a_proforma_is_ended_without_a_credit_note(opened: Installation) -> None:
    order_id = await buy(opened, method="bank_transfer")
    await act(opened, issue_proforma, caused(order_id, f"order:{order_id}"))
    assert await take_back(opened, issue_proforma, order_id) == ("done", "ZF202600001")
    async with opened.store.read() as connection:
        issued = [(row["kind"], row["live"]) for row in await documents.of_order(connection, order_id)]
    assert issued == [("proforma", False)]
