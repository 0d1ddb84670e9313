"""Reconciliation in bulk: the same answers as one payment at a time, over data frames of any length.

What payments name is joined by hash to what open items are called. Where one payment and one item have only each other,
and the amount is exact, the columns decide. Every other payment is decided by the single form, among the few items that
it can mean, so that the two forms can't come to differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from domain.allocation import OpenItem
from domain.matching import BARE, WHO, Match, Read, Reader, decide, written_out
from domain.money import Money
from domain.orders import CLOSED, Status
from domain.payments import IncomingPayment, Kind, Outcome
from domain.rules import ChannelRules, EvidenceKind

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.object_]

CHUNK = 50_000
"""Payments that are held at once; more cost more memory and save little time."""

ITEM_COLUMNS = ("id", "channel", "number", "status", "currency", "amount", "open", "customer", "customer_name", "group")
"""What a frame of open items has: amounts in minor units; a customer, name or group that is not known is None."""
REFERENCE_COLUMNS = ("item", "kind", "value")
"""What a frame of references has: the id of the item that is called so, the kind of evidence, the normal form."""
ACCOUNT_COLUMNS = ("channel", "customer", "account")
"""What a frame of known accounts has; one that is known of two customers proves nothing."""

_KINDS: tuple[EvidenceKind, ...] = tuple(EvidenceKind)
_CODE = {kind: code for code, kind in enumerate(_KINDS)}
_NAME = _CODE[EvidenceKind.PAYER_NAME]
_ACCOUNTS = WHO - {EvidenceKind.PAYER_NAME}


def _hashed(kinds: npt.NDArray[Any], values: Objects) -> npt.NDArray[np.uint64]:
    """Return a key of 64 bits for each reference; who looks one up compares the values themselves, too."""
    hashed = pd.util.hash_array(values, categorize=False)
    return hashed ^ (kinds.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _groups(codes: Ints, count: int) -> tuple[Ints, Ints]:
    """Return the rows in the order of their codes, and where the rows of each code begin."""
    order = np.argsort(codes, kind="stable")
    begins = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(codes[codes >= 0], minlength=count), out=begins[1:])
    return order[np.searchsorted(codes[order], 0) :], begins


def _spread(begins: Ints, codes: Ints) -> tuple[Ints, Ints]:
    """Return, for each code, all places between where it begins and ends, and beside each which code it was for."""
    counts = begins[codes + 1] - begins[codes]
    which = np.repeat(np.arange(len(codes), dtype=np.int64), counts)
    within = np.arange(counts.sum(), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    return begins[codes][which] + within, which


class OpenItems:
    """Open items in columns, with an index over all that they are called; what payments settle is taken off them."""

    def __init__(
        self,
        items: pd.DataFrame,
        references: pd.DataFrame,
        accounts: pd.DataFrame,
        channels: Mapping[str, ChannelRules],
    ) -> None:
        """Take frames with ITEM_COLUMNS (ids unique), REFERENCE_COLUMNS and ACCOUNT_COLUMNS."""
        self._channels = channels
        self.reader = Reader(channels)
        items = items.sort_values("id", ignore_index=True)
        self._columns = {name: _objects(items[name]) for name in ITEM_COLUMNS}
        self._ids, self._amount, self._open = (_ints(items[name]) for name in ("id", "amount", "open"))
        self._closed = np.isin(self._columns["status"].astype(str), [status.value for status in CLOSED])
        self._served = np.isin(self._columns["channel"].astype(str), list(channels))
        self._index(references)
        self._people(items, accounts)

    def _index(self, references: pd.DataFrame) -> None:
        values, names = _objects(references["value"]), _objects(references["kind"])
        codes = {kind.value: code for kind, code in _CODE.items()}
        kinds = np.fromiter((codes[name] for name in names), np.int64, len(names))
        found, keys = pd.factorize(_hashed(kinds, values))
        self._keys = pd.Index(keys)
        order, self._begins = _groups(_ints(found), len(keys))
        self._of_item = np.searchsorted(self._ids, _ints(references["item"]))[order]
        self._of_kind, self._of_value = kinds[order], values[order]

    def _people(self, items: pd.DataFrame, accounts: pd.DataFrame) -> None:
        """Count off customers and groups, and units: what a payment which names one of the items may settle with it."""
        person, group = (
            _ints(items.groupby(["channel", name], sort=False).ngroup().fillna(-1)) for name in ("customer", "group")
        )
        if len(items) and person.max() >= 0:
            # Whoever is in a group with one order is in it with all.
            of_person = np.full(int(person.max()) + 1, -1, dtype=np.int64)
            np.maximum.at(of_person, person[person >= 0], group[person >= 0])
            group = np.where(person >= 0, of_person[person], group)
        self._person, self._group = person, group
        self._persons, self._person_begins = _groups(person, int(person.max(initial=-1)) + 1)
        self._grouped, self._group_begins = _groups(group, int(group.max(initial=-1)) + 1)
        count = len(items)
        alone = np.arange(count, dtype=np.int64) + 2 * count
        self._unit: Ints = np.where(group >= 0, group + count, np.where(person >= 0, person, alone))
        firsts: list[int] = self._persons[self._person_begins[:-1]].tolist()
        first = {(self._columns["channel"][row], self._columns["customer"][row]): row for row in firsts}
        told = accounts.drop_duplicates()
        rows = zip(*(_objects(told[name]) for name in ACCOUNT_COLUMNS), strict=True)
        shared = _objects(told["account"].duplicated(keep=False))
        self._owner: dict[str, int] = {
            account: first[channel, customer]
            for (channel, customer, account), twice in zip(rows, shared, strict=True)
            if not twice and (channel, customer) in first
        }

    def ids(self, places: Ints) -> Ints:
        """Return the ids of items by their places."""
        return self._ids[places]

    def match(self, payments: Sequence[IncomingPayment], read: Sequence[Read] | None = None) -> Matched:
        """Decide what payments settle, one after the other in the order given; read is what a reader has of each."""
        count = len(payments)
        told = self._read([self.reader.read(payment) for payment in payments] if read is None else read)
        hits = self._hits(told)
        pairs = np.unique(hits.payment * len(self._ids) + hits.item)
        pair_payment, pair_item = np.divmod(pairs, max(len(self._ids), 1))
        named = np.unique((hits.payment * len(self._ids) + hits.item)[(hits.kind != _NAME) & ~hits.bare])
        named_payment, named_item = np.divmod(named, max(len(self._ids), 1))
        names = np.bincount(named_payment, minlength=count)
        reached = np.bincount(pair_payment, minlength=count)
        wanted = np.bincount(pair_item, minlength=len(self._ids))

        item = np.full(count, -1, dtype=np.int64)
        item[named_payment] = named_item
        amount = np.fromiter((p.amount.minor for p in payments), np.int64, count)
        back = np.fromiter((p.kind is Kind.RETURN for p in payments), np.bool_, count)
        currency: Objects = np.array([p.amount.currency for p in payments], dtype=object)
        unit = np.where(told.owner >= 0, self._unit[told.owner], -1) if len(self._ids) else told.owner
        nothing = (reached == 0) & (told.owner < 0) & (amount != 0) & ~back
        exact = (names == 1) & (reached == 1) & (amount > 0) & ~back
        if len(self._ids):
            exact &= (self._open[item] == amount) & ~self._closed[item] & (wanted[item] == 1)
            exact &= self._columns["currency"][item] == currency
            exact &= (told.owner < 0) | (unit == self._unit[item])
            # What another payment may settle of the same customer can't be decided beside it.
            touched = np.unique(
                np.concatenate([self._unit[pair_item][~exact[pair_payment]], unit[~exact & (told.owner >= 0)]])
            )
            exact &= ~np.isin(self._unit[item], touched)
            self._open[item[exact]] = 0
        outcomes: list[Outcome] = [Outcome.EXACT] * count
        for place in np.flatnonzero(nothing).tolist():
            outcomes[place] = Outcome.UNKNOWN if amount[place] > 0 else Outcome.OUTGOING
        matches: dict[int, Match] = {}
        for place in np.flatnonzero(~exact & ~nothing).tolist():
            found = self._decide(payments[place], told, hits, place)
            matches[place] = found
            outcomes[place] = found.outcome
        item[~exact] = -1
        return Matched(self, payments, outcomes, item, matches, told, hits)

    def _read(self, read: Sequence[Read]) -> _Read:
        owner = np.full(len(read), -1, dtype=np.int64)
        account: dict[int, str] = {}
        places: list[int] = []
        kinds: list[int] = []
        values: list[str] = []
        channels: list[str | None] = []
        bare: list[bool] = []
        for place, names in enumerate(read):
            for (kind, value, channel), doubt in names.items():
                if kind in _ACCOUNTS:
                    owner[place] = self._owner.get(value, -1)
                    account[place] = value
                else:
                    places.append(place)
                    kinds.append(_CODE[kind])
                    values.append(value)
                    channels.append(channel)
                    bare.append(doubt == BARE)
        return _Read(
            np.array(places, dtype=np.int64),
            np.array(kinds, dtype=np.int64),
            _objects(values),
            _objects(channels),
            np.array(bare, dtype=np.bool_),
            owner,
            account,
            read,
        )

    def _hits(self, read: _Read) -> _Hits:
        """Join what payments name with what items are called."""
        keys = self._keys.get_indexer(pd.Index(_hashed(read.kind, read.value)))
        known = np.flatnonzero(keys >= 0)
        at, which = _spread(self._begins, keys[known].astype(np.int64))
        told = known[which]
        item = self._of_item[at]
        same = (self._of_kind[at] == read.kind[told]) & self._served[item]
        same &= self._of_value[at] == read.value[told]
        channel = read.channel[told]
        same &= (channel == None) | (channel == self._columns["channel"][item])  # noqa: E711 - of each element
        return _Hits(
            read.payment[told][same], item[same], read.kind[told][same], read.value[told][same], read.bare[told][same]
        )

    def _called(self, told: _Read, hits: _Hits, place: int) -> dict[int, set[tuple[EvidenceKind, str]]]:
        """Return the items that a payment can mean, each with what it is called by it."""
        called: dict[int, set[tuple[EvidenceKind, str]]] = {}
        rows = slice(*np.searchsorted(hits.payment, (place, place + 1)))
        kinds: list[int] = hits.kind[rows].tolist()
        for item, kind, value in zip(hits.item[rows].tolist(), kinds, hits.value[rows].tolist(), strict=True):
            called.setdefault(item, set()).add((_KINDS[kind], value))
        owner, account = int(told.owner[place]), told.account.get(place)
        if owner >= 0 and account:
            for item in self._of_person(owner):
                called.setdefault(item, set()).add((EvidenceKind.PAYER_ACCOUNT, account))
            for item in self._of_group(owner):
                if self._person[item] != self._person[owner]:
                    called.setdefault(item, set()).add((EvidenceKind.GROUP_ACCOUNT, account))
        return called

    def _decide(self, payment: IncomingPayment, told: _Read, hits: _Hits, place: int) -> Match:
        """Decide one payment by the single form, and take what it settles off the items."""
        called = self._called(told, hits, place)
        for item in [item for item, names in called.items() if any(kind not in WHO for kind, _ in names)]:
            if payment.amount.minor > self._open[item]:
                for other in self._of_person(item):
                    called.setdefault(other, set())
        items = [self._item(at, called[at]) for at in sorted(called)]
        match = decide(payment, written_out(told.short[place]), items, self._channels, self.reader)
        for part in match.parts:
            at = int(np.searchsorted(self._ids, part.item.id))
            self._open[at] -= part.amount.minor + part.write_off.minor
        return match

    def _of_person(self, item: int) -> list[int]:
        person = self._person[item]
        return self._persons[slice(*self._person_begins[person : person + 2])].tolist() if person >= 0 else [item]

    def _of_group(self, item: int) -> list[int]:
        group = self._group[item]
        return self._grouped[slice(*self._group_begins[group : group + 2])].tolist() if group >= 0 else []

    def _item(self, at: int, called: set[tuple[EvidenceKind, str]], open_: int | None = None) -> OpenItem:
        columns = self._columns
        currency = columns["currency"][at]
        return OpenItem(
            id=int(self._ids[at]),
            order_id=int(self._ids[at]),
            channel=columns["channel"][at],
            number=columns["number"][at],
            status=Status(columns["status"][at]),
            amount=Money(int(self._amount[at]), currency),
            open=Money(int(self._open[at]) if open_ is None else open_, currency),
            references=frozenset(called),
            customer=columns["customer"][at],
            customer_name=columns["customer_name"][at] or "",
            group=columns["group"][at],
        )

    def explain(self, matched: Matched, place: int) -> Match:
        """Return the whole answer of one payment, with its reason and evidence, as the single form gives it."""
        if place in matched.matches:
            return matched.matches[place]
        # What was settled since changes nothing of a payment that its one item settled exactly, but that it was open.
        settled, payment = int(matched.items[place]), matched.payments[place]
        called = self._called(matched.told, matched.hits, place)
        items = [self._item(at, called[at], payment.amount.minor if at == settled else None) for at in sorted(called)]
        return decide(payment, written_out(matched.told.short[place]), items, self._channels, self.reader)


@dataclass(frozen=True, slots=True)
class _Read:
    """What payments name: a row per reference; and the place of an item of the one customer who owns its account."""

    payment: Ints
    kind: Ints
    value: Objects
    channel: Objects
    bare: Bools
    owner: Ints
    account: Mapping[int, str]
    short: Sequence[Read]


@dataclass(frozen=True, slots=True)
class _Hits:
    """Where what a payment names is what an item is called: a row per reference, in the order of the payments."""

    payment: Ints
    item: Ints
    kind: Ints
    value: Objects
    bare: Bools


@dataclass(frozen=True, slots=True)
class Matched:
    """What payments turned out to be, in their order.

    items has the place of the one item that was settled exactly, where the columns decided, else -1; matches has the
    answers of the single form, by the payment's place.
    """

    of: OpenItems
    payments: Sequence[IncomingPayment]
    outcomes: Sequence[Outcome]
    items: Ints
    matches: Mapping[int, Match]
    told: _Read
    hits: _Hits

    def answers(self) -> Iterator[Match]:
        """Yield the whole answer of each payment."""
        for place in range(len(self.payments)):
            yield self.of.explain(self, place)

    def allocations(self) -> pd.DataFrame:
        """Return what was allocated: a row per payment's place and item's id, with the amount in minor units."""
        plain = np.flatnonzero(self.items >= 0)
        parts = [(place, p.item.id, p.amount.minor) for place, match in self.matches.items() for p in match.parts]
        ids = self.of.ids(self.items[plain])
        amounts = [self.payments[place].amount.minor for place in plain.tolist()]
        columns = [plain, ids, np.array(amounts, dtype=np.int64)]
        for column, more in enumerate(zip(*parts, strict=True) if parts else ()):
            columns[column] = np.concatenate([columns[column], np.array(more, dtype=np.int64)])
        frame = pd.DataFrame(dict(zip(("payment", "item", "amount"), columns, strict=True)))
        return frame.sort_values(["payment", "item"], ignore_index=True)


def _objects(values: Any) -> Objects:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _ints(values: Any) -> Ints:
    return np.array(values, dtype=np.int64)
