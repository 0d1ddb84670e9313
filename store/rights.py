"""What a database user may do on PostgreSQL: for the running product, and for reports, each no more than it needs.

The tables belong to their owner, who alone changes what they are. To the journal and the other histories the running
product may only add, so whoever has got hold of its password can't edit them away either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from store.tables import (
    AllocationRow,
    ArchivedName,
    ArchiveRow,
    BackfillChunk,
    BackfillItem,
    BackfillRow,
    BalanceEntry,
    ConnectorState,
    CustomerRow,
    DocumentRow,
    DocumentSeries,
    EffectRow,
    ExportRow,
    HoldRow,
    InboxRow,
    JournalHead,
    JournalRow,
    MessageRow,
    OpenItemRow,
    OrderLineRow,
    OrderRow,
    OutageRow,
    PayerAccount,
    PaymentReference,
    PaymentRow,
    PayoutLine,
    PayoutRow,
    ReferenceRow,
    RevertRow,
    RuleVersion,
    ShipmentRow,
    StatusHistory,
    StockItem,
    StockMove,
    Table,
    WorkRow,
)

_VERSION_TABLE = "alembic_version"
"""Where the migrations note how far they have come; whoever opens the database reads it."""
_NAME_BYTES_MAX = 63


class RightsError(ValueError):
    """Rights can't be given to that; its text says why."""


@dataclass(frozen=True, slots=True)
class Use:
    """What the running product does with a table, beside reading its rows and adding new ones."""

    changes: Sequence[str] = ()
    """The columns that it writes anew."""
    deletes: bool = False
    locks: bool = False
    """Whether it locks rows although it changes nothing in them."""


_ADDS_ONLY = Use()
USES: Mapping[type[Table], Use] = {
    AllocationRow: Use(("reversed",)),
    ArchiveRow: Use(("returned", "returned_because")),
    ArchivedName: Use(deletes=True),
    BackfillChunk: Use(("lease_owner", "lease_until")),
    BackfillItem: Use(("result", "said")),
    BackfillRow: Use(("finished_at", "lease_owner", "lease_until")),
    BalanceEntry: Use(("reversed", "released_at")),
    ConnectorState: Use(("cursor", "polled_at")),
    CustomerRow: Use(("name", "email", "phone", "language", "group", "tax_id", "address")),
    DocumentRow: Use(("live", "file")),
    DocumentSeries: Use(("next_number",)),
    EffectRow: Use(
        (
            *("state", "key", "rule_version", "reference", "reason", "before", "after", "attempts", "system"),
            *("doubt_since", "due_at", "lease_owner", "lease_until", "updated_at"),
        )
    ),
    ExportRow: Use(("hash", "version", "exported_at", "offered", "offered_version", "session")),
    HoldRow: Use(
        (
            *("order_id", "captured_minor", "state", "reason", "expires_at"),
            *("decision", "decided_minor", "decided_by", "decided_because", "decided_at", "updated_at"),
        )
    ),
    InboxRow: Use(("handled_at", "due_at", "attempts", "lease_owner", "lease_until", "problem")),
    JournalHead: Use(("hash", "length")),
    JournalRow: _ADDS_ONLY,
    MessageRow: _ADDS_ONLY,
    OpenItemRow: Use(("amount_minor", "cancelled_at")),
    OrderLineRow: Use(("sku", "title", "quantity", "unit_price_minor", "vat_rate")),
    OrderRow: Use(
        (
            "status",
            "standard_status",
            "total_minor",
            "delivery_method",
            "delivery_address",
            "on_delivery_minor",
            "due_on",
            "reserved_until",
            "extended",
            "held_out",
        )
    ),
    OutageRow: Use(("since", "reason", "failed", "attempts", "probe_at"), deletes=True),
    PayerAccount: Use(("payment_id",)),
    PaymentReference: Use(deletes=True),
    PaymentRow: Use(("outcome", "policy", "reason", "candidates", "surplus_minor", "round", "matched_at")),
    PayoutLine: Use(("payment_id",)),
    PayoutRow: Use(("payment_id",)),
    ReferenceRow: Use(deletes=True),
    RevertRow: Use(("finished_at",)),
    RuleVersion: _ADDS_ONLY,
    ShipmentRow: Use(("live",)),
    StatusHistory: _ADDS_ONLY,
    StockItem: Use(("title", "on_hand", "reserved")),
    StockMove: Use(("live",)),
    WorkRow: Use(("due_at", "again", "attempts", "quiet", "note", "lease_owner", "lease_until", "finished_at")),
}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _check(name: str, what: str) -> None:
    """Raise RightsError for a name that PostgreSQL would not take, or would take for something else."""
    if not name or not name.isprintable() or len(name.encode()) > _NAME_BYTES_MAX:
        raise RightsError(f"a {what} has a name of 1 to {_NAME_BYTES_MAX} bytes, on one line")
    # It takes these for everybody and nobody, even in quotes; those that begin with pg_ are its own.
    if name.lower() in ("public", "none") and what == "role":
        raise RightsError(f"“{name}” is no role: PostgreSQL means everybody or nobody by it; name one made for Kvit")
    if name.startswith("pg_"):
        raise RightsError(f"“{name}” is PostgreSQL's own; name a {what} made for Kvit")


def _begin(role: str, schema: str) -> list[str]:
    """Return what comes first for every role: it is not one that may do anything anyway, and it has no right yet."""
    _check(role, "role")
    _check(schema, "schema")
    to, within = _quoted(role), _quoted(schema)
    owns = f"SELECT FROM pg_tables WHERE schemaname = {_text(schema)} AND tableowner = {_text(role)}"
    mighty = f"SELECT FROM pg_roles WHERE rolname = {_text(role)} AND rolsuper"
    said = f"role {role} owns tables here or is a superuser, so nothing can be kept from it; make another".replace(
        "%", "%%"
    )
    refuse = f"BEGIN IF EXISTS ({owns}) OR EXISTS ({mighty}) THEN RAISE EXCEPTION {_text(said)}; END IF; END"
    return [
        f"DO {_text(refuse)}",
        # Before PostgreSQL 15 everybody may make tables in this schema.
        f"REVOKE CREATE ON SCHEMA {within} FROM PUBLIC",
        f"REVOKE ALL ON SCHEMA {within} FROM {to}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {within} FROM {to}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {within} FROM {to}",
        f"GRANT USAGE ON SCHEMA {within} TO {to}",
        f"GRANT SELECT ON {within}.{_quoted(_VERSION_TABLE)} TO {to}",
    ]


def product_rights(role: str, *, schema: str = "public") -> list[str]:
    """Return the statements that give a role what the running product needs, and take from it what else it had.

    The tables' owner runs them, in one transaction. Raises RightsError for a name that is none.
    """
    statements = _begin(role, schema)
    to, within = _quoted(role), _quoted(schema)
    for model, use in sorted(USES.items(), key=lambda one: one[0].__tablename__):
        table = Table.metadata.tables[model.__tablename__]
        # Whoever locks rows needs the right to change some column. An id that others point at can't be changed.
        changes = use.changes or (["id"] if use.locks else [])
        rights = ["SELECT", "INSERT", *(["DELETE"] if use.deletes else [])]
        if changes:
            rights.append(f"UPDATE ({', '.join(map(_quoted, changes))})")
        statements.append(f"GRANT {', '.join(rights)} ON {within}.{_quoted(table.name)} TO {to}")
        if (numbered := table.autoincrement_column) is not None:
            sequence = f"{table.name}_{numbered.name}_seq"
            statements.append(f"GRANT USAGE ON SEQUENCE {within}.{_quoted(sequence)} TO {to}")
    return statements


def report_rights(role: str, *, schema: str = "public") -> list[str]:
    """Return the statements that let a role read every table and do nothing else.

    The tables' owner runs them, in one transaction. Raises RightsError for a name that is none.
    """
    statements = _begin(role, schema)
    for name in sorted(Table.metadata.tables):
        statements.append(f"GRANT SELECT ON {_quoted(schema)}.{_quoted(name)} TO {_quoted(role)}")
    return statements
