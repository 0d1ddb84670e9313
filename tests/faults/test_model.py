"""What must hold, whatever happens in whatever order: the product against a model of a few lines.

Hypothesis places orders, pays them exactly, short, over, twice and before they exist, refunds, charges back, cancels,
reverts and matches again, and all the while lets workers die or stand still at every place of a step, and the outside
world refuse, lose requests and lose answers. The outside world never notices a repeat. After each of these:

- nothing was done outside twice with one key, and no step has gone back to a state that it had left;
- every payment is what the model says it is, and has settled what the model says: no more than it brought, no more
  than its order asked for, less what went back; the payment state that follows from it is the model's.

And once everything has come to rest, with the outside world in order again:

- nothing is left half done, but for what nobody can look up, which waits for a person, and what waits for that;
- what was done outside is known here: each invoice, label and message belongs to a step that is done, or in doubt;
- an order that was paid, and of which nothing was refused, taken back or changed by hand, has had everything done
  that its rules have for it, once: its status, an invoice, a label, goods out of stock, each letter;
- an order whose money went back has lost what its rules take back, and one that was reverted is as before its payment;
- no order has two labels or two invoices in force, stock is what was counted less what is out, and the audit, which
  looks at everything else and at the chain of the journal, finds nothing.

An ordinary run tries the same few sequences every time. `KVIT_MODEL_EXAMPLES=2000` tries so many new ones.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from guards import IN_CODE, switch_off
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model import OPEN_PLACES, PLACES, TROUBLES, Shop, Stops, leave_prefect_out, put_stops
from shop_builders import EMAIL, NAME, PHONE, SHOPKEEPER, buy, change_rules, payment_of, shop, stock_up, take_payments

from domain.money import Money
from domain.orders import Move, PaymentState, Status, payment_state, transition
from domain.payments import IncomingPayment, Kind, Method, Outcome
from domain.scenarios import STEPS, TELLING, scenario_of
from store import audit, orders, stock, work
from tasks.called_off import CALL
from tasks.installation import Installation
from tasks.revert import RevertError, begin

# The shop.

PLENTY, SCARCE = "TEA-SEN-100", "TEA-ASS-100"
STOCK = {PLENTY: 60, SCARCE: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An order that may be placed; what becomes of it when it is paid stands in the rules of its channel."""

    number: str
    channel: str
    method: Method
    lines: dict[str, int]
    price: int
    """Of each packet, in minor units; all amounts are tens of crowns or lei, so that no tolerance is met."""
    waits_as: str = "new"
    paid_as: str
    letters: dict[str, int]
    label: bool = True
    invoice: bool = True

    @property
    def currency(self) -> str:
        return {"cz": "CZK", "ro": "RON"}[self.channel]

    @property
    def total(self) -> int:
        return sum(self.lines.values()) * self.price

    @property
    def goes_unpaid(self) -> bool:
        return self.method is Method.CASH_ON_DELIVERY


_SENT, _THANKS = {"dispatch_prepared": 1}, {"payment_received": 1}
OFFERS = [
    Offer(
        number="CZ5001",
        channel="cz",
        method=Method.CARD,
        lines={PLENTY: 2},
        price=19_000,
        paid_as="paid",
        letters=_SENT | _THANKS,
    ),
    Offer(
        number="CZ5002",
        channel="cz",
        method=Method.BANK_TRANSFER,
        lines={PLENTY: 1, SCARCE: 1},
        price=20_000,
        waits_as="awaiting_payment",
        paid_as="k_expedici",
        letters=_SENT | _THANKS,
    ),
    Offer(
        number="CZ5003",
        channel="cz",
        method=Method.CASH_ON_DELIVERY,
        lines={PLENTY: 3},
        price=10_000,
        waits_as="processing",
        paid_as="completed",
        letters=_SENT | _THANKS | {"invoice_issued": 1},
    ),
    Offer(
        number="CZ5004",
        channel="cz",
        method=Method.CARD,
        lines={SCARCE: 2, PLENTY: 1},
        price=10_000,
        paid_as="paid",
        letters=_SENT | _THANKS,
    ),
    Offer(
        number="RO5005",
        channel="ro",
        method=Method.CARD,
        lines={PLENTY: 1},
        price=4_000,
        paid_as="de_expediat",
        letters=_SENT | _THANKS,
    ),
    Offer(
        number="RO5006",
        channel="ro",
        method=Method.BANK_TRANSFER,
        lines={PLENTY: 2},
        price=4_000,
        waits_as="awaiting_payment",
        paid_as="processing",
        letters=_THANKS,
        label=False,
        invoice=False,
    ),
]
_CONNECTED: dict[str, dict[str, Any]] = {
    "cz": {"connectors": {"carrier": "courier", "messenger": "post"}},
    "ro": {
        "connectors": {"accounting": "books", "carrier": "courier", "messenger": "pigeons"},
        # The books are another system's, so an invoice is credited there, by a person.
        "money_back": {"refund": {"credit_note": False, "status": "cancelled"}},
    },
}


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of an installation with rules and stock, to be copied."""
    home = tmp_path_factory.mktemp("model") / "stocked"

    async def make() -> None:
        async with shop(home) as opened:
            await stock_up(opened)
            for channel, changes in _CONNECTED.items():
                await change_rules(opened, changes, channel)
            async with opened.store.write() as connection:
                for sku, count in STOCK.items():
                    await stock.count(connection, sku, "", count, now=opened.clock())

    import asyncio

    asyncio.run(make())
    return home


# The model.


@dataclass(slots=True)
class Bought:
    """An order as the model knows it."""

    offer: Offer
    id: int
    closed: bool = False
    by_hand: bool = False
    reverted: bool = False


@dataclass(slots=True)
class Came:
    """A payment, or a movement of its money, as the model knows it; amounts are signed as the source has them."""

    incoming: IncomingPayment
    id: int
    offer: Offer
    outcome: Outcome | None = None
    settles: int = 0
    """What of it is allocated to its order now; negative for what went back."""

    @property
    def amount(self) -> int:
        return self.incoming.amount.minor

    @property
    def kind(self) -> Kind:
        return self.incoming.kind

    @property
    def forgives(self) -> int:
        """What the order is relieved of all the same, because the shop gave it back by its own will."""
        return -self.settles if self.kind is Kind.REFUND else 0


@dataclass(slots=True)
class Model:
    """What must be: orders by number, and payments with their movements by id."""

    orders: dict[str, Bought] = field(default_factory=dict[str, Bought])
    came: dict[int, Came] = field(default_factory=dict[int, Came])

    def of(self, offer: Offer) -> list[Came]:
        return [one for one in self.came.values() if one.offer is offer]

    def moved(self, one: Came) -> list[Came]:
        """Return what else moved of the same payment's money."""
        reference = one.incoming.provider_reference
        return [
            c
            for c in self.came.values()
            if c is not one and c.kind is not Kind.PAYMENT and c.incoming.provider_reference == reference
        ]

    def open(self, offer: Offer) -> int:
        """Return what an order still asks for."""
        return offer.total - sum(one.settles + one.forgives for one in self.of(offer))

    def kept(self, offer: Offer) -> int:
        """Return what the shop has of an order's money."""
        return sum(one.settles for one in self.of(offer))

    def state(self, offer: Offer) -> PaymentState:
        """Return what all of an order's money says."""
        kept = self.kept(offer)
        sums = {kind: sum(c.settles for c in self.of(offer) if c.kind is kind) for kind in Kind}
        if sums[Kind.CHARGEBACK] + sums[Kind.REINSTATED] < 0 and kept < offer.total:
            return PaymentState.CHARGED_BACK
        if sums[Kind.REFUND]:
            left = PaymentState.PAID if kept == offer.total else PaymentState.PART_REFUNDED
            return left if kept else PaymentState.REFUNDED
        if kept == offer.total:
            return PaymentState.PAID
        return PaymentState.PART_PAID if kept else PaymentState.UNPAID

    def is_matched(self, one: Came) -> None:
        """Decide on a payment or a movement, at the moment at which the product has."""
        if one.kind is Kind.PAYMENT:
            one.outcome, one.settles = self._paid(one)
        else:
            one.outcome, one.settles = self._went(one)

    def _paid(self, one: Came) -> tuple[Outcome, int]:
        back = sum(moved.amount for moved in self.moved(one))
        bought = self.orders.get(one.offer.number)
        if back < 0:
            return (Outcome.REFUND if one.amount + back <= 0 else Outcome.UNKNOWN), 0
        if bought is None:
            return Outcome.UNKNOWN, 0
        if bought.closed:
            return Outcome.LATE, 0
        if (left := self.open(one.offer)) <= 0:
            return Outcome.DUPLICATE, 0
        if one.amount > left:
            # In Romania nobody is sent goods on an amount that was not understood.
            return Outcome.OVER, left if one.offer.channel == "cz" else 0
        return (Outcome.EXACT if one.amount == left else Outcome.SHORT), one.amount

    def _went(self, one: Came) -> tuple[Outcome, int]:
        reference = one.incoming.provider_reference
        origin = [
            c for c in self.came.values() if c.kind is Kind.PAYMENT and c.incoming.provider_reference == reference
        ]
        if not origin or origin[0].outcome is None:
            return Outcome.UNKNOWN, 0
        others = self.moved(one)
        kept = origin[0].settles + sum(c.settles for c in others)
        if one.kind is Kind.REINSTATED:
            disputed = -sum(c.settles for c in others if c.kind in (Kind.CHARGEBACK, Kind.REINSTATED))
            return Outcome.REINSTATED, one.amount if one.amount <= disputed else 0
        known = origin[0].amount + sum(c.amount for c in others if c.outcome is not None)
        wanted = max(-one.amount - max(known - kept, 0), 0)  # what settled nothing goes back first
        outcome = Outcome.REFUND if one.kind is Kind.REFUND else Outcome.CHARGEBACK
        return outcome, -wanted if wanted <= kept else 0


# The machine.

_FORWARD = {"intended": 0, "in_doubt": 1, "done": 2, "skipped": 2, "rejected": 2}
_SYSTEMS = ("books", "courier", "post", "pigeons")
_which = st.integers(0, 11)
_shares = st.sampled_from(["all", "half", "rest", "too much"])
_troubles = st.lists(st.sampled_from(TROUBLES), min_size=1, max_size=4)
_PASSES = {"in the match": 1, "in the release": 0, "closing": 1, "before the act": 2, "after the act": 2}


@dataclass(frozen=True, slots=True)
class Then:
    """What the worker does next; where it dies or stands still, and how often others pass that place first."""

    what: str
    place: str = ""
    passes: int = 0


def _thens(what: str, place: str) -> st.SearchStrategy[Then]:
    return st.integers(0, _PASSES.get(place, 6)).map(lambda passes: Then(what, place, passes))


_then = st.one_of(
    st.just(Then("work")),
    st.just(Then("nothing")),
    st.tuples(st.sampled_from(["die", "die and wait"]), st.sampled_from(PLACES)).flatmap(lambda one: _thens(*one)),
    st.sampled_from(OPEN_PLACES).flatmap(lambda place: _thens("stall", place)),
)
_runs = itertools.count(1)


class Machine(RuleBasedStateMachine):
    """Does to a shop what happens to one, in any order."""

    def __init__(self, stocked: Path, folder: Path, stops: Stops, raised: list[BaseException]) -> None:
        super().__init__()
        self.raised = raised
        self.raised.clear()
        self.shop = Shop(stocked, folder / f"run-{next(_runs)}", stops)
        self.model = Model()
        self.seen: dict[int, str] = {}
        self.journal_read = 0
        self.references = itertools.count(1)
        self.early: dict[str, str] = {}
        self.offers = OFFERS
        self.repeated_at = self.rested_at = -1

    @property
    def opened(self) -> Installation:
        return self.shop.opened

    @initialize(
        bought=st.lists(
            st.tuples(st.sampled_from(OFFERS), _shares, _then),
            min_size=1,
            max_size=3,
            unique_by=lambda one: one[0].number,
        ),
        troubles=st.dictionaries(st.sampled_from(_SYSTEMS), _troubles),
    )
    def open(self, bought: list[tuple[Offer, str, Then]], troubles: dict[str, list[str]]) -> None:
        """Begin with a few orders, of which most are paid: few, so that much happens to each, and much goes wrong."""
        self.shop.world.troubles.update(troubles)
        self.offers = [offer for offer, _, _ in bought]
        for offer, share, then in bought:
            self._place(offer)
            self._pay(offer, share)
            self._carry_on(then)

    # What customers, banks and gateways do.

    @rule(which=_which, then=_then)
    def place(self, which: int, then: Then) -> None:
        """Place an order; one that is known is passed over."""
        self._place(self._offer(which))
        self._carry_on(then)

    @rule(which=_which, share=_shares, then=_then)
    def pay(self, which: int, share: str, then: Then) -> None:
        """Pay for an order, which may not have been placed yet."""
        self._pay(self._offer(which), share)
        self._carry_on(then)

    @rule(which=_which, then=_then)
    def buy(self, which: int, then: Then) -> None:
        """Place an order and pay for it at once."""
        self._place(self._offer(which))
        self._pay(self._offer(which), "all")
        self._carry_on(then)

    @precondition(lambda self: self._payments())
    @rule(
        which=_which,
        kind=st.sampled_from([Kind.REFUND, Kind.CHARGEBACK, Kind.REINSTATED]),
        share=st.sampled_from(["all", "all", "half", "too much"]),
        then=_then,
    )
    def move_back(self, which: int, kind: Kind, share: str, then: Then) -> None:
        """Let money of a payment go back, or come again after a dispute."""
        payment = self._payments()[which % len(self._payments())]
        size = {"all": payment.amount, "half": payment.amount // 2_000 * 1_000, "too much": payment.amount + 1_000}
        sign = 1 if kind is Kind.REINSTATED else -1
        self._take(payment.offer, sign * size[share], kind, payment.incoming.provider_reference or "")
        self._carry_on(then)

    @rule(which=_which, kind=st.sampled_from([Kind.REFUND, Kind.CHARGEBACK]), then=_then)
    def move_back_first(self, which: int, kind: Kind, then: Then) -> None:
        """Tell that money went back before it is told that it had come."""
        offer = self._offer(which)
        if offer.number not in self.early:
            self.early[offer.number] = f"pi_{next(self.references)}"
            self._take(offer, -offer.total, kind, self.early[offer.number])
            self._carry_on(then)

    @precondition(lambda self: self.model.came)
    @rule(which=_which, then=_then)
    def tell_again(self, which: int, then: Then) -> None:
        """Tell of a payment once more, as gateways and overlapping statements do; nothing comes of that."""
        assert self.shop.do(take_payments(self.opened, self._one(which).incoming)) == []
        self._carry_on(then)

    # What people in the shop do.

    @precondition(lambda self: self.model.orders)
    @rule(which=_which, to=st.sampled_from([Status.CANCELLED, Status.DISPATCHED]), then=_then)
    def set_by_hand(self, which: int, to: Status, then: Then) -> None:
        """Cancel an order, or hand its parcel over, where its lifecycle allows that."""
        bought = self._order(which)
        if self.shop.do(self._set_status(bought.id, to)):
            bought.by_hand = True
            bought.closed = bought.closed or to is Status.CANCELLED
        self._carry_on(then)

    @precondition(lambda self: self.model.orders)
    @rule(which=_which, then=_then)
    def revert(self, which: int, then: Then) -> None:
        """Take an order back to before its payment, unless that is refused."""
        bought = self._order(which)
        try:
            self.shop.do(begin(self.opened, [bought.id], author="jana", because="a mistake", force=True))
        except RevertError:
            return
        bought.reverted = True
        self._carry_on(then)

    @precondition(lambda self: self.model.came)
    @rule(which=_which, then=_then)
    def match_again(self, which: int, then: Then) -> None:
        """Let a payment that settles nothing be matched again."""
        if not self._one(which).settles:
            self.shop.do(self._due(self._one(which)))
        self._carry_on(then)

    # What workers, and what stands around them, do.

    @rule(then=_then)
    def work(self, then: Then) -> None:
        """Let the worker go on."""
        self._carry_on(then)

    @rule(system=st.sampled_from(_SYSTEMS), trouble=_troubles, then=_then)
    def make_trouble(self, system: str, trouble: list[str], then: Then) -> None:
        """Let the next requests to a system go wrong."""
        self.shop.world.troubles[system] = list(trouble)
        self._carry_on(then)

    @rule()
    def run_again(self) -> None:
        """Carry out all runs again, with a worker that has just started."""
        if self.repeated_at != self.journal_read:
            self.shop.restart()
            self.shop.run_again()
        self.repeated_at = self.journal_read

    @rule(minutes=st.sampled_from([1, 6, 40, 1_500]))
    def wait(self, minutes: int) -> None:
        """Let time pass."""
        self.shop.clock.forward(minutes=minutes)

    @rule()
    def rest(self) -> None:
        """Let everything come to rest, and look at all of it."""
        self._rest()

    def _carry_on(self, then: Then) -> None:
        """Let the worker work off what is due, and die or stand still on the way; or leave it all for later."""
        if then.what != "nothing":
            self.shop.until_due()
        if then.what == "work":
            self.shop.work()
        elif then.what == "stall":
            self.shop.work_beside_stalled(then.place, then.passes)
        elif then.what != "nothing":
            self.shop.work_and_die(then.place, then.passes)
            if then.what == "die and wait":
                self.shop.clock.forward(seconds=61)

    # How it is done.

    def _offer(self, which: int) -> Offer:
        return self.offers[which % len(self.offers)]

    def _place(self, offer: Offer) -> None:
        if offer.number in self.model.orders:
            return
        lines = [
            {"sku": sku, "title": "Tea", "quantity": count, "unit_price": Money(offer.price, offer.currency).amount}
            for sku, count in offer.lines.items()
        ]
        # Each has a buyer of his own: of one buyer's orders, a payment may settle several that come to its amount.
        buyer = {"number": f"C{offer.number}", "name": NAME, "email": EMAIL, "phone": PHONE}
        fields = {"channel": offer.channel, "currency": offer.currency, "lines": lines, "customer": buyer}
        total = Money(offer.total, offer.currency).amount
        order_id = self.shop.do(buy(self.opened, offer.number, offer.method.value, total=total, **fields))
        self.model.orders[offer.number] = Bought(offer, order_id)

    def _pay(self, offer: Offer, share: str) -> None:
        half = offer.total // 2_000 * 1_000
        amount = {"all": offer.total, "half": half, "rest": offer.total - half, "too much": offer.total + 5_000}[share]
        reference = self.early.pop(offer.number, None) or f"pi_{next(self.references)}"
        self._take(offer, amount, Kind.PAYMENT, reference)

    def _order(self, which: int) -> Bought:
        return list(self.model.orders.values())[which % len(self.model.orders)]

    def _one(self, which: int) -> Came:
        return list(self.model.came.values())[which % len(self.model.came)]

    def _payments(self) -> list[Came]:
        return [one for one in self.model.came.values() if one.kind is Kind.PAYMENT]

    def _take(self, offer: Offer, amount: int, kind: Kind, reference: str) -> None:
        incoming = payment_of(
            offer.number if kind is Kind.PAYMENT else None,
            Money(amount, offer.currency).amount,
            offer.method.value,
            currency=offer.currency,
            kind=kind,
            provider_reference=reference,
        )
        (id_,) = self.shop.do(take_payments(self.opened, incoming))
        self.model.came[id_] = Came(incoming, id_, offer)

    async def _set_status(self, order_id: int, to: Status) -> bool:
        async with self.opened.store.write() as connection:
            _, standard = await orders.lock_status(connection, order_id)
            if transition(standard, to) is not Move.ALLOWED:
                return False
            now = self.opened.clock()
            await orders.set_status(
                connection, order_id, after=to, standard=to, reason="by hand", actor=SHOPKEEPER, now=now
            )
        return True

    async def _due(self, one: Came) -> None:
        async with self.opened.store.write() as connection:
            scenario = scenario_of(one.incoming.method, one.kind)
            await work.add(connection, scenario, "payment", [one.id], now=self.opened.clock())

    # What must hold, always.

    @invariant()
    def nothing_went_wrong_in_a_flow(self) -> None:
        """No flow raises, whatever happens outside."""
        assert not self.raised, [repr(error) for error in self.raised]

    @invariant()
    def nothing_was_done_twice(self) -> None:
        """One key, one act; a label may be cancelled twice, which changes nothing."""
        times = Counter((act.system, act.what, act.key) for act in self.shop.world.acts if act.what != "cancel")
        twice = {act for act, count in times.items() if count > 1}
        assert not twice

    @invariant()
    def steps_only_go_forward(self) -> None:
        """What is done, skipped or rejected stays so; what is in doubt is never again as if it had not begun.

        Only the call that a person was asked for is called off again, when the money comes.
        """
        for row in self.shop.rows("SELECT id, step, state FROM effects"):
            before = self.seen.get(row["id"], "intended")
            called_off = (row["step"], before, row["state"]) == (CALL, "rejected", "skipped")
            assert called_off or row["state"] == before or _FORWARD[row["state"]] > _FORWARD[before], (before, *row)
            self.seen[row["id"]] = row["state"]

    @invariant()
    def money_is_where_the_model_says(self) -> None:
        """Follow what was decided in its order, and compare every payment and every order with the database."""
        self._follow()
        rows = self.shop.rows(
            "SELECT p.id, p.outcome, o.number, COALESCE(SUM(a.amount_minor), 0) AS settles,"
            " COALESCE(SUM(a.write_off_minor), 0) AS forgives FROM payments p"
            " LEFT JOIN allocations a ON a.payment_id = p.id LEFT JOIN orders o ON o.id = a.order_id"
            " GROUP BY p.id, o.number"
        )
        assert sorted(row["id"] for row in rows) == sorted(self.model.came)
        settled: dict[str, dict[Kind, list[Money]]] = {}
        for row in rows:
            one = self.model.came[row["id"]]
            assert row["outcome"] == one.outcome, f"payment {one.id}"
            assert (row["settles"], row["forgives"]) == (one.settles, one.forgives), f"payment {one.id}"
            assert row["number"] in (None, one.offer.number)
            of_order = settled.setdefault(one.offer.number, {})
            of_order.setdefault(one.kind, []).append(Money(row["settles"], one.offer.currency))
        for number, bought in self.model.orders.items():
            offer, money = bought.offer, settled.get(number, {})
            assert 0 <= self.model.kept(offer) <= offer.total
            own = [*money.get(Kind.PAYMENT, []), *money.get(Kind.REFUND, [])]
            disputed = [*money.get(Kind.CHARGEBACK, []), *money.get(Kind.REINSTATED, [])]
            assert payment_state(Money(offer.total, offer.currency), own, disputed) is self.model.state(offer)

    def _follow(self) -> None:
        """Read on in the journal, and let the model decide what the product has decided since, in the same order."""
        for row in self.shop.rows("SELECT * FROM journal WHERE id > ? ORDER BY id", self.journal_read):
            self.journal_read = row["id"]
            if row["step"] == "match" and row["move"] == Outcome.TAKEN_BACK:
                taken = self.model.came[row["payment_id"]]
                taken.outcome, taken.settles = Outcome.TAKEN_BACK, 0
            elif row["step"] == "match":
                self.model.is_matched(self.model.came[row["payment_id"]])
            elif row["step"] == "status back" and row["move"] == "done":
                after = json.loads(row["after"]).get("standard")
                (bought,) = [one for one in self.model.orders.values() if one.id == row["order_id"]]
                bought.closed = bought.closed or after == Status.CANCELLED

    # What must hold at rest.

    def teardown(self) -> None:
        """Let everything come to rest at the end of each run, too."""
        try:
            self._rest()
        finally:
            self.shop.close()

    def _rest(self) -> None:
        if self.rested_at == self.journal_read and self.shop.is_idle():
            return  # nothing has happened since
        rested = self.shop.rest(self._only_stuck)
        self.nothing_went_wrong_in_a_flow()
        self.nothing_was_done_twice()
        self.steps_only_go_forward()
        self.money_is_where_the_model_says()
        open_ = [tuple(row) for row in self._open()]
        assert rested, open_
        stuck = self._stuck()
        assert {row["order_id"] for row in self._open()} <= stuck, open_
        self._outside_is_known(stuck)
        self._audit_finds_nothing(stuck)
        for bought in self.model.orders.values():
            self._order_is_right(bought, stuck)
        self.rested_at = self.journal_read

    def _open(self) -> list[Any]:
        return self.shop.rows(
            "SELECT number, step, cause, state, e.reason, e.due_at, lease_owner, order_id FROM effects e"
            " JOIN orders o ON o.id = e.order_id WHERE state IN ('intended', 'in_doubt')"
        )

    def _stuck(self) -> set[int]:
        """Return the orders of which a person must say whether something happened: it can't be looked up."""
        return {
            row["order_id"]
            for row in self._open()
            if row["state"] == "in_doubt" and row["due_at"] is None and row["lease_owner"] is None
        }

    def _only_stuck(self) -> bool:
        return bool(stuck := self._stuck()) and {row["order_id"] for row in self._open()} <= stuck

    def _outside_is_known(self, stuck: set[int]) -> None:
        """Every act belongs to a step that is done or in doubt, and the labels in force are those that we have."""
        states = {row["key"]: row["state"] for row in self.shop.rows("SELECT key, state FROM effects")}
        sent = {row["message_id"] for row in self.shop.rows("SELECT message_id FROM messages")}
        doubtful = [row for row in self._open() if row["state"] == "in_doubt"]
        unknown = 0
        for act in self.shop.world.acts:
            if act.what == "message":
                unknown += act.key not in sent
            else:
                assert states[act.key] in ("done", "in_doubt"), (act, states[act.key])
        assert unknown <= len(doubtful)
        live = {
            row["tracking_number"]: row["number"]
            for row in self.shop.rows(
                "SELECT s.tracking_number, o.number, o.id FROM shipments s JOIN orders o ON o.id = s.order_id"
                " WHERE s.live"
            )
        }
        numbers_stuck = {number for number, bought in self.model.orders.items() if bought.id in stuck}
        there = self.shop.world.labels
        assert {n: o for n, o in there.items() if o not in numbers_stuck} == {
            n: o for n, o in live.items() if o not in numbers_stuck
        }
        if not stuck:
            assert max(Counter(there.values()).values(), default=1) == 1

    def _audit_finds_nothing(self, stuck: set[int]) -> None:
        async def find() -> list[audit.Finding]:
            async with self.opened.store.read() as connection:
                return await audit.audit(connection, now=self.opened.clock())

        excused = {f"order {number}" for number, bought in self.model.orders.items() if bought.id in stuck}
        unfinished = "every step that was begun goes on or waits for a person"
        found = [one for one in self.shop.do(find()) if one.invariant != unfinished or one.subject not in excused]
        assert found == []

    def _order_is_right(self, bought: Bought, stuck: set[int]) -> None:
        offer = bought.offer
        done = self._done_for(bought)
        assert done["invoices"] <= 1
        assert done["labels"] <= 1
        assert done["out"] in (0, sum(offer.lines.values()))
        if bought.id in stuck or done["rejected"] or bought.by_hand:
            return
        moved = [one for one in self.model.of(offer) if one.kind is not Kind.PAYMENT]
        paid = [one for one in self.model.of(offer) if one.kind is Kind.PAYMENT]
        if not moved and not bought.reverted:
            everything = {"invoices": 1, "labels": int(offer.label), "out": sum(offer.lines.values())}
            if not self.model.open(offer):
                assert done["status"] == offer.paid_as
                assert done | everything == done
                letters = {name: done["letters"].get(name, 0) for name in offer.letters}
                assert letters == offer.letters
                self._every_step_was_taken(bought)
            elif offer.goes_unpaid:
                assert (done["status"], done["labels"]) == (offer.waits_as, 1)
                assert done["out"] == sum(offer.lines.values())
            else:
                assert done["status"] == offer.waits_as
                assert (done["invoices"], done["labels"], done["out"]) == (0, 0, 0)
        elif bought.reverted and not moved and not any(one.settles for one in paid) and not offer.goes_unpaid:
            assert done["status"] in ("new", offer.waits_as)
            assert (done["invoices"], done["labels"], done["out"]) == (0, 0, 0)
        elif {one.kind for one in moved if one.settles} == {Kind.REFUND} and not self.model.kept(offer):
            assert (done["labels"], done["out"]) == (0, 0)
            assert done["invoices"] == 0 or offer.channel == "ro"
            assert done["status"] == "cancelled" or offer.channel == "cz"
        elif {one.kind for one in moved if one.settles} == {Kind.CHARGEBACK} and not self.model.kept(offer):
            assert done["labels"] == 0

    def _done_for(self, bought: Bought) -> dict[str, Any]:
        """Return what was done for an order and is in force."""

        def count(query: str) -> int:
            return self.shop.rows(query, bought.id)[0][0]

        return {
            "status": count("SELECT status FROM orders WHERE id = ?"),
            "invoices": count(
                "SELECT COUNT(*) FROM documents WHERE order_id = ? AND live AND (kind = 'invoice' OR counter IS NULL)"
            ),
            "labels": count("SELECT COUNT(*) FROM shipments WHERE order_id = ? AND live"),
            "out": count(
                "SELECT COALESCE(SUM(quantity), 0) FROM stock_moves WHERE order_id = ? AND kind = 'deduct' AND live"
            ),
            "rejected": count("SELECT COUNT(*) FROM effects WHERE order_id = ? AND state = 'rejected'"),
            "letters": {
                row["template"]: row["times"]
                for row in self.shop.rows(
                    "SELECT template, COUNT(*) AS times FROM messages WHERE order_id = ? GROUP BY template", bought.id
                )
            },
        }

    def _every_step_was_taken(self, bought: Bought) -> None:
        """Of the payment that completed an order, every step of its scenario is done, or skipped by a rule."""
        rows = self.shop.rows(
            "SELECT e.step FROM effects e JOIN allocations a ON e.cause = 'payment:' || a.payment_id"
            " WHERE e.order_id = ? AND a.order_id = e.order_id AND a.completes AND e.state IN ('done', 'skipped')",
            bought.id,
        )
        assert {row["step"] for row in rows} >= set(STEPS[bought.offer.method.value]) - {"match"} - TELLING


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None]:
    """Keep what the product logs of thousands of faults out of the report."""
    log = logging.getLogger("kvit")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)  # not the attribute: a logger remembers what it lets through until it is told a level


def try_out(
    stocked: Path, folder: Path, patch: pytest.MonkeyPatch, examples: int, *, new: bool = False, without: str = ""
) -> None:
    """Let the machine run so many examples; new ones each time, or always the same; if told, without a guard."""
    raised, stops = leave_prefect_out(patch), Stops()
    put_stops(patch, stops)
    switch_off(without, patch.setattr)
    chosen = settings(
        max_examples=examples,
        stateful_step_count=20,
        derandomize=not new,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[Phase.generate],
        # A step works through a whole scenario, which takes longer than what Hypothesis has in mind.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    machine: Any = lambda: Machine(stocked, folder, stops, raised)  # noqa: E731 - what it asks for is typed as a class
    run_state_machine_as_test(machine, settings=chosen)


EXAMPLES, ENOUGH = 30, 45
"""Of an ordinary run, and within how many it is found that any of the guards is missing."""


@pytest.mark.timeout(0 if "KVIT_MODEL_EXAMPLES" in os.environ else 900)
def test_the_product_does_what_the_model_says(stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = os.environ.get("KVIT_MODEL_EXAMPLES")
    try_out(stocked, tmp_path, monkeypatch, int(examples or EXAMPLES), new=examples is not None)


@pytest.mark.parametrize("guard", IN_CODE)
def test_without_one_of_the_guards_the_model_finds_what_goes_wrong(
    stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    with pytest.raises((AssertionError, ExceptionGroup)):
        try_out(stocked, tmp_path, monkeypatch, ENOUGH, without=guard)
