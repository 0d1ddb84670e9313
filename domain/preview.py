"""Preview: what a change of a channel's rules would have made of its own past orders and payments.

Old and new rules are both asked about the same past, by the functions that the steps ask; what differs between the two
answers is a difference, whatever really happened. Nothing is stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, cast

from domain.balance import Waiting as OnBalance
from domain.balance import covers, released, sets_free
from domain.money import Money
from domain.orders import CLOSED, Move, Order, Status, transition
from domain.payments import Kind, Method
from domain.rules import (
    ChannelRules,
    InvoiceAction,
    MessageRule,
    MessageText,
    Moment,
    ScenarioRules,
    StockAction,
    Template,
    Wait,
    Way,
)
from domain.scenarios import STEPS, message_step
from domain.waiting import Term, on_credit, reserved, reserved_for
from domain.wording import counted, listed

LAST, LAST_MAX = 1_000, 100_000
"""So many orders, and so many payments, are looked at by default and at most."""

# What a preview says


_ORDERS_REBUILT = (
    "Orders go both ways as if nobody had done anything by hand, and what was paid counts as paid either way; what "
    "customers owe and have on their balances is reckoned from these orders."
)
_PAYMENTS_REBUILT = (
    "Each payment is tried again by itself, on what was open just before it, or is open now if it still waits, by the "
    "names, accounts and groups that are known now."
)


class Subject(StrEnum):
    """What goes otherwise."""

    ORDER = "order"
    PAYMENT = "payment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One decision on one order or payment that the new rules take otherwise.

    name is the order's number or the payment's id. kind says without the order what differs, for the totals. to_come
    says that the order has yet to come to it.
    """

    subject: Subject
    name: str
    decision: str
    now: str
    then: str
    kind: str
    to_come: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many orders or payments one kind of difference has, and how many of these have yet to come to it."""

    subject: Subject
    decision: str
    kind: str
    count: int
    to_come: int

    @property
    def said(self) -> str:
        """Return it in a sentence: “12 orders would get a proforma instead of an invoice”."""
        all_ = "it has" if self.count == 1 else "all of them have"
        some = (
            all_ if self.to_come == self.count else f"{self.to_come} of them {'has' if self.to_come == 1 else 'have'}"
        )
        later = f"; {some} yet to come to it" if self.to_come else ""
        return f"{counted(self.count, self.subject.value)} would {self.kind}{later}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What would have gone otherwise; version is that of the rules in force, None for a channel that has none yet.

    orders and payments are how many were looked at. unseen are sentences on what differs and can't be previewed.
    """

    channel: str
    version: int | None
    orders: int = 0
    payments: int = 0
    differences: tuple[Difference, ...] = ()
    unseen: tuple[str, ...] = ()

    def otherwise(self, subject: Subject) -> int:
        """Return how many orders or payments would have gone otherwise."""
        return len({one.name for one in self.differences if one.subject is subject})

    @property
    def how(self) -> tuple[str, ...]:
        """How the past was looked at, in sentences."""
        return tuple(
            said for said, count in ((_ORDERS_REBUILT, self.orders), (_PAYMENTS_REBUILT, self.payments)) if count
        )

    @property
    def counts(self) -> tuple[Count, ...]:
        """The differences by kind; orders before payments, and the most frequent first."""
        found: dict[tuple[Subject, str, str], list[bool]] = defaultdict(list)
        for one in self.differences:
            found[one.subject, one.decision, one.kind].append(one.to_come)
        counts = [
            Count(subject=subject, decision=decision, kind=kind, count=len(later), to_come=sum(later))
            for (subject, decision, kind), later in found.items()
        ]
        return tuple(sorted(counts, key=lambda one: (one.subject is Subject.PAYMENT, -one.count)))

    @property
    def said(self) -> str:
        """The whole in one sentence."""
        if self.version is None:
            return f"Channel {self.channel} is new, so it has no history to preview the rules on."
        looked = f"{counted(self.orders, 'order')} and {counted(self.payments, 'payment')} of {self.channel}"
        if not (self.orders or self.payments):
            return f"Channel {self.channel} has no orders or payments of that time to preview the rules on."
        if not self.differences:
            return f"Nothing would have gone otherwise in the last {looked}."
        changed = [(self.otherwise(subject), subject) for subject in Subject]
        said = listed([counted(count, subject.value) for count, subject in changed if count])
        return f"Of the last {looked}, {said} would have gone otherwise."


# The past


@dataclass(frozen=True, slots=True, kw_only=True)
class PastOrder:
    """An order of the past, and what is known of the way it went.

    taken_in is the status that it came with, due_given the day by which the shop said it is to be paid. paid_at is when
    it was first paid in full, elsewhere_at the same for money that was not taken from the customer's balance. short
    says that a payment left some of it open, held that money was held for it, back how its money went back.
    """

    order: Order
    taken_in: str
    taken_at: datetime
    due_given: bool = False
    paid_at: datetime | None = None
    elsewhere_at: datetime | None = None
    cancelled_at: datetime | None = None
    short: bool = False
    held: bool = False
    back: Kind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceMove:
    """Money that came on a customer's balance or was taken off it, but for what pays the orders that are looked at.

    tops_up says that it can let waiting orders go; method is how it was paid, None by hand.
    """

    at: datetime
    amount: Money
    tops_up: bool = False
    method: Method | None = None


AWAITS_MONEY = (Status.NEW, Status.AWAITING_PAYMENT)
"""What an order is taken in with whose way begins here; one with a later status was begun elsewhere."""


def due_was_given(order: Order, taken_at: datetime, own: ChannelRules) -> bool:
    """Say whether the day by which an order on credit is to be paid came from the shop, and not from the rules."""
    days = own.placed.of(order.method).deferral_days
    if order.due_on is None or (days and order.extended):
        return False
    return not days or order.due_on != taken_at.date() + timedelta(days=days)


# How an order begins


@dataclass(slots=True)
class _Begun:
    """How an order begins under some rules: its scenario, its term, and how it comes to its money."""

    scenario: str
    term: Term | None
    how: str
    paid_at: datetime | None
    on_balance: OnBalance | None = None


def _begins(past: PastOrder, own: ChannelRules) -> bool:
    """Say whether an order's way begins here by its channel's rules, which may not take it in at all."""
    try:
        return own.currency == past.order.total.currency and own.standard(past.taken_in) in AWAITS_MONEY
    except ValueError:
        return False


def moved_on(own: ChannelRules, now: tuple[str, Status], target: str | None) -> tuple[str, Status]:
    """Return the status that an order has after it was to get another one, as the step that sets it decides."""
    if target is None:
        return now
    meant = own.standard(target)
    move = transition(now[1], meant)
    if move is Move.FORBIDDEN or (move is Move.ALREADY and (now[0] == target or now[1] != meant)):
        return now
    return target, meant


class _Customer:
    """One customer's orders as they begin one after the other: what he owes and has on his balance counts."""

    def __init__(self, own: ChannelRules) -> None:
        self._own = own
        self._balance = Money.zero(own.currency)
        self._on_credit: list[PastOrder] = []
        self._waiting: list[tuple[PastOrder, _Begun]] = []

    def begin(self, pasts: Sequence[PastOrder], moves: Sequence[BalanceMove]) -> dict[int, _Begun]:
        """Let the orders be placed and the balance move in the order in which that happened."""
        found: dict[int, _Begun] = {}
        events: list[BalanceMove | PastOrder] = [move for move in moves if move.amount.currency == self._own.currency]
        events += sorted(pasts, key=lambda past: past.order.id)
        for event in sorted(events, key=lambda one: one.at if isinstance(one, BalanceMove) else one.taken_at):
            if isinstance(event, PastOrder):
                found[event.order.id] = self._place(event)
            else:
                self._move(event)
        return found

    def _place(self, past: PastOrder) -> _Begun:
        order = past.order
        if not _begins(past, self._own):
            return _Begun("", None, "as it began elsewhere", past.paid_at)
        if order.method is Method.CASH_ON_DELIVERY:
            return _Begun("dispatch_unpaid", None, "on delivery", past.paid_at)
        hours = self._own.placed.of(order.method).reserve_hours
        in_hours = reserved_for(past.taken_at, hours=hours) if hours is not None else None
        term = self._term(past) if order.method is Method.BANK_TRANSFER else in_hours
        if term is not None and term.due_on is not None:
            self._on_credit.append(past)
            days = self._own.placed.of(order.method).deferral_days
            when = "by the day that the shop gives" if past.due_given else f"{counted(days, 'day')} later"
            return _Begun("deferred", term, f"on credit, {when}", past.paid_at)
        begun = _Begun("order_placed", term, "by a payment for it", past.elsewhere_at)
        if self._own.balance.use:
            waiting, placed = self._own.balance.waiting_status, self._own.placed.of(order.method)
            _, standard = moved_on(self._own, (waiting, self._own.standard(waiting)), placed.status)
            begun.on_balance = OnBalance(order_id=order.id, open=order.total, placed_at=order.placed_at)
            begun.how = "once the balance covers it"
            if covers(self._balance, self._own.balance, order.total):
                self._pay(begun, past.taken_at, "from the balance at once")
            elif standard is Status.AWAITING_PAYMENT:
                self._waiting.append((past, begun))
        return begun

    def _term(self, past: PastOrder) -> Term | None:
        own, placed = self._own, self._own.placed.of(past.order.method)
        if (past.due_given or placed.deferral_days) and self._within_limit(past):
            day = past.order.due_on if past.due_given else None
            day = day or past.taken_at.date() + timedelta(days=placed.deferral_days)
            return on_credit(day, placed, grace_days=own.grace_days)
        if placed.reserve_stock:
            return reserved(past.taken_at, placed, days=own.reservation_days, grace_days=own.grace_days)
        return None

    def _within_limit(self, past: PastOrder) -> bool:
        limit = self._own.placed.of(past.order.method).credit_limit
        if limit is None:
            return True
        owed = [one.order.total for one in self._on_credit if _is_open(one, past.taken_at)]
        total = past.order.total
        return sum(owed, total) <= Money.from_decimal(limit, total.currency)

    def _move(self, move: BalanceMove) -> None:
        self._balance += move.amount
        if not move.tops_up or not sets_free(self._own.balance, move.method):
            return
        self._waiting = [(past, begun) for past, begun in self._waiting if _is_open(past, move.at, begun)]
        by_id = {past.order.id: begun for past, begun in self._waiting}
        waiting = [begun.on_balance for begun in by_id.values() if begun.on_balance]
        paid = released(self._balance, waiting, self._own.balance)
        for id_ in paid:
            self._pay(by_id[id_], move.at, "from the balance by a later top-up")
        self._waiting = [(past, begun) for past, begun in self._waiting if past.order.id not in paid]

    def _pay(self, begun: _Begun, at: datetime, how: str) -> None:
        if begun.on_balance is not None:
            self._balance -= begun.on_balance.open
            begun.how, begun.paid_at = how, at


def _is_open(past: PastOrder, at: datetime, begun: _Begun | None = None) -> bool:
    """Say whether an order still waits for its money at a moment."""
    paid_at = begun.paid_at if begun else past.paid_at
    return all(ended is None or ended > at for ended in (paid_at, past.cancelled_at))


# What the rules say of an order


class _When(StrEnum):
    """What must have happened to an order before a decision on it is taken."""

    PLACED = "placed"
    PAID = "paid"
    SHORT = "short"
    HELD = "held"
    BACK = "back"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What rules say: `would {verb} {value}{at}`. Where either value is empty, there is nothing to compare.

    text is the channel's own wording of a message.
    """

    verb: str
    value: str
    when: _When
    at: str = ""
    text: tuple[str, ...] | None = None


_NOTHING_FOR: dict[Way, str] = {"email": "no e-mail", "sms": "no SMS"}
_CALLED: dict[Way, str] = {"email": "e-mail", "sms": "SMS"}
_MOMENTS = {
    Moment.PLACED: " once placed",
    Moment.PAID: " after payment",
    Moment.STATUS: " with the new status",
    Moment.INCOMPLETE: " when money is missing",
    Moment.DISPATCH: " with the dispatch",
    Moment.REMINDER: " as a reminder",
    Moment.OVERDUE: " when payment is overdue",
    Moment.HELD: " while their money is held",
}
_LETTER: dict[Way, tuple[str, ...]] = {"email": ("subject", "text", "html"), "sms": ("sms",)}


class _Answers:
    """What the rules that hold for an order's customer say of it, decision by decision."""

    def __init__(self, past: PastOrder, own: ChannelRules, begun: _Begun, now: datetime) -> None:
        self.found: dict[str, _Answer] = {}
        self._past, self._order, self._own, self._begun, self._now = past, past.order, own, begun, now
        self._language = past.order.customer.language or own.language
        self._steps = STEPS.get(begun.scenario, ())
        self.paid = begun.paid_at is not None or past.paid_at is not None
        refusal = self._refusal()
        self._say("taken in", "be", refusal or "taken in", _When.PLACED)
        if refusal:
            return
        self._placed = self._paid = self._held = self._scenario_as(past.taken_in)
        self._after = STEPS[past.order.method.value]
        self._statuses()
        self._placement()
        self._term()
        self._payment()
        self._systems()
        if past.short:
            self._messages(Moment.INCOMPLETE, _When.SHORT)
        if past.held:
            self._hold()
        if past.back:
            self._money_back(past.back)

    def _say(self, decision: str, verb: str, value: str, when: _When, at: str = "") -> None:
        self.found[decision] = _Answer(verb, value, when, at)

    def _scenario_as(self, status: str) -> ScenarioRules:
        """Return what happens with the order, if it has a status when that begins."""
        return self._own.scenario_of(replace(self._order, begun_as=status))

    def _of(self, step: str) -> ScenarioRules:
        """Return the part of the rules that a step asks: as the order was placed, or as its payment comes."""
        return self._placed if step in self._steps else self._paid

    @property
    def _at_once(self) -> bool:
        """Whether the order is paid from the balance when it is placed."""
        return self._begun.on_balance is not None and self._begun.paid_at == self._past.taken_at

    def _refusal(self) -> str | None:
        if self._order.total.currency != self._own.currency:
            return f"refused, as the channel sells in {self._own.currency}"
        try:
            self._own.standard(self._past.taken_in)
        except ValueError:
            return f"refused, as the channel has no status “{self._past.taken_in}”"
        return None

    # Statuses

    def _statuses(self) -> None:
        own, past, placed = self._own, self._past, self._own.placed.of(self._order.method)
        now = past.taken_in, own.standard(past.taken_in)
        if self._begun.on_balance and not self._at_once:
            now = own.balance.waiting_status, own.standard(own.balance.waiting_status)
        if self._begun.scenario:
            on_its_way = self._begun.scenario == "deferred"
            now = moved_on(own, now, placed.deferred_status if on_its_way else placed.status)
        self._say("status when placed", "have the status", f"“{now[0]}”", _When.PLACED, " once placed")
        self._told(now[0], "when placed", _When.PLACED)
        if past.held:
            self._held = self._scenario_as(now[0])
            now = moved_on(own, now, own.holds.status)
            self._say("status on hold", "have the status", f"“{now[0]}”", _When.HELD, " while their money is held")
        self._paid = self._scenario_as(now[0])
        now = moved_on(own, now, self._paid.status) if self._paid.change_status else now
        self._say("status after payment", "have the status", f"“{now[0]}”", _When.PAID, " after payment")
        self._told(now[0], "after payment", _When.PAID)

    def _told(self, status: str, when: str, occasion: _When) -> None:
        for system, name in (("shop", self._own.connectors.shop), ("CRM", self._own.connectors.crm)):
            told = self._own.tells.get(name, {}).get(status)
            value = f"“{told}” in {name}" if told else f"no status in {name}" if name else "nothing"
            value = "nothing" if system == "shop" and not told else value
            self._say(f"{system} told {when}", f"have the {system} told", value, occasion, f" {when}")

    # Before any money

    def _placement(self) -> None:
        placed, steps = self._own.placed.of(self._order.method), self._steps
        at_once = self._at_once
        self._say("payment", "be paid", self._begun.how, _When.PLACED)
        kept = "set aside" if "reservation" in steps and placed.reserve_stock else "not set aside"
        self._say("reservation", "have their goods", kept, _When.PLACED, " once placed")
        asks = "proforma" in steps and placed.proforma and not at_once
        self._say("proforma", "get", f"{'a' if asks else 'no'} proforma", _When.PLACED, " once placed")
        self._proforma = asks
        self._messages(Moment.PLACED, _When.PLACED, there=message_step(Moment.PLACED, "email") in steps, paid=at_once)
        self._say("language", "be written to in", f"“{self._language}”", _When.PLACED)

    def _term(self) -> None:
        term = self._begun.term
        placed = self._own.placed.of(self._order.method)
        kept = term is not None and term.due_on is None
        days = self._own.reservation_days
        of_card = placed.reserve_hours
        last = counted(of_card, "hour") if kept and of_card else counted(days, "day") if kept else "no set time"
        self._say("last day", "be kept", last, _When.PLACED, " until they are paid")
        before, after = counted(placed.remind_days, "day"), counted(placed.overdue_days, "day")
        self._messages(Moment.REMINDER, _When.PLACED, there=self._needed("remind"), more=f", {before} before it is due")
        self._messages(Moment.OVERDUE, _When.PLACED, there=self._needed("overdue"), more=f", {after} after it was due")
        calls = "a person" if self._needed("last_day") else "nobody"
        self._say("call", "have", calls, _When.PLACED, " call the customer for their money")
        ends = {"ask": "left to a person", "release": "freed", "cancel": "freed as they expire"}[placed.at_expiry]
        grace = "" if of_card else f" ({counted(self._own.grace_days, 'day')} after the last day)"
        late = f"{ends}{grace}"
        self._say("expiry", "have their goods", late if self._needed("expire") else "kept", _When.PLACED)

    def _needed(self, scenario: str) -> bool:
        """Say whether the day comes, or came, on which something is done about an order that is not paid."""
        term = self._begun.term
        at = term.due.get(scenario) if term else None
        if at is None:
            return False
        if at > self._now and (self.paid or self._order.standard_status in CLOSED):
            return False
        return _is_open(self._past, at, self._begun)

    # After payment

    def _payment(self) -> None:
        invoice, dispatch = self._of("invoice").invoice, self._of("dispatch").dispatch
        document = f"{'an' if invoice.kind == 'invoice' else 'a'} {invoice.kind}"
        document += " brought up to date" if invoice.action is InvoiceAction.UPDATE else ""
        issued = invoice.action is not InvoiceAction.IGNORE
        if issued and invoice.kind == "proforma" and self._proforma:
            document = "no other document than the proforma"  # one is issued once
        self._say("invoice", "get", document if issued else "no invoice", self._when("invoice"))
        self._messages(Moment.PAID, _When.PAID, there=self._has(Moment.PAID), paid=True)
        self._messages(Moment.STATUS, _When.PAID, there=self._has(Moment.STATUS), paid=True)
        stock = "left alone" if self._of("stock").stock is StockAction.IGNORE else "deducted"
        self._say("stock", "have their stock", stock, self._when("stock"))
        self._starts = dispatch.start and not self._held_up()
        self._say("dispatch", "have their dispatch", self._dispatch(), self._when("dispatch"))
        told, when = self._has(Moment.DISPATCH) and self._starts, self._when("dispatch")
        self._messages(Moment.DISPATCH, when, there=told, paid=when is _When.PAID)
        noted = dispatch.note and self._starts and self._own.connectors.shop
        self._say("shop note", "have", f"{'a' if noted else 'no'} note of it in the shop", self._when("dispatch"))

    def _when(self, step: str) -> _When:
        return _When.PLACED if step in self._steps else _When.PAID

    def _has(self, moment: Moment) -> bool:
        return message_step(moment, "email") in (*self._steps, *self._after)

    def _dispatch(self) -> str:
        rule = self._of("dispatch").dispatch
        if not rule.start:
            return "left to a person"
        if said := self._held_up():
            return said
        waits = sorted(rule.waits_for)
        return f"started (after {listed([wait.value for wait in waits])})" if waits else "started (waiting for nothing)"

    def _held_up(self) -> str | None:
        """Return why dispatch waits for what the same rules never let happen."""
        rule, invoice = self._of("dispatch").dispatch, self._of("invoice").invoice
        if Wait.INVOICE in rule.waits_for and (invoice.action is InvoiceAction.IGNORE or invoice.kind != "invoice"):
            return "held up (waiting for an invoice)"
        moves_stock = any(line.sku for line in self._order.lines)
        if Wait.STOCK in rule.waits_for and self._of("stock").stock is StockAction.IGNORE and moves_stock:
            return "held up (waiting for stock)"
        return None

    def _systems(self) -> None:
        connectors, issues = self._own.connectors, self._of("invoice").invoice.action is not InvoiceAction.IGNORE
        documents = connectors.accounting if issues or self._proforma else ""
        self._say("accounting", "have their documents issued by", documents, _When.PLACED)
        self._say("carrier", "be sent by", connectors.carrier if self._starts else "", self._when("dispatch"))
        sends = {way: any(self._rule(moment, way) for moment in Moment) for way in _CALLED}
        self._say(
            "messenger", "have their e-mails sent by", connectors.messenger if sends["email"] else "", _When.PLACED
        )
        self._say("sms", "have their SMS sent by", connectors.sms if sends["sms"] else "", _When.PLACED)

    # Messages

    def _rule(self, moment: Moment, by: Way) -> MessageRule | None:
        recipient = self._order.customer.email if by == "email" else self._order.customer.phone
        if not recipient:
            return None
        if moment is Moment.HELD:
            scenario = self._held
        elif moment in (Moment.REMINDER, Moment.OVERDUE):
            scenario = self._placed
        else:
            scenario = self._of(message_step(moment, "email"))
        return scenario.message(moment, by)

    def _messages(self, moment: Moment, when: _When, *, there: bool = True, paid: bool = False, more: str = "") -> None:
        """Say which messages go out at a moment, if it is there; paid says that none goes that asks for money."""
        for by, called in _CALLED.items():
            rule = self._rule(moment, by) if there else None
            if rule and paid and rule.template in (Template.PROFORMA, Template.PAYMENT_REMINDER):
                rule = None
            named = f"the {called} “{rule.template.replace('_', ' ')}”{more}" if rule else _NOTHING_FOR[by]
            text = self._text(rule.template, by) if rule else None
            self.found[f"{called} {moment}"] = _Answer("get", named, when, _MOMENTS[moment], text)

    def _text(self, template: Template, by: Way) -> tuple[str, ...]:
        """Return the channel's own wording of a message; what is empty is taken from the files."""
        texts: Mapping[str, MessageText] = {
            str(name): text for name, text in self._own.templates.get(template, {}).items()
        }
        own = [texts[name].model_dump() for name in (self._language, "any") if name in texts]
        return tuple(next((str(text[part]) for text in own if text[part]), "") for part in _LETTER[by])

    # Held money, and money that went back

    def _hold(self) -> None:
        rules = self._own.holds
        by = "at once" if rules.capture == "at_once" else "by an operator"
        self._say("capture", "have their money captured", by, _When.HELD)
        self._messages(Moment.HELD, _When.HELD)
        hours = counted(rules.warn_hours, "hour")
        self._say("hold warning", "have a person warned", hours, _When.HELD, " before their hold expires")
        ends = {"ask": "left to a person", "capture": "captured", "release": "released"}[rules.at_expiry]
        when = "" if rules.at_expiry == "ask" else f" {counted(rules.act_hours, 'hour')} before it expires"
        self._say("hold at expiry", "have money that nobody decided about", f"{ends}{when}", _When.HELD)
        after = f"“{rules.released_status}”" if rules.released_status else "that they have"
        self._say("status after release", "get the status", after, _When.HELD, " once their money is released")
        receipt = "a fiscal receipt" if rules.receipt else "no fiscal receipt"
        self._say("fiscal receipt", "get", receipt, _When.HELD, " with the capture")
        second = {"never": "no second receipt"}.get(rules.second_receipt, "a second receipt")
        when = "" if rules.second_receipt == "never" else f" once they are {rules.second_receipt}"
        self._say("second receipt", "get", f"{second}{when}", _When.HELD)

    def _money_back(self, kind: Kind) -> None:
        rule = self._own.money_back.of(kind)
        for decision, verb, does, yes, no in (
            ("stop", "have what is not done yet", rule.stop, "stopped", "carried on"),
            ("cancel dispatch", "have their label", rule.cancel_dispatch, "cancelled", "left as it is"),
            ("restock", "have their goods", rule.restock, "put back in stock", "left out of stock"),
            ("credit note", "get", rule.credit_note, "a credit note", "no credit note"),
            ("tell the operator", "be", rule.tell_operator, "shown to a person", "shown to nobody"),
        ):
            self._say(decision, verb, yes if does else no, _When.BACK, " when their money goes back")
        status = f"“{rule.status}”" if rule.status else "that they have"
        self._say("status back", "get the status", status, _When.BACK, " when their money goes back")


# Old and new rules side by side


class Narrowed:
    """A channel's rules as they hold for each customer; most customers have none of their own."""

    def __init__(self, rules: ChannelRules) -> None:
        self._rules = rules
        self._made: dict[tuple[str | None, str | None], ChannelRules] = {}

    def of(self, order: Order) -> ChannelRules:
        """Return the rules that hold for an order's customer."""
        return self.of_customer(order.customer.group, order.customer.number)

    def of_customer(self, group: str | None, number: str | None) -> ChannelRules:
        """Return the rules that hold for a customer of a group."""
        key = (group if group in self._rules.groups else None, number if number in self._rules.customers else None)
        if key not in self._made:
            self._made[key] = self._rules.for_customer(group=group, customer=number)
        return self._made[key]


def _begin_all(
    pasts: Sequence[PastOrder], moves: Mapping[int, Sequence[BalanceMove]], narrowed: Narrowed
) -> dict[int, _Begun]:
    by_customer: dict[int, list[PastOrder]] = defaultdict(list)
    for past in pasts:
        by_customer[past.order.customer.id].append(past)
    found: dict[int, _Begun] = {}
    for customer, his in by_customer.items():
        found |= _Customer(narrowed.of(his[0].order)).begin(his, moves.get(customer, ()))
    return found


def preview_orders(
    pasts: Sequence[PastOrder],
    moves: Mapping[int, Sequence[BalanceMove]],
    old: ChannelRules,
    new: ChannelRules,
    *,
    now: datetime,
    advance: Callable[[], object] = lambda: None,
) -> list[Difference]:
    """Return what new rules would have made otherwise of orders; moves are of customers' balances, by their ids."""
    sides = [Narrowed(old), Narrowed(new)]
    begun = [_begin_all(pasts, moves, side) for side in sides]
    found: list[Difference] = []
    for past in pasts:
        order = past.order
        before, after = (
            _Answers(past, side.of(order), begins[order.id], now) for side, begins in zip(sides, begun, strict=True)
        )
        found += _differences(past, before, after)
        advance()
    return found


def _differences(past: PastOrder, before: _Answers, after: _Answers) -> Iterable[Difference]:
    paid = before.paid or after.paid
    never = {_When.PAID} if not paid and past.order.standard_status in CLOSED else set[_When]()
    for decision, was in before.found.items():
        becomes = after.found.get(decision)
        if becomes is None or not was.value or not becomes.value or {was.when, becomes.when} <= never:
            continue
        to_come = not paid and {was.when, becomes.when} == {_When.PAID}
        one = _difference(past.order.number, decision, was, becomes, to_come=to_come)
        if one is not None:
            yield one


def _difference(name: str, decision: str, was: _Answer, becomes: _Answer, *, to_come: bool) -> Difference | None:
    if was.value != becomes.value:
        now, then = was.value, becomes.value
        kind = f"{becomes.verb} {then} instead of {now}{becomes.at}"
    elif was.text != becomes.text:
        now, then = f"{was.value} as it is written now", "another text"
        kind = f"{becomes.verb} {was.value} with another text{becomes.at}"
    else:
        return None
    return Difference(
        subject=Subject.ORDER, name=name, decision=decision, now=now, then=then, kind=kind, to_come=to_come
    )


# What can't be previewed

_UNSEEN = (
    ("What stands in documents and messages would differ", ("title", "seller", "statuses")),
    ("Documents would be numbered otherwise", ("series",)),
    ("What a shop, a CRM or a carrier makes of an order's status would differ", ("follows",)),
    ("Other statuses given elsewhere would capture or release held money", ("holds.capture_on", "holds.release_on")),
    ("Another system would be the warehouse", ("connectors.warehouse",)),
)


def unseen(old: ChannelRules, new: ChannelRules) -> Iterator[str]:
    """Yield in sentences what differs between rules and can't be tried on the past."""
    before, after = _documents(old), _documents(new)
    for said, fields in _UNSEEN:
        changed = [name for name in fields if _every(before, name) != _every(after, name)]
        if changed:
            yield f"{said} ({listed(changed)}), which is not previewed."


def _documents(rules: ChannelRules) -> dict[str, dict[str, Any]]:
    """Return a channel's document, and what differs in it for groups and customers."""
    parts = {f"group {name}": part for name, part in rules.groups.items()}
    parts |= {f"customer {name}": part for name, part in rules.customers.items()}
    return {"": rules.model_dump(mode="json"), **parts}


def _every(documents: Mapping[str, dict[str, Any]], field: str) -> dict[str, Any]:
    """Return what documents say of a field, such as holds.capture_on; those that are silent are left out."""
    found: dict[str, Any] = {}
    for name, document in documents.items():
        value: Any = document
        for key in field.split("."):
            value = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
        if value is not None:
            found[name] = value
    return found
