"""The journal: what happened, when, by whom and by which version of the rules. Rows are only ever added.

Each row belongs to a chain, that of its order or else of its payment, and carries the hash of the row before it in
there; a table of heads has the last hash and the length of each chain. So a row that was changed, taken out, put in or
cut off the end shows. It does not show to somebody who can rewrite a chain and its head together: for that, the digest
over all heads is to be kept somewhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, Integer, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store import archived
from store.sql import add_new, among, chunks
from store.tables import JournalHead, JournalRow

_TOLD = "at order_id payment_id effect_id step cause move reference reason before after actor run rule_version".split()
_ROWS_AT_ONCE = 5_000
_KNOWN_MAX = 50_000
# Chains that this process has seen begun: nothing has to be added for them. One that was rolled back is found missing.
_known: WeakKeyDictionary[Engine, set[str]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who does something: a worker in a flow run, or a person at the command line."""

    name: str
    run: str | None = None


def entry(
    actor: Actor,
    *,
    at: datetime,
    step: str,
    move: str,
    order_id: int | None = None,
    payment_id: int | None = None,
    effect_id: int | None = None,
    cause: str | None = None,
    reference: str | None = None,
    reason: str | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    rule_version: int | None = None,
) -> dict[str, Any]:
    """Return one row of the journal, ready to be added."""
    return {
        "at": at,
        "order_id": order_id,
        "payment_id": payment_id,
        "effect_id": effect_id,
        "step": step,
        "cause": cause,
        "move": move,
        "reference": reference,
        "reason": reason,
        "before": before or {},
        "after": after or {},
        "actor": actor.name,
        "run": actor.run,
        "rule_version": rule_version,
    }


def _chain_of(row: Mapping[Any, Any]) -> str:
    if row["order_id"] is not None:
        return f"order:{row['order_id']}"
    return f"payment:{row['payment_id']}" if row["payment_id"] is not None else "other"


def _hash(previous: str, row: Mapping[Any, Any]) -> str:
    told = {name: row[name] for name in _TOLD} | {"at": row["at"].astimezone(UTC).isoformat()}
    content = json.dumps([previous, told], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


_NEW_ROWS = insert(JournalRow)
_NEW_HEADS = (
    update(JournalHead)
    .where(JournalHead.chain == bindparam("_chain"))
    .values(hash=bindparam("_hash"), length=bindparam("_length"))
)


async def append(connection: AsyncConnection, entries: list[dict[str, Any]]) -> None:
    """Add rows to the journal, each to the end of its chain."""
    if not entries:
        return
    chains = sorted({_chain_of(entry) for entry in entries})
    heads = await _heads(connection, chains)
    linked: list[dict[str, Any]] = []
    for entry_ in entries:
        chain = _chain_of(entry_)
        previous, length = heads[chain]
        own = _hash(previous, entry_)
        linked.append({**entry_, "chain": chain, "previous": previous, "hash": own})
        heads[chain] = (own, length + 1)
    await connection.execute(_NEW_ROWS, linked)
    await connection.execute(
        _NEW_HEADS,
        [{"_chain": chain, "_hash": heads[chain][0], "_length": heads[chain][1]} for chain in chains],
    )


# Whoever adds to a chain locks its head, all in one order, so that none forks and nobody waits for ever.
_LOCKED_HEADS = (
    select(JournalHead.chain, JournalHead.hash, JournalHead.length)
    .where(among(JournalHead.chain, "chains"))
    .order_by(JournalHead.chain)
    .with_for_update()
)


async def _heads(connection: AsyncConnection, chains: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Lock the heads of chains, and return each one's hash and length; those that are new begin here."""
    kept = _known.setdefault(connection.engine.sync_engine, set())
    if not kept.issuperset(chains):
        await add_new(connection, JournalHead, [{"chain": chain, "hash": "", "length": 0} for chain in chains])
    heads: dict[str, tuple[str, int]] = {}
    for some in chunks(chains):
        rows = await connection.execute(_LOCKED_HEADS, {"chains": some})
        heads.update({row.chain: (row.hash, row.length) for row in rows.all()})
    if len(heads) < len(chains):  # the transaction that began a chain was rolled back
        kept.difference_update(chains)
        return await _heads(connection, chains)
    if len(kept) > _KNOWN_MAX:
        kept.clear()
    kept.update(chains)
    return heads


@dataclass(frozen=True, slots=True)
class Broken:
    """A chain that is not as it was written: where it breaks first, in words."""

    chain: str
    said: str


_NEXT_ROWS = (
    select(*JournalRow.__table__.columns)
    .where(JournalRow.id > bindparam("last"))
    .order_by(JournalRow.id)
    .limit(bindparam("most", type_=Integer))
)
_ALL_HEADS = select(JournalHead.chain, JournalHead.hash, JournalHead.length)


async def verify(connection: AsyncConnection) -> list[Broken]:
    """Return the chains of the journal that are not as they were written, archived ones among them."""
    ends: dict[str, tuple[str, int]] = {}
    broken: dict[str, Broken] = {}

    def follow(rows: Iterable[Mapping[Any, Any]]) -> None:
        for row in rows:
            previous, length = ends.get(row["chain"], ("", 0))
            ends[row["chain"]] = (row["hash"], length + 1)
            where = f"row {row['id']} ({row['step']}, {row['move']}, {row['at']:%Y-%m-%d %H:%M:%S} UTC)"
            if row["chain"] != _chain_of(row) or row["hash"] != _hash(row["previous"], row):
                broken.setdefault(row["chain"], Broken(row["chain"], f"{where} was changed"))
            elif row["previous"] != previous:
                said = f"before {where} something was taken out, put in or changed places"
                broken.setdefault(row["chain"], Broken(row["chain"], said))

    last = 0
    while True:
        rows = (await connection.execute(_NEXT_ROWS, {"last": last, "most": _ROWS_AT_ONCE})).mappings().all()
        if not rows:
            break
        last = rows[-1]["id"]
        follow(rows)
    # A chain is archived whole: what was moved is followed as what is here.
    async for history in archived.histories(connection):
        follow(history.rows)
        if history.problem:
            broken[f"archive:{history.archive_id}"] = Broken(f"archive:{history.archive_id}", history.problem)
    heads = await connection.execute(_ALL_HEADS)
    known = {row.chain: (row.hash, row.length) for row in heads.all()}
    for chain in sorted(ends.keys() | known.keys()):
        if ends.get(chain, ("", 0)) != known.get(chain):
            written, there = known.get(chain, ("", 0))[1], ends.get(chain, ("", 0))[1]
            said = f"{written} rows were written, {there} are there, and the last is not the one written last"
            broken.setdefault(chain, Broken(chain, said))
    return [broken[chain] for chain in sorted(broken)]


_HEADS_IN_ORDER = _ALL_HEADS.order_by(JournalHead.chain)


async def digest(connection: AsyncConnection) -> str:
    """Return one hash over the heads of all chains, to be kept elsewhere: what it covers can't be rewritten unseen."""
    heads = await connection.execute(_HEADS_IN_ORDER)
    whole = hashlib.sha256()
    for row in heads.all():
        whole.update(f"{row.chain} {row.hash} {row.length}\n".encode())
    return whole.hexdigest()


_OF_ORDER = (
    select(
        JournalRow.at,
        JournalRow.step,
        JournalRow.cause,
        JournalRow.move,
        JournalRow.reference,
        JournalRow.reason,
        JournalRow.before,
        JournalRow.after,
        JournalRow.actor,
        JournalRow.run,
        JournalRow.rule_version,
    )
    .where(JournalRow.order_id == bindparam("order"))
    .order_by(JournalRow.id)
)


async def of_order(connection: AsyncConnection, order_id: int) -> list[dict[str, Any]]:
    """Return an order's journal, oldest first."""
    rows = await connection.execute(_OF_ORDER, {"order": order_id})
    return [dict(row) for row in rows.mappings().all()]
