"""The roles a connector can play; playing one is opting in to it. Everything a role speaks is defined here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, ClassVar, Protocol, runtime_checkable

from domain.changes import StatusChange
from domain.documents import Document
from domain.fiscal import FiscalReceipt, Registered
from domain.holds import Hold
from domain.money import Money
from domain.order_document import OrderDocument
from domain.orders import Address, Order
from domain.payments import IncomingPayment, Method, StatementFile
from domain.payouts import Payout
from domain.reconciliation import ListedDocument, ListedOrder, Transaction
from domain.rules import Seller


@runtime_checkable
class StatementReader(Protocol):
    """Reads one format of statement or remittance file."""

    def recognises(self, data: bytes, name: str) -> bool:
        """Say whether a file looks like this format, from its first bytes and its name."""
        ...

    def read(self, data: bytes, name: str) -> StatementFile:
        """Read a whole file. Never raises for bad content: what can't be taken is listed as refused."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What a source tells that can't vouch for it: another connector is to ask its gateway about a reference.

    external_id is the hint's own, by which it is known again; connector is a name in kvit.yaml.
    """

    connector: str
    reference: str
    external_id: str


Told = IncomingPayment | Hold | OrderDocument | StatusChange | Hint
"""What an event can turn out to mean."""


class BadSignature(Exception):
    """A webhook that was not signed as the provider signs, or is too old; its text says which, without secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a webhook came from: the sender's IP address, and the secret that stood in the address it was sent to.

    Both are for systems that sign nothing: their webhooks are sent to /webhooks/NAME/TOKEN. Either may be empty.
    """

    address: str = ""
    token: str = ""


NOWHERE = Origin()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvent:
    """What a verified webhook is: the provider's id, which is unique, and the kind of event.

    Where the provider gives events no id, external_id is made of what makes one change different from the next. kept is
    False for what says nothing, such as a provider's trial of the address; it is answered and not stored.
    """

    external_id: str
    kind: str
    kept: bool = True


@runtime_checkable
class WebhookReader(Protocol):
    """Verifies webhooks, and turns a stored one into what it means by asking the provider for the truth."""

    def verify(
        self, headers: Mapping[str, str], body: bytes, *, now: datetime, origin: Origin = NOWHERE
    ) -> WebhookEvent:
        """Return what the webhook is, or raise BadSignature. Header names are in lower case."""
        ...

    async def truth(self, body: bytes) -> Sequence[Told]:
        """Ask the provider's API what a stored event's object really is now, and return what that means here.

        The event came as a webhook or was polled by PaymentSource. One that means nothing returns an empty list. Asked
        again it returns the same payments by the same ids. Raises Transient, Rejected or Misconfigured.
        """
        ...


class NoWebhooks:
    """What a reader is whose system sends no webhooks: no_webhooks says so, and what is done instead."""

    no_webhooks: ClassVar[str]

    def verify(
        self, headers: Mapping[str, str], body: bytes, *, now: datetime, origin: Origin = NOWHERE
    ) -> WebhookEvent:
        """Refuse every webhook."""
        del headers, body, now, origin
        raise BadSignature(self.no_webhooks)


@runtime_checkable
class AnswersWebhooks(Protocol):
    """A reader of webhooks whose provider waits for a certain answer, and repeats the webhook until it gets it."""

    def answer(self, body: bytes, *, now: datetime) -> tuple[str, bytes]:
        """Return content type and body of the answer to a webhook that was verified and stored."""
        ...


@runtime_checkable
class TakesHints(Protocol):
    """A gateway's connector that can be asked about a reference somebody else has told of."""

    def question(self, reference: str) -> bytes:
        """Return an event that truth can be asked about, for a payment's or an order's reference at the gateway."""
        ...


@runtime_checkable
class Announces(Protocol):
    """A polled source that can say when it is worth polling."""

    async def news(self) -> None:
        """Return when there may be something new; raises Transient or Misconfigured when it can't be told."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a polled source: raw events as (external id, body), and the cursor to go on from."""

    events: tuple[tuple[str, bytes], ...]
    cursor: str
    more: bool


@runtime_checkable
class PaymentSource(Protocol):
    """A source that can be polled for what its webhooks missed, whatever these tell: payments, orders, statuses.

    Its events are stored, each external id once, and WebhookReader.truth says later what each means; so it plays that
    role too. An object that changes is a new event each time, with an id that says so.
    """

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return the events after a cursor, whose shape is the connector's own; None means from the start.

        What was returned before may come again. Raises Transient, Rejected or Misconfigured.
        """
        ...


@runtime_checkable
class Gateway(Protocol):
    """A gateway that holds authorized money until it is captured or released, and gives money back."""

    async def hold(self, reference: str) -> tuple[Hold, Sequence[IncomingPayment]]:
        """Return what authorized money has come to now, and the payments made of it, as truth tells them.

        Raises Transient, Rejected (also where the gateway knows no such money) or Misconfigured.
        """
        ...

    async def capture(self, hold: Hold, amount: Money, key: str, *, receipt: FiscalReceipt | None) -> None:
        """Take an amount of held money, at most what is held; the rest goes back to the payer.

        Asked again with the same key it takes nothing more. receipt is for gateways that register one. Raises Transient
        (in doubt when it may have been taken: then `hold` tells), Rejected or Misconfigured.
        """
        ...

    async def release(self, hold: Hold, key: str) -> None:
        """Give all held money back; of what is released already it changes nothing. Raises as capture does."""
        ...

    async def refund(
        self, payment: IncomingPayment, amount: Money, key: str, *, because: str, receipt: FiscalReceipt | None
    ) -> str:
        """Give an amount of a payment back, once per key, and return the gateway's reference of the refund.

        Raises Transient (in doubt when it may have been given), Rejected or Misconfigured.
        """
        ...


@runtime_checkable
class SecondReceipts(Protocol):
    """A gateway that has a second fiscal receipt registered once goods that were paid before are handed over."""

    @property
    def transaction_source(self) -> str:
        """The source of the payments that it does this for."""
        ...

    async def handed_over(self, reference: str) -> Registered | None:
        """Return the second receipt of a payment, or None where nobody has asked for one.

        Raises Transient (also while it isn't decided whether one is registered), Rejected or Misconfigured.
        """
        ...

    async def hand_over(self, reference: str, key: str, *, email: str | None, phone: str | None) -> Registered | None:
        """Have the second receipt of a payment registered, once, over what was not refunded; None where none is.

        email and phone are the customer's, one of whom is needed. Raises Transient (in doubt when it may have been
        taken on: then `handed_over` tells), Rejected (also where the first receipt leaves no room for it) or
        Misconfigured.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Income:
    """A payment of an order as other systems are told of it; reference is ours, unique and the same each time."""

    reference: str
    amount: Money
    booked_on: date
    method: Method
    provider_reference: str | None = None


@runtime_checkable
class Shop(Protocol):
    """A shop system that is told what became of its orders. Orders are named by external_id, else by number."""

    async def set_status(self, order: Order, status: str, key: str) -> str:
        """Bring the shop's order to one of the shop's statuses and return a reference; again changes nothing.

        Raises Transient, Rejected (no such order or status) or Misconfigured.
        """
        ...

    async def add_note(self, order: Order, text: str, key: str, *, to_customer: bool) -> str:
        """Add a note to an order, which the customer gets too where to_customer says so, and return its reference.

        Once per key, as far as find_note tells. Raises as set_status does.
        """
        ...

    async def find_note(self, order: Order, text: str, key: str) -> str | None:
        """Return the reference of the note that was added with a key, or None if there certainly is none."""
        ...


@runtime_checkable
class Crm(Protocol):
    """A CRM or task system in which each order has a card, found by the order's number."""

    async def tell(self, order: Order, status: str | None, key: str) -> str:
        """Bring the order's card up to date: status, to pay, paid, difference; return the card's reference.

        The card is made where the connector makes cards and there is none. status is one of the system's own, None to
        leave it. Saying the same again changes nothing. Raises Transient, Rejected or Misconfigured.
        """
        ...

    async def add_income(self, order: Order, income: Income, key: str) -> str:
        """Note a payment on the order's card, once per income as far as find_income tells; return its reference.

        Where the system keeps no incomes it returns an empty text.
        """
        ...

    async def find_income(self, order: Order, income: Income, key: str) -> str | None:
        """Return the reference of an income that was noted, or None if it certainly was not."""
        ...


@runtime_checkable
class PaysOut(Protocol):
    """A gateway or carrier that pays out lump sums: how the movements on a bank statement are known to be its own."""

    @property
    def payout_source(self) -> str:
        """The source of its payments, which is that of its payouts."""
        ...

    @property
    def payout_payers(self) -> Sequence[str]:
        """Names and accounts of the payer that the bank writes; nothing else may come from there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutReport:
    """A payout as a gateway's API tells it: body is what is kept of it, payout what it was read as.

    payout is None when it can't be taken; refused then says why. hints are, by the line's id, events as the gateway's
    own webhooks would have been: what WebhookReader.truth is asked about when the line is no payment that we know;
    none are needed where it is polled for its payments too.
    """

    external_id: str
    body: bytes
    payout: Payout | None
    refused: str = ""
    hints: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


@dataclass(frozen=True, slots=True)
class PayoutPage:
    """Some payouts of a polled source, the oldest first, and the cursor to go on from."""

    reports: tuple[PayoutReport, ...]
    cursor: str
    more: bool


@runtime_checkable
class PayoutSource(Protocol):
    """A gateway or carrier that is polled for the reports of its payouts. It plays PaysOut and WebhookReader too."""

    async def payouts(self, cursor: str | None, *, now: datetime) -> PayoutPage:
        """Return the payouts after a cursor, whose shape is the connector's own; None means from the start.

        One that was returned before may come again. Raises Transient, Rejected or Misconfigured.
        """
        ...


@runtime_checkable
class TransactionSource(Protocol):
    """A gateway that lists every movement of money that it knows of, for reconciliation to compare with ours."""

    @property
    def transaction_source(self) -> str:
        """The source under which its payments are stored."""
        ...

    def transactions(self, since: datetime) -> AsyncIterator[Sequence[Transaction]]:
        """Yield, page by page in any order, what began at a time or later; of that nothing may be left out.

        Raises Transient, Rejected or Misconfigured.
        """
        ...


@runtime_checkable
class DocumentSource(Protocol):
    """An accounting system that lists its documents, for reconciliation to compare with ours."""

    def documents(self, since: date) -> AsyncIterator[Sequence[ListedDocument]]:
        """Yield, page by page in any order, what was issued on a day or later."""
        ...


@runtime_checkable
class OrderSource(Protocol):
    """A shop that lists its orders, for reconciliation to compare with ours."""

    def orders(self, since: datetime) -> AsyncIterator[Sequence[ListedOrder]]:
        """Yield, page by page in any order, what was placed at a time or later, of every channel that it sells for."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file sent with a message."""

    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A rendered message to one customer. message_id is deterministic, so that a repeat is recognisable."""

    message_id: str
    sender: str
    sender_name: str
    recipient: str
    subject: str
    text: str
    html: str
    language: str
    date: datetime
    attachments: tuple[Attachment, ...] = ()


@runtime_checkable
class Messenger(Protocol):
    """Sends messages to customers."""

    can_look_up: bool

    async def send(self, message: OutgoingMessage) -> str:
        """Send a message and return a reference to it. Raises Transient, Rejected or Misconfigured."""
        ...

    async def find(self, message_id: str) -> str | None:
        """Return the reference of a message already sent, or None if it certainly was not.

        Called only where can_look_up is true.
        """
        ...


@runtime_checkable
class RefusesRepeats(Protocol):
    """A messenger whose system refuses a second message of one message_id for some time after the first.

    Within it a message that may have been sent is simply sent again: `send` then returns a reference, and the customer
    gets one message.
    """

    refuses_repeats_for: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Consignment:
    """What a carrier is asked to take. collect is the amount to collect on delivery, if any.

    only_delivery says that it is the price of the delivery alone, because the goods are paid.
    """

    order_number: str
    sender: Seller
    recipient: Address
    phone: str | None
    collect: Money | None
    only_delivery: bool = False
    parcels: int = 1
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """A consignment that the carrier has taken on; label is the path of its file relative to KVIT_HOME."""

    tracking_number: str
    label: str | None = None


@runtime_checkable
class Carrier(Protocol):
    """Takes consignments and gives labels."""

    async def create(self, consignment: Consignment, key: str) -> Shipment:
        """Order a consignment, once per key. Raises Transient, Rejected or Misconfigured."""
        ...

    async def find(self, consignment: Consignment, key: str) -> Shipment | None:
        """Return the consignment ordered with a key, or None if there certainly is none."""
        ...

    async def cancel(self, tracking_number: str, key: str) -> None:
        """Cancel a consignment that was not handed over; cancelling a cancelled one is no error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedDocument:
    """A document that an outside accounting system issued."""

    number: str
    detail: dict[str, Any] = field(default_factory=dict[str, Any])


@runtime_checkable
class Accounting(Protocol):
    """An outside accounting system that issues and numbers documents itself."""

    async def issue(self, document: Document, key: str) -> IssuedDocument:
        """Issue a document once per key; the number in it is ours and may be ignored."""
        ...

    async def find(self, document: Document, key: str) -> IssuedDocument | None:
        """Return the document issued with a key, or None if there certainly is none."""
        ...


@runtime_checkable
class DocumentPrinter(Protocol):
    """Turns a document into a PDF file."""

    async def print(self, document: Document) -> bytes:
        """Return the PDF; pure, and done where it doesn't hold the event loop up. May raise Transient."""
        ...


@runtime_checkable
class Checked(Protocol):
    """Every connector that reaches outside can say whether it works."""

    async def check(self) -> str:
        """Return a sentence saying what was reached, or raise one of the three errors."""
        ...
