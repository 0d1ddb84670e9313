"""The tables of the way of a payment. Queries live beside this file, one module per noun."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

# SQLite numbers rows by itself only in a column declared INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")
_Json = JSON().with_variant(JSONB(), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, aware and in UTC on both sides; SQLite stores it without a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse a moment without a zone: it would be read back as another one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone can't be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give back what was stored, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of every table; names of constraints are fixed, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as it stands
        datetime: UtcDateTime(),
        dict[str, Any]: _Json,
        list[Any]: _Json,
        bytes: LargeBinary(),
    }


def _id() -> Mapped[int]:
    return mapped_column(_Id, primary_key=True, autoincrement=True)


def _to(column: str, *, nullable: bool = False, index: bool = False) -> Any:
    return mapped_column(_Id, ForeignKey(column), nullable=nullable, index=index)


class RuleVersion(Table):
    """One version of a channel's document; the newest is in force."""

    __tablename__ = "rule_versions"
    __table_args__ = (UniqueConstraint("channel", "version"),)

    id: Mapped[int] = _id()
    channel: Mapped[str] = mapped_column(String(40))
    version: Mapped[int]
    document: Mapped[dict[str, Any]]
    author: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    run: Mapped[str | None] = mapped_column(String(80))
    created_at: Mapped[datetime]


class CustomerRow(Table):
    """Who buys in a channel; number is the channel's own."""

    __tablename__ = "customers"
    __table_args__ = (UniqueConstraint("channel", "number"), Index("ix_customers_channel_group", "channel", "group"))

    id: Mapped[int] = _id()
    channel: Mapped[str] = mapped_column(String(40))
    number: Mapped[str] = mapped_column(String(80))
    name: Mapped[str] = mapped_column(Text)
    email: Mapped[str | None] = mapped_column(Text)
    phone: Mapped[str | None] = mapped_column(Text)
    language: Mapped[str | None] = mapped_column(String(2))
    group: Mapped[str | None] = mapped_column(String(80))
    tax_id: Mapped[str | None] = mapped_column(String(40))
    address: Mapped[dict[str, Any]]


class OrderRow(Table):
    """An order; status is the channel's own word, standard_status what it means.

    reserved_until is the last day of one that waits for its money, due_on that of one on credit; extended counts how
    often a person has put that day off. held_out says who holds it out of automation, and why. on_delivery_minor is
    what of the total is paid on delivery, where the rest is paid before: the delivery's price alone.
    """

    __tablename__ = "orders"
    __table_args__ = (
        UniqueConstraint("channel", "number"),
        Index("ix_orders_number", "number"),
        Index("ix_orders_channel_placed_at", "channel", "placed_at"),
        Index("ix_orders_channel_external_id", "channel", "external_id"),
    )

    id: Mapped[int] = _id()
    channel: Mapped[str] = mapped_column(String(40))
    number: Mapped[str] = mapped_column(String(80))
    customer_id: Mapped[int] = _to("customers.id", index=True)
    method: Mapped[str] = mapped_column(String(20))
    status: Mapped[str] = mapped_column(String(40))
    standard_status: Mapped[str] = mapped_column(String(20))
    currency: Mapped[str] = mapped_column(String(3))
    total_minor: Mapped[int] = mapped_column(BigInteger)
    variable_symbol: Mapped[str | None] = mapped_column(String(10))
    rf: Mapped[str | None] = mapped_column(String(25))
    delivery_method: Mapped[str | None] = mapped_column(String(80))
    delivery_address: Mapped[dict[str, Any]]
    placed_at: Mapped[datetime]
    external_id: Mapped[str | None] = mapped_column(String(80))
    due_on: Mapped[date | None]
    reserved_until: Mapped[datetime | None]
    extended: Mapped[int] = mapped_column(default=0)
    held_out: Mapped[str | None] = mapped_column(Text)
    on_delivery_minor: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class OrderLineRow(Table):
    """A line of an order, gross; vat_rate is a decimal in per cent, as text."""

    __tablename__ = "order_lines"

    id: Mapped[int] = _id()
    order_id: Mapped[int] = _to("orders.id", index=True)
    position: Mapped[int]
    sku: Mapped[str | None] = mapped_column(String(80))
    title: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int]
    unit_price_minor: Mapped[int] = mapped_column(BigInteger)
    vat_rate: Mapped[str] = mapped_column(String(8))


class StatusHistory(Table):
    """Every status an order ever had, append-only."""

    __tablename__ = "status_history"

    id: Mapped[int] = _id()
    order_id: Mapped[int] = _to("orders.id", index=True)
    before: Mapped[str | None] = mapped_column(String(40))
    after: Mapped[str] = mapped_column(String(40))
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(String(200))
    effect_id: Mapped[int | None] = _to("effects.id", nullable=True, index=True)
    at: Mapped[datetime]


class OpenItemRow(Table):
    """Something a payment can settle: an order, or an invoice without one, which number names."""

    __tablename__ = "open_items"
    __table_args__ = (UniqueConstraint("order_id"), Index("ix_open_items_customer_id", "customer_id", "id"))

    id: Mapped[int] = _id()
    order_id: Mapped[int | None] = _to("orders.id", nullable=True)
    customer_id: Mapped[int] = _to("customers.id")
    channel: Mapped[str] = mapped_column(String(40))
    currency: Mapped[str] = mapped_column(String(3))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[str | None] = mapped_column(String(60))
    cancelled_at: Mapped[datetime | None]


class ReferenceRow(Table):
    """A way of naming an open item, normalised; matching finds candidates here."""

    __tablename__ = "item_references"
    __table_args__ = (
        UniqueConstraint("open_item_id", "kind", "value"),
        Index("ix_item_references_kind_value", "kind", "value", "open_item_id"),
    )

    id: Mapped[int] = _id()
    open_item_id: Mapped[int] = _to("open_items.id")
    kind: Mapped[str] = mapped_column(String(24))
    value: Mapped[str] = mapped_column(String(200))


class PayerAccount(Table):
    """An account known to belong to a customer; one seen with two customers proves nothing.

    payment_id is the payment that taught it, empty where the shop told it: what was taught counts as long as that
    payment settles something of the customer.
    """

    __tablename__ = "payer_accounts"
    __table_args__ = (UniqueConstraint("account", "customer_id"),)

    id: Mapped[int] = _id()
    account: Mapped[str] = mapped_column(String(64))
    customer_id: Mapped[int] = _to("customers.id", index=True)
    payment_id: Mapped[int | None] = _to("payments.id", nullable=True, index=True)


class InboxRow(Table):
    """What came from outside, raw, once per (source, external id); stored before it is answered."""

    __tablename__ = "inbox"
    __table_args__ = (
        UniqueConstraint("source", "external_id"),
        Index("ix_inbox_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )

    id: Mapped[int] = _id()
    source: Mapped[str] = mapped_column(String(80))
    external_id: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(80))
    body: Mapped[bytes]
    received_at: Mapped[datetime]
    handled_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None]
    problem: Mapped[str | None] = mapped_column(Text)


class PaymentRow(Table):
    """A payment and what it turned out to be; outcome is empty until it was matched for the first time.

    round counts how often it was set out to be matched anew: what a later round does is not what an earlier one did.
    """

    __tablename__ = "payments"
    __table_args__ = (
        UniqueConstraint("source", "external_id"),
        Index("ix_payments_outcome", "outcome"),
        Index("ix_payments_provider_reference", "provider_reference"),
    )

    id: Mapped[int] = _id()
    source: Mapped[str] = mapped_column(String(80))
    external_id: Mapped[str] = mapped_column(String(200))
    inbox_id: Mapped[int | None] = _to("inbox.id", nullable=True, index=True)
    method: Mapped[str] = mapped_column(String(20))
    kind: Mapped[str] = mapped_column(String(20), default="payment")
    currency: Mapped[str] = mapped_column(String(3))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    booked_on: Mapped[date]
    value_date: Mapped[date | None]
    account: Mapped[str | None] = mapped_column(Text)
    provider_reference: Mapped[str | None] = mapped_column(Text)
    end_to_end_id: Mapped[str | None] = mapped_column(Text)
    variable_symbol: Mapped[str | None] = mapped_column(String(40))
    rf: Mapped[str | None] = mapped_column(String(40))
    order_reference: Mapped[str | None] = mapped_column(Text)
    tracking_number: Mapped[str | None] = mapped_column(Text)
    payer_name: Mapped[str | None] = mapped_column(Text)
    payer_account: Mapped[str | None] = mapped_column(Text)
    text: Mapped[str | None] = mapped_column(Text)
    outcome: Mapped[str | None] = mapped_column(String(24))
    policy: Mapped[str | None] = mapped_column(String(24))
    reason: Mapped[str | None] = mapped_column(Text)
    candidates: Mapped[list[Any] | None]
    surplus_minor: Mapped[int] = mapped_column(BigInteger, default=0)
    round: Mapped[int] = mapped_column(default=1)
    received_at: Mapped[datetime]
    matched_at: Mapped[datetime | None]


class PaymentReference(Table):
    """What an unmatched payment names, so that a new order finds the payment that came before it."""

    __tablename__ = "payment_references"
    __table_args__ = (
        UniqueConstraint("payment_id", "kind", "value"),
        Index("ix_payment_references_kind_value", "kind", "value"),
    )

    id: Mapped[int] = _id()
    payment_id: Mapped[int] = _to("payments.id")
    kind: Mapped[str] = mapped_column(String(24))
    value: Mapped[str] = mapped_column(String(200))


class AllocationRow(Table):
    """A part of a payment that settles an open item; append-only, a reversal is a row of its own.

    write_off_minor is the difference let pass by tolerance: amount + write-off is what the item is relieved of.
    taken_minor is what it takes of the payment, in the payment's currency; empty where that is the item's.
    completes says that with this allocation the item was settled.
    """

    __tablename__ = "allocations"
    __table_args__ = (
        Index(
            "ix_allocations_reverses_id",
            "reverses_id",
            sqlite_where=text("reverses_id IS NOT NULL"),
            postgresql_where=text("reverses_id IS NOT NULL"),
        ),
        Index(
            "uq_allocations_live",
            "payment_id",
            "open_item_id",
            unique=True,
            sqlite_where=text("reverses_id IS NULL AND reversed = false"),
            postgresql_where=text("reverses_id IS NULL AND reversed = false"),
        ),
    )

    id: Mapped[int] = _id()
    payment_id: Mapped[int] = _to("payments.id", index=True)
    open_item_id: Mapped[int] = _to("open_items.id", index=True)
    order_id: Mapped[int | None] = _to("orders.id", nullable=True, index=True)
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    write_off_minor: Mapped[int] = mapped_column(BigInteger, default=0)
    taken_minor: Mapped[int | None] = mapped_column(BigInteger)
    completes: Mapped[bool] = mapped_column(default=False)
    evidence: Mapped[list[Any]]
    reverses_id: Mapped[int | None] = _to("allocations.id", nullable=True)
    reversed: Mapped[bool] = mapped_column(default=False)
    at: Mapped[datetime]


STANDING = (AllocationRow.reverses_id.is_(None), AllocationRow.reversed.is_(False))
"""What an allocation is that counts: it takes back no other, and none takes it back."""


class BalanceEntry(Table):
    """A movement of a customer's balance, append-only: credit is positive, and the balance is their sum.

    payment_id is the payment whose money, or surplus, it is; of money that pays an order it is the payment that this
    makes (source `balance`), and the entry is negative. open_item_id is the invoice without order that was paid. An
    entry taken back is marked, and the one that reverses it names it. reference is what a person
    knows money by that came by hand, which is taken once. released_at says when the top-up was used to pay orders that
    wait; empty where it isn't for that, or not yet.
    """

    __tablename__ = "balance_entries"
    __table_args__ = (
        Index(
            "uq_balance_entries_live",
            "payment_id",
            unique=True,
            sqlite_where=text("reverses_id IS NULL AND reversed = false AND open_item_id IS NULL"),
            postgresql_where=text("reverses_id IS NULL AND reversed = false AND open_item_id IS NULL"),
        ),
        UniqueConstraint("customer_id", "reference"),
        Index("ix_balance_entries_customer_id", "customer_id", "currency"),
    )

    id: Mapped[int] = _id()
    customer_id: Mapped[int] = _to("customers.id")
    currency: Mapped[str] = mapped_column(String(3))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    payment_id: Mapped[int | None] = _to("payments.id", nullable=True, index=True)
    open_item_id: Mapped[int | None] = _to("open_items.id", nullable=True, index=True)
    reverses_id: Mapped[int | None] = _to("balance_entries.id", nullable=True)
    reversed: Mapped[bool] = mapped_column(default=False)
    reference: Mapped[str | None] = mapped_column(String(80))
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime]
    released_at: Mapped[datetime | None]


class PayoutRow(Table):
    """A gateway's payout to the bank account, as its report tells it; net is what should arrive there.

    payment_id is the movement on the bank statement that it was found to be.
    """

    __tablename__ = "payouts"
    __table_args__ = (
        UniqueConstraint("source", "external_id"),
        Index("ix_payouts_payment_id", "payment_id", unique=True),
        Index("ix_payouts_net_minor", "currency", "net_minor"),
        Index("ix_payouts_paid_on", "paid_on"),
    )

    id: Mapped[int] = _id()
    source: Mapped[str] = mapped_column(String(80))
    external_id: Mapped[str] = mapped_column(String(200))
    inbox_id: Mapped[int | None] = _to("inbox.id", nullable=True, index=True)
    currency: Mapped[str] = mapped_column(String(3))
    gross_minor: Mapped[int] = mapped_column(BigInteger)
    fee_minor: Mapped[int] = mapped_column(BigInteger)
    net_minor: Mapped[int] = mapped_column(BigInteger)
    paid_on: Mapped[date]
    reference: Mapped[str | None] = mapped_column(Text)
    payment_id: Mapped[int | None] = _to("payments.id", nullable=True)
    received_at: Mapped[datetime]


class PayoutLine(Table):
    """One line of a payout's report; payment_id is the payment, refund or chargeback that it is, once that is known.

    It keeps that when the payment is archived, so it is no foreign key.
    """

    __tablename__ = "payout_lines"
    __table_args__ = (
        UniqueConstraint("payout_id", "external_id"),
        Index("ix_payout_lines_provider_reference", "provider_reference"),
        CheckConstraint("kind IN ('payment', 'refund', 'chargeback', 'reinstated', 'fee', 'other')", name="kind"),
    )

    id: Mapped[int] = _id()
    payout_id: Mapped[int] = _to("payouts.id")
    external_id: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(12))
    provider_reference: Mapped[str | None] = mapped_column(Text)
    order_reference: Mapped[str | None] = mapped_column(Text)
    gross_minor: Mapped[int] = mapped_column(BigInteger)
    fee_minor: Mapped[int] = mapped_column(BigInteger)
    net_minor: Mapped[int] = mapped_column(BigInteger)
    payment_id: Mapped[int | None] = mapped_column(_Id, index=True)


class WorkRow(Table):
    """What is due: a subject (a payment, an order or a revert) that its scenario must carry on.

    A row without due_at is finished for now. quiet means that nobody gets a message (a backfill). again means that it
    was made due once more while a worker held it.
    """

    __tablename__ = "work"
    __table_args__ = (
        UniqueConstraint("subject", "subject_id", "scenario"),
        Index("ix_work_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index(
            "ix_work_lease_owner",
            "lease_owner",
            sqlite_where=text("lease_owner IS NOT NULL"),
            postgresql_where=text("lease_owner IS NOT NULL"),
        ),
        CheckConstraint("subject IN ('payment', 'order', 'revert', 'hold', 'status', 'entry', 'hand')", name="subject"),
    )

    id: Mapped[int] = _id()
    scenario: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(10))
    subject_id: Mapped[int] = mapped_column(BigInteger)
    due_at: Mapped[datetime | None]
    again: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(default=0)
    quiet: Mapped[bool] = mapped_column(default=False)
    note: Mapped[str | None] = mapped_column(Text)
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class EffectRow(Table):
    """One effect on the world: at most one per order, step and cause. Its state only moves forward."""

    __tablename__ = "effects"
    __table_args__ = (
        UniqueConstraint("order_id", "step", "cause"),
        Index("ix_effects_cause", "cause"),
        Index("ix_effects_state", "state"),
        Index(
            "ix_effects_system",
            "system",
            sqlite_where=text("due_at IS NOT NULL"),
            postgresql_where=text("due_at IS NOT NULL"),
        ),
        Index(
            "ix_effects_reverses_id",
            "reverses_id",
            sqlite_where=text("reverses_id IS NOT NULL"),
            postgresql_where=text("reverses_id IS NOT NULL"),
        ),
        CheckConstraint("state IN ('intended', 'in_doubt', 'done', 'skipped', 'rejected')", name="state"),
    )

    id: Mapped[int] = _id()
    order_id: Mapped[int] = _to("orders.id")
    step: Mapped[str] = mapped_column(String(60))
    cause: Mapped[str] = mapped_column(String(60))
    state: Mapped[str] = mapped_column(String(10))
    key: Mapped[str] = mapped_column(String(64))
    rule_version: Mapped[int | None]
    reference: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    before: Mapped[dict[str, Any]]
    after: Mapped[dict[str, Any]]
    reverses_id: Mapped[int | None] = _to("effects.id", nullable=True)
    attempts: Mapped[int] = mapped_column(default=0)
    system: Mapped[str | None] = mapped_column(String(40))
    doubt_since: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class OutageRow(Table):
    """An outside system that fails, by its connector's name; one probe at a time goes ahead of what waits for it.

    failed are the orders with which it failed in a row. Until these are enough to call it down, probe_at is empty.
    """

    __tablename__ = "outages"

    system: Mapped[str] = mapped_column(String(40), primary_key=True)
    since: Mapped[datetime]
    reason: Mapped[str] = mapped_column(Text)
    failed: Mapped[list[Any]]
    attempts: Mapped[int] = mapped_column(default=0)
    probe_at: Mapped[datetime | None]


class RevertRow(Table):
    """Somebody's wish to take an order back to before its payment; one at a time per order, kept when it is done."""

    __tablename__ = "reverts"
    __table_args__ = (
        Index(
            "uq_reverts_open",
            "order_id",
            unique=True,
            sqlite_where=text("finished_at IS NULL"),
            postgresql_where=text("finished_at IS NULL"),
        ),
    )

    id: Mapped[int] = _id()
    order_id: Mapped[int] = _to("orders.id", index=True)
    author: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    force: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class JournalHead(Table):
    """The last link of each chain of the journal, and how many rows it has; a row taken off the end shows."""

    __tablename__ = "journal_heads"

    chain: Mapped[str] = mapped_column(String(40), primary_key=True)
    hash: Mapped[str] = mapped_column(String(64))
    length: Mapped[int]


class JournalRow(Table):
    """The history: every move of an effect and every decision on a payment, append-only.

    Each row carries the hash of the one before it in its chain (an order's, or that of a payment without order).
    """

    __tablename__ = "journal"
    __table_args__ = (
        Index("ix_journal_order_id", "order_id"),
        Index("ix_journal_payment_id", "payment_id"),
        Index("ix_journal_chain", "chain"),
    )

    id: Mapped[int] = _id()
    chain: Mapped[str] = mapped_column(String(40), default="")
    previous: Mapped[str] = mapped_column(String(64), default="")
    hash: Mapped[str] = mapped_column(String(64), default="")
    at: Mapped[datetime]
    order_id: Mapped[int | None] = _to("orders.id", nullable=True)
    payment_id: Mapped[int | None] = _to("payments.id", nullable=True)
    effect_id: Mapped[int | None] = _to("effects.id", nullable=True, index=True)
    step: Mapped[str] = mapped_column(String(60))
    cause: Mapped[str | None] = mapped_column(String(60))
    move: Mapped[str] = mapped_column(String(24))
    reference: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    before: Mapped[dict[str, Any]]
    after: Mapped[dict[str, Any]]
    actor: Mapped[str] = mapped_column(String(200))
    run: Mapped[str | None] = mapped_column(String(80))
    rule_version: Mapped[int | None]


class StockItem(Table):
    """How much of an article there is, and how much of that is promised."""

    __tablename__ = "stock_items"
    __table_args__ = (
        CheckConstraint("on_hand >= 0", name="on_hand"),
        CheckConstraint("reserved >= 0", name="reserved"),
    )

    sku: Mapped[str] = mapped_column(String(80), primary_key=True)
    title: Mapped[str] = mapped_column(Text, default="")
    on_hand: Mapped[int]
    reserved: Mapped[int] = mapped_column(default=0)


class StockMove(Table):
    """A movement of stock; append-only. A move taken back is marked by the one that reverses it.

    What the moves of archived orders came to is carried forward.
    """

    __tablename__ = "stock_moves"
    __table_args__ = (
        Index(
            "uq_stock_moves_live",
            "order_line_id",
            "kind",
            unique=True,
            sqlite_where=text("live = true"),
            postgresql_where=text("live = true"),
        ),
        Index(
            "ix_stock_moves_carried",
            "sku",
            sqlite_where=text("kind = 'carried'"),
            postgresql_where=text("kind = 'carried'"),
        ),
        CheckConstraint("kind IN ('reserve', 'release', 'deduct', 'restock', 'count', 'carried')", name="kind"),
    )

    id: Mapped[int] = _id()
    sku: Mapped[str] = mapped_column(String(80), ForeignKey("stock_items.sku"), index=True)
    kind: Mapped[str] = mapped_column(String(10))
    quantity: Mapped[int]
    order_id: Mapped[int | None] = _to("orders.id", nullable=True, index=True)
    order_line_id: Mapped[int | None] = _to("order_lines.id", nullable=True, index=True)
    effect_id: Mapped[int | None] = _to("effects.id", nullable=True, index=True)
    live: Mapped[bool] = mapped_column(default=False)
    at: Mapped[datetime]


class DocumentSeries(Table):
    """The next number of each channel's series; its row is locked while a document is numbered."""

    __tablename__ = "document_series"

    channel: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(12), primary_key=True)
    year: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    next_number: Mapped[int]


class DocumentRow(Table):
    """An issued document; content is all that is printed on it, so the PDF can be made again at any time.

    One without an order names the open item that it asks to be paid.
    """

    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("channel", "kind", "number"),
        UniqueConstraint("channel", "kind", "year", "counter"),
        Index(
            "ix_documents_unprinted",
            "id",
            sqlite_where=text("file IS NULL"),
            postgresql_where=text("file IS NULL"),
        ),
        Index(
            "ix_documents_corrects_id",
            "corrects_id",
            sqlite_where=text("corrects_id IS NOT NULL"),
            postgresql_where=text("corrects_id IS NOT NULL"),
        ),
        Index(
            "uq_documents_live",
            "order_id",
            "kind",
            unique=True,
            sqlite_where=text("live = true"),
            postgresql_where=text("live = true"),
        ),
    )

    id: Mapped[int] = _id()
    order_id: Mapped[int | None] = _to("orders.id", nullable=True, index=True)
    open_item_id: Mapped[int | None] = _to("open_items.id", nullable=True, index=True)
    channel: Mapped[str] = mapped_column(String(40))
    kind: Mapped[str] = mapped_column(String(12))
    number: Mapped[str] = mapped_column(String(60))
    year: Mapped[int | None]
    counter: Mapped[int | None]
    currency: Mapped[str] = mapped_column(String(3))
    total_minor: Mapped[int] = mapped_column(BigInteger)
    issued_on: Mapped[date]
    content: Mapped[dict[str, Any]]
    effect_id: Mapped[int | None] = _to("effects.id", nullable=True, index=True)
    corrects_id: Mapped[int | None] = _to("documents.id", nullable=True)
    live: Mapped[bool] = mapped_column(default=True)
    file: Mapped[str | None] = mapped_column(Text)


class MessageRow(Table):
    """A message sent to a customer; the recipient's address stays with the customer."""

    __tablename__ = "messages"
    __table_args__ = (UniqueConstraint("message_id"),)

    id: Mapped[int] = _id()
    order_id: Mapped[int] = _to("orders.id", index=True)
    by: Mapped[str] = mapped_column(String(10))
    template: Mapped[str] = mapped_column(String(40))
    language: Mapped[str] = mapped_column(String(2))
    message_id: Mapped[str] = mapped_column(String(200))
    subject: Mapped[str] = mapped_column(Text)
    reference: Mapped[str | None] = mapped_column(Text)
    effect_id: Mapped[int | None] = _to("effects.id", nullable=True, index=True)
    sent_at: Mapped[datetime]


class HoldRow(Table):
    """Money that a card authorized; connector is the one that captures it, order_id the order that it is for.

    decision is what a person or the rules said is to be done with it, decided_minor how much is to be captured.
    """

    __tablename__ = "holds"
    __table_args__ = (
        UniqueConstraint("source", "reference"),
        CheckConstraint("state IN ('held', 'captured', 'released', 'expired')", name="state"),
        CheckConstraint("decision IN ('capture', 'release')", name="decision"),
        CheckConstraint("captured_minor <= amount_minor", name="captured"),
        Index(
            "ix_holds_expires_at",
            "expires_at",
            sqlite_where=text("state = 'held'"),
            postgresql_where=text("state = 'held'"),
        ),
    )

    id: Mapped[int] = _id()
    source: Mapped[str] = mapped_column(String(80))
    reference: Mapped[str] = mapped_column(String(200))
    connector: Mapped[str] = mapped_column(String(40))
    order_id: Mapped[int | None] = _to("orders.id", nullable=True, index=True)
    order_reference: Mapped[str | None] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(String(3))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    captured_minor: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(10))
    reason: Mapped[str | None] = mapped_column(Text)
    expires_at: Mapped[datetime | None]
    decision: Mapped[str | None] = mapped_column(String(10))
    decided_minor: Mapped[int | None] = mapped_column(BigInteger)
    decided_by: Mapped[str | None] = mapped_column(String(200))
    decided_because: Mapped[str | None] = mapped_column(Text)
    decided_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ShipmentRow(Table):
    """A consignment ordered from a carrier; live until it is cancelled.

    settled_minor is what had settled its order when it was ordered, empty where it was only found afterwards.
    """

    __tablename__ = "shipments"
    __table_args__ = (
        Index(
            "uq_shipments_live",
            "order_id",
            unique=True,
            sqlite_where=text("live = true"),
            postgresql_where=text("live = true"),
        ),
    )

    id: Mapped[int] = _id()
    order_id: Mapped[int] = _to("orders.id", index=True)
    carrier: Mapped[str] = mapped_column(String(40))
    tracking_number: Mapped[str] = mapped_column(String(80), index=True)
    currency: Mapped[str] = mapped_column(String(3))
    collect_minor: Mapped[int] = mapped_column(BigInteger, default=0)
    settled_minor: Mapped[int | None] = mapped_column(BigInteger)
    label: Mapped[str | None] = mapped_column(Text)
    effect_id: Mapped[int | None] = _to("effects.id", nullable=True, index=True)
    live: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime]


class ExportRow(Table):
    """What a system that fetches orders has of one: hash says what, once it has said that it took it.

    version is how many rows the order's journal had then; an order whose journal has no more has not changed since.
    offered, with a version of its own, is what the session that fetched last was given and has not confirmed.
    """

    __tablename__ = "exports"
    __table_args__ = (UniqueConstraint("order_id", "system"), Index("ix_exports_session", "system", "session"))

    id: Mapped[int] = _id()
    order_id: Mapped[int] = _to("orders.id")
    system: Mapped[str] = mapped_column(String(40))
    hash: Mapped[str | None] = mapped_column(String(64))
    version: Mapped[int | None]
    exported_at: Mapped[datetime | None]
    offered: Mapped[str | None] = mapped_column(String(64))
    offered_version: Mapped[int | None]
    session: Mapped[str | None] = mapped_column(String(40))


class BackfillRow(Table):
    """A backfill: who carries which work on again, and why; finished_at is empty until all of it was looked at.

    journal_mark is the last row of the journal when it was begun: what it brought about comes after that. rates are
    requests a second at most, by outside system.
    """

    __tablename__ = "backfills"

    id: Mapped[int] = _id()
    selection: Mapped[dict[str, Any]]
    notify: Mapped[bool]
    rates: Mapped[dict[str, Any]]
    author: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    total: Mapped[int]
    chunks: Mapped[int]
    journal_mark: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None]


class BackfillChunk(Table):
    """Who carries a chunk of a backfill on, of several runs that share it."""

    __tablename__ = "backfill_chunks"

    backfill_id: Mapped[int] = mapped_column(_Id, ForeignKey("backfills.id"), primary_key=True)
    chunk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None]


class BackfillItem(Table):
    """A piece of work in a backfill; result is empty until its chunk has ended."""

    __tablename__ = "backfill_items"
    __table_args__ = (
        UniqueConstraint("backfill_id", "work_id"),
        Index("ix_backfill_items_backfill_id_chunk", "backfill_id", "chunk"),
    )

    id: Mapped[int] = _id()
    backfill_id: Mapped[int] = _to("backfills.id")
    chunk: Mapped[int]
    work_id: Mapped[int] = _to("work.id", index=True)
    order_id: Mapped[int] = _to("orders.id", index=True)
    result: Mapped[str | None] = mapped_column(String(20))
    said: Mapped[str | None] = mapped_column(Text)


class ArchiveRow(Table):
    """An order, or several that a payment settled, moved out of the other tables with everything of theirs.

    body has all of it, packed; checksum is of what is packed. last_at is when something happened to it last. returned
    says that it was brought back since.
    """

    __tablename__ = "archives"

    id: Mapped[int] = _id()
    orders: Mapped[int]
    rows: Mapped[int]
    last_at: Mapped[datetime]
    archived_at: Mapped[datetime]
    checksum: Mapped[str] = mapped_column(String(64))
    body: Mapped[bytes]
    returned: Mapped[bool] = mapped_column(default=False)
    returned_because: Mapped[str | None] = mapped_column(Text)


class ArchivedName(Table):
    """By what something that comes late finds an archive, such as a payment's id at its gateway."""

    __tablename__ = "archived_names"
    __table_args__ = (Index("ix_archived_names_value", "kind", "value", "scope"),)

    id: Mapped[int] = _id()
    archive_id: Mapped[int] = _to("archives.id", index=True)
    kind: Mapped[str] = mapped_column(String(12))
    scope: Mapped[str] = mapped_column(String(120))
    value: Mapped[str] = mapped_column(Text)


class ConnectorState(Table):
    """What a polled source remembers between polls; the cursor's shape is the connector's own."""

    __tablename__ = "connector_state"

    connector: Mapped[str] = mapped_column(String(40), primary_key=True)
    cursor: Mapped[str | None] = mapped_column(Text)
    polled_at: Mapped[datetime]
