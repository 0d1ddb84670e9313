"""Systems that stand beside the shop in tests: a safe that holds money, a shop and a board of cards; each records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from connectors.errors import Rejected, Transient
from connectors.roles import NOWHERE, BadSignature, Income, Origin, Told, WebhookEvent
from domain.fiscal import FiscalReceipt, Registered
from domain.holds import Hold, HoldState
from domain.money import Money
from domain.orders import Order
from domain.payments import IncomingPayment, Method


class Saying:
    """A source whose webhooks mean what a test says that they mean, by their body."""

    def __init__(self) -> None:
        self.says: dict[bytes, list[Told]] = {}

    def verify(
        self, headers: Mapping[str, str], body: bytes, *, now: datetime, origin: Origin = NOWHERE
    ) -> WebhookEvent:
        """Refuse everything: these are handed over."""
        raise BadSignature(f"{len(headers)} {len(body)} {now} {origin.address}")

    async def truth(self, body: bytes) -> Sequence[Told]:
        """Return what the test said."""
        return self.says[body]


class Safe(Saying):
    """A gateway that holds money. lose says how many answers get lost, after what was asked was done."""

    def __init__(self) -> None:
        super().__init__()
        self.holds: dict[str, Hold] = {}
        self.acts: list[tuple[str, str, str]] = []
        """What was done: act, reference and amount."""
        self.receipts: list[FiscalReceipt | None] = []
        self.refunded: set[str] = set()
        self.lose = 0

    @property
    def transaction_source(self) -> str:
        """The source of what is paid here."""
        return "safe:safe"

    def holding(self, reference: str, number: str | None, amount: str, expires_at: datetime | None = None) -> Hold:
        """Authorize money."""
        money = Money.parse(amount, "CZK")
        made = Hold(
            source="safe:safe",
            reference=reference,
            amount=money,
            captured=Money.zero("CZK"),
            state=HoldState.HELD,
            order_reference=number,
            expires_at=expires_at,
        )
        self.holds[reference] = made
        return made

    def expire(self, reference: str) -> None:
        """Give money back because nobody took it in time."""
        self.holds[reference] = replace(self.holds[reference], state=HoldState.EXPIRED)

    async def hold(self, reference: str) -> tuple[Hold, Sequence[IncomingPayment]]:
        """Tell how money stands."""
        held = self.holds[reference]
        paid = IncomingPayment(
            source="safe:safe",
            external_id=reference,
            method=Method.CARD,
            amount=held.captured,
            booked_on=datetime(2026, 11, 23).date(),  # noqa: DTZ001 - a day
            provider_reference=reference,
            order_reference=held.order_reference,
        )
        return held, [paid] if held.captured else []

    async def capture(self, hold: Hold, amount: Money, key: str, *, receipt: FiscalReceipt | None) -> None:
        """Take money."""
        if self.holds[hold.reference].state is not HoldState.HELD or amount > hold.amount:
            raise Rejected(f"safe: {amount} can't be taken ({key[:1]})")
        self.holds[hold.reference] = replace(hold, state=HoldState.CAPTURED, captured=amount)
        self.receipts.append(receipt)
        self._did("capture", hold.reference, amount)

    async def release(self, hold: Hold, key: str) -> None:
        """Give money back."""
        if self.holds[hold.reference].state is not HoldState.HELD:
            raise Rejected(f"safe: not held ({key[:1]})")
        self.holds[hold.reference] = replace(hold, state=HoldState.RELEASED)
        self._did("release", hold.reference, hold.amount)

    async def refund(
        self, payment: IncomingPayment, amount: Money, key: str, *, because: str, receipt: FiscalReceipt | None
    ) -> str:
        """Give nothing back; nothing here asks for it."""
        raise NotImplementedError(f"{payment} {amount} {key} {because} {receipt}")

    async def handed_over(self, reference: str) -> Registered | None:
        """Tell whether a second receipt was asked for."""
        asked = ("receipt", reference, str(self.holds[reference].captured)) in self.acts
        return Registered(reference=f"rt-{reference}", amount=self.holds[reference].captured) if asked else None

    async def hand_over(self, reference: str, key: str, *, email: str | None, phone: str | None) -> Registered | None:
        """Take a second receipt on, as often as it is asked for."""
        if not (key and (email or phone)):
            raise Rejected("safe: nobody to send it to")
        if reference in self.refunded:
            return None
        self._did("receipt", reference, self.holds[reference].captured)
        return await self.handed_over(reference)

    def _did(self, what: str, reference: str, amount: Money) -> None:
        self.acts.append((what, reference, str(amount)))
        if self.lose:
            self.lose -= 1
            raise Transient("safe: no answer", in_doubt=True)


class Board(Saying):
    """A CRM: a card for each order. lose says how many answers get lost, after what was asked was done."""

    def __init__(self) -> None:
        super().__init__()
        self.cards: dict[str, dict[str, Any]] = {}
        self.incomes: list[tuple[str, str, str]] = []
        """Order, reference and amount of each income that was noted."""
        self.told = 0
        self.lose = 0
        self.down = False

    async def tell(self, order: Order, status: str | None, key: str) -> str:
        """Write a card anew."""
        self._reached(key)
        card = self.cards.setdefault(order.number, {})
        card |= {"to_pay": str(order.to_pay), "paid": str(order.paid)} | ({"status": status} if status else {})
        self.told += 1
        self._answers()
        return f"card {order.number}"

    async def add_income(self, order: Order, income: Income, key: str) -> str:
        """Note an income, once."""
        self._reached(key)
        noted = (order.number, income.reference, str(income.amount))
        if noted not in self.incomes:
            self.incomes.append(noted)
        self._answers()
        return income.reference

    async def find_income(self, order: Order, income: Income, key: str) -> str | None:
        """Look for an income."""
        self._reached(key)
        known = [reference for number, reference, _ in self.incomes if number == order.number]
        return income.reference if income.reference in known else None

    def _reached(self, key: str) -> None:
        if self.down:
            raise Transient(f"board: no connection ({len(key)})")

    def _answers(self) -> None:
        if self.lose:
            self.lose -= 1
            raise Transient("board: no answer", in_doubt=True)


class Stall(Saying):
    """A shop that is told statuses and keeps notes."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: dict[str, str] = {}
        self.notes: dict[str, tuple[str, str, bool]] = {}
        """By key: order, text, and whether the customer gets it."""

    async def set_status(self, order: Order, status: str, key: str) -> str:
        """Set a status."""
        if not key:
            raise Rejected("stall: no key")
        self.statuses[order.external_id or order.number] = status
        return order.external_id or order.number

    async def add_note(self, order: Order, text: str, key: str, *, to_customer: bool) -> str:
        """Add a note."""
        self.notes[key] = (order.number, text, to_customer)
        return f"note {len(self.notes)}"

    async def find_note(self, order: Order, text: str, key: str) -> str | None:
        """Look for a note."""
        return "note" if self.notes.get(key, ("", "", False))[:2] == (order.number, text) else None
