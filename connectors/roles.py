"""The roles a connector can play; playing one is opting in to it. Everything a role speaks is defined here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol, runtime_checkable

from domain.documents import Document
from domain.money import Money
from domain.orders import Address
from domain.payments import IncomingPayment, StatementFile
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


class BadSignature(Exception):
    """A webhook that was not signed as the provider signs, or is too old; its text says which, without secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvent:
    """What a verified webhook is: the provider's id, which is unique, and the kind of event."""

    external_id: str
    kind: str


@runtime_checkable
class WebhookReader(Protocol):
    """Verifies webhooks, and turns a stored one into payments by asking the provider for the truth."""

    def verify(self, headers: Mapping[str, str], body: bytes, *, now: datetime) -> WebhookEvent:
        """Return what the webhook is, or raise BadSignature. Header names are in lower case."""
        ...

    async def truth(self, body: bytes) -> list[IncomingPayment]:
        """Ask the provider's API what a stored webhook's object really is, and return the payments it makes.

        An event that makes no payment returns an empty list. Raises Transient, Rejected or Misconfigured.
        """
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a polled source: raw events as (external id, body), and the cursor to go on from."""

    events: tuple[tuple[str, bytes], ...]
    cursor: str
    more: bool


@runtime_checkable
class PaymentSource(Protocol):
    """A source that can be polled for what its webhooks missed."""

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return the events after a cursor, whose shape is the connector's own; None means from the start."""
        ...


@runtime_checkable
class PaysOut(Protocol):
    """A gateway that pays out lump sums: how the movements on a bank statement are known to be its own."""

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
    own webhooks would have been: what WebhookReader.truth is asked about when the line is no payment that we know.
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
    """A gateway that can be polled for the reports of its payouts. It plays PaysOut and WebhookReader too."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Consignment:
    """What a carrier is asked to take. collect is the amount to collect on delivery, if any."""

    order_number: str
    sender: Seller
    recipient: Address
    phone: str | None
    collect: Money | None
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

    def print(self, document: Document) -> bytes:
        """Return the PDF; pure and slow, so it is called in a thread."""
        ...


@runtime_checkable
class Checked(Protocol):
    """Every connector that reaches outside can say whether it works."""

    async def check(self) -> str:
        """Return a sentence saying what was reached, or raise one of the three errors."""
        ...
