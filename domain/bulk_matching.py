"""Reconciliation in bulk: the same answers as one payment at a time, over columns of any length.

Payments that can name an order by nothing but their variable symbol are looked up by it all at once. Where such a
payment and one item have only each other, and the amount is exact, the columns decide; so they do where nothing is to
be settled. Every other payment is read in full. If it leaves anything open, the single form decides it among the few
items that it can mean, so that the two forms can't come to differ; and the single form alone gives reasons, to whom
asks for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from domain.allocation import OpenItem
from domain.columns import Bools, Ints, Objects, agree, normal_symbols, says_numbers, symbols
from domain.matching import BARE, WHO, Match, Read, Reader, decide, is_account, payer_account_of, written_out
from domain.money import Money
from domain.orders import CLOSED, Status
from domain.payments import IncomingPayment, Kind, Method, Outcome
from domain.references import normal_account
from domain.rules import ChannelRules, EvidenceKind

CHUNK = 20_000
"""Payments that are held at once: with more, a processor finds less of them in its cache."""

ITEM_COLUMNS = ("id", "channel", "number", "status", "currency", "amount", "open", "customer", "customer_name", "group")
"""What a frame of open items has: amounts in minor units; a customer, name or group that is not known is None.

It can have on_delivery as well: what of the amount is paid when the parcel comes, 0 where nothing is.
"""
REFERENCE_COLUMNS = ("item", "kind", "value")
"""What a frame of references has: the id of the item that is called so, the kind of evidence, the normal form."""
ACCOUNT_COLUMNS = ("channel", "customer", "account")
"""What a frame of known accounts has; one that is known of two customers proves nothing."""
PAYMENT_COLUMNS = ("external_id", "source", "method", "amount", "currency", "booked_on")
"""What a frame of payments has: amounts in minor units.

The other fields of an IncomingPayment may be columns too, of objects; what is not told is None.
"""
_PAYMENT_FIELDS = tuple(each.name for each in fields(IncomingPayment))
_FEW = frozenset({"source", "method", "currency", "account", "kind"})
"""Columns that have few different texts."""

_NEVER = int(np.iinfo(np.int64).max)
_OUTCOMES = tuple(Outcome)
_CODE = {outcome: code for code, outcome in enumerate(_OUTCOMES)}
_EACH_OUTCOME = np.array(_OUTCOMES, dtype=object)
_UNDECIDED = -1
"""The code of payments whose outcome is still to be decided."""
_ACCOUNTS = WHO - {EvidenceKind.PAYER_NAME}


def payment_frame(payments: Iterable[IncomingPayment]) -> pd.DataFrame:
    """Return payments as OpenItems.match wants them, without holding more of them at once than a chunk."""
    taken = {name: attrgetter(name) for name in _PAYMENT_FIELDS} | {
        "amount": attrgetter("amount.minor"),
        "currency": attrgetter("amount.currency"),
    }
    told: dict[str, list[Any]] = {name: [] for name in taken}
    rest = iter(payments)
    while some := list(islice(rest, CHUNK)):
        for name, take in taken.items():
            told[name].extend(map(take, some))
    columns: dict[str, Any] = {}
    for name, values in told.items():
        if name == "amount":
            columns[name] = _ints(values)
        elif name in _FEW:
            known = {value: code for code, value in enumerate(dict.fromkeys(v for v in values if v is not None))}
            codes = np.fromiter((known.get(value, -1) for value in values), dtype=np.int32, count=len(values))
            texts = pd.Index([str(value) for value in known], dtype=object)
            columns[name] = pd.Categorical.from_codes(codes, categories=texts)
        elif name in PAYMENT_COLUMNS or any(value is not None for value in values):
            # As objects: pandas would make its own texts of them, and of None a number.
            columns[name] = pd.Series(values, dtype=object)
    return pd.DataFrame(columns, copy=False)


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
        self._reader = Reader(channels)
        self._ids = _ints(items["id"])
        if (self._ids[1:] < self._ids[:-1]).any():
            items = items.iloc[np.argsort(self._ids)]
            self._ids = np.sort(self._ids)
        self._amount, self._open = _ints(items["amount"]), _ints(items["open"])
        # Of what is paid in two ways, the single form alone says which part of it a payment is for.
        self._on_delivery = _ints(items["on_delivery"]) if "on_delivery" in items else np.zeros_like(self._open)
        self._channel, self._status, self._currency = (
            _Coded(items[name]) for name in ("channel", "status", "currency")
        )
        self._texts = {name: _objects(items[name]) for name in ("number", "customer", "customer_name", "group")}
        self._statuses = [Status(text) for text in self._status.texts]
        self._closed = self._status.among(status.value for status in CLOSED)
        self._served = self._channel.among(channels)
        self._index = _Index(references, self._ids)
        self._people()
        self._owner = self._owners(accounts.drop_duplicates()) if len(accounts) else {}
        # The columns settle all that is open of an item, so they only note which payment did it. What the single form
        # takes off an item is noted too: an answer may be asked for when later payments have been decided.
        self._count = 0
        self._settled_by = np.full(len(self._ids), _NEVER)
        self._taken_off: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self._collected: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)

    def _people(self) -> None:
        """Count off customers and groups, and units: what a payment which names one of the items may settle with it."""
        channel, channels = self._channel.codes, len(self._channel.texts)
        customer, customers = pd.factorize(self._texts["customer"])
        company, companies = pd.factorize(self._texts["group"])
        self._customers = customers
        persons = len(customers) * channels
        self._person: Ints = np.where(customer >= 0, customer * channels + channel, -1)
        self._group: Ints = np.where(company >= 0, company * channels + channel, -1)
        known = self._person >= 0
        if len(companies) and persons:
            # Whoever is in a group with one order is in it with all.
            of_person = np.full(persons, -1, dtype=np.int64)
            np.maximum.at(of_person, self._person[known], self._group[known])
            self._group[known] = of_person[self._person[known]]
        alone = np.arange(len(self._ids)) + persons + len(companies) * channels
        self._unit: Ints = np.where(self._group >= 0, self._group + persons, np.where(known, self._person, alone))

    @cached_property
    def _by_person(self) -> _Rows:
        return _Rows(self._person)

    @cached_property
    def _by_group(self) -> _Rows:
        return _Rows(self._group)

    def _owners(self, told: pd.DataFrame) -> dict[str, int]:
        """Return, for each account, an item of the one customer that it is known of."""
        told = told[~told["account"].duplicated(keep=False)]
        customer = _ints(pd.Index(self._customers, dtype=object).get_indexer(pd.Index(told["customer"], dtype=object)))
        channel = self._channel.codes_of(told["channel"])
        persons = np.where((customer >= 0) & (channel >= 0), customer * len(self._channel.texts) + channel, -1)
        found: dict[str, int] = {}
        for account, person in zip(_objects(told["account"]).tolist(), persons.tolist(), strict=True):
            if person >= 0 and (items := self._by_person.of(person)):
                found[account] = items[0]
        return found

    def ids(self, places: Ints) -> Ints:
        """Return the ids of items by their places."""
        return self._ids[places]

    def match(self, payments: pd.DataFrame) -> Matched:
        """Decide what payments settle, one after the other in the order given.

        payments has PAYMENT_COLUMNS. More than a chunk of them take more memory, and are no quicker.
        """
        payments_ = _Payments(payments)
        told = self._told(payments_)
        item, named = self._by_symbol(told)
        outcome = _without_settling(told, named)

        fits = told.plain & (outcome == _UNDECIDED) & (named == 1)
        fits[fits] = self._fit(told, np.flatnonzero(fits), item[fits])
        fits[fits] = self._same_name(payments_, np.flatnonzero(fits), item[fits])
        cases = self._cases(payments_, _listed(np.flatnonzero((outcome == _UNDECIDED) & ~fits)))
        sole = {place: only for place, case in cases.items() if (only := case.sole) is not None}
        read, meant = _ints(list(sole)), _ints(list(sole.values()))
        item[read], fits[read] = meant, self._fit(told, read, meant)

        places = np.flatnonzero(fits)
        settles, again = self._in_turn(told, places, item[places], cases)
        outcome[places[settles]] = _CODE[Outcome.EXACT]
        outcome[places[again]] = _CODE[Outcome.DUPLICATE]
        self._settled_by[item[places[settles]]] = self._count + places[settles]
        item[outcome != _CODE[Outcome.EXACT]] = -1

        rest = _listed(np.flatnonzero(outcome == _UNDECIDED))
        cases |= self._cases(payments_, [place for place in rest if place not in cases])
        matches: dict[int, Match] = {}
        for place in rest:
            matches[place] = self._settle(cases[place], int(told.owner[place]), self._count + place)
            outcome[place] = _CODE[matches[place].outcome]
        before = self._count
        self._count += payments_.count
        outcomes: list[Outcome] = _EACH_OUTCOME[outcome].tolist()
        return Matched(self, payments_, outcomes, item, told.amount, told.owner, matches, cases, before)

    def _told(self, payments: _Payments) -> _Told:
        account, accounts = payments.coded("account")
        counts = np.zeros((len(accounts) + 1, len(self._channel.texts) + 1), dtype=np.bool_)
        for row, name in enumerate([*accounts, None]):
            owning = [rules.channel for rules, owns in self._reader.owning(name) if owns]
            counts[row, self._channel.codes_of(owning)] = True
        # The last of each is for what has no account, and for channels that no item is of.
        counts[:, -1] = False
        currency, currencies = payments.coded("currency")
        kind, kinds = payments.coded("kind")
        back = np.array([*(name == Kind.RETURN for name in kinds), False], dtype=np.bool_)
        return _Told(
            amount=payments.amount,
            currency=self._currency.codes_of([*currencies, ""])[currency],
            back=back[kind],
            plain=self._plain(payments),
            symbol=symbols(payments.texts("variable_symbol")),
            account=account,
            counts=counts,
            owner=self._owners_of(payments),
        )

    def _plain(self, payments: _Payments) -> Bools:
        """Say where the field of the variable symbol is all that a payment can name an order by."""
        named = np.zeros(payments.count, dtype=np.bool_)
        for name in ("provider_reference", "rf", "tracking_number", "order_reference"):
            named |= payments.given(name)
        ids, texts = payments.texts("end_to_end_id"), payments.texts("text")
        for place in _listed(np.flatnonzero(payments.given("end_to_end_id"))):
            named[place] |= self._reader.id_counts(ids[place])
        if self._reader.words_count:
            named |= payments.given("text")
        else:
            # Most texts have no number, and then name nothing.
            named |= says_numbers([text or "" for text in texts.tolist()])
        return ~named

    def _owners_of(self, payments: _Payments) -> Ints:
        """Return an item of the one customer who owns the account that a payment came from, -1 where there is none."""
        found = np.full(payments.count, -1, dtype=np.int64)
        accounts = payments.texts("payer_account")
        for place in _listed(np.flatnonzero(payments.given("payer_account"))) if self._owner else ():
            account = normal_account(accounts[place])
            owner = self._owner.get(account, -1)
            found[place] = owner if owner >= 0 and is_account(account) else -1
        return found

    def _by_symbol(self, told: _Told) -> tuple[Ints, Ints]:
        """Return an item that each plain payment names, -1 where there is none, and how many it names."""
        places = np.flatnonzero(told.plain & (told.symbol > 0))
        items, which = self._index.find_symbols(told.symbol[places])
        places = places[which]
        counts = self._served[items] & told.counts[told.account[places], self._channel.codes[items]]
        items, places = items[counts], places[counts]
        item = np.full(len(told.plain), -1, dtype=np.int64)
        item[places] = items
        return item, _ints(np.bincount(places, minlength=len(told.plain)))

    def _open_now(self, items: Ints) -> Ints:
        return np.where(self._settled_by[items] < self._count, 0, self._open[items])

    def _fit(self, told: _Told, places: Ints, items: Ints) -> Bools:
        """Say where a payment settles the one item that it names, or would have if that weren't settled already.

        Who owns the payer's account must be the item's customer, or of his group.
        """
        amount, owner = told.amount[places], told.owner[places]
        left = self._open_now(items)
        fits = (amount > 0) & (self._currency.codes[items] == told.currency[places]) & ~self._closed[items]
        fits &= (left == amount) | ((left <= 0) & (self._amount[items] == amount))
        fits &= self._on_delivery[items] == 0
        if self._owner:
            fits &= (owner < 0) | (self._unit[owner] == self._unit[items])
        return fits

    def _same_name(self, payments: _Payments, places: Ints, items: Ints) -> Bools:
        """Say where the payer's name can't speak for another's order, being the customer's own or none."""
        return agree(payments.texts("payer_name")[places], self._texts["customer_name"][items])

    def _in_turn(self, told: _Told, places: Ints, items: Ints, cases: Mapping[int, _Case]) -> tuple[Bools, Bools]:
        """Say which of the payments that fit one item settle it, and for which it was settled already.

        The first that comes for an item settles it, unless a payment before, which is still to be decided, may take
        something of the same customer or group; those after it find nothing left.
        """
        left = self._open_now(items) > 0
        first = left & ~_seen_before(items)
        alike = told.amount[places] == self._amount[items]
        fitting = set(places.tolist())
        # Who comes again with another amount may mean another order of the customer; so may all that don't fit. A name
        # alone settles nothing.
        by: list[int] = places[left & ~first & ~alike].tolist()
        touched: list[int] = items[left & ~first & ~alike].tolist()
        for place, case in cases.items():
            if place not in fitting and told.amount[place] > 0:
                owner = int(told.owner[place])
                more = [item for item, kind, _, _ in case.hits if kind is not EvidenceKind.PAYER_NAME]
                more += [owner] if owner >= 0 else []
                by += [place] * len(more)
                touched += more
        settles = first & (places < _earliest(self._unit[_ints(touched)], _ints(by), self._unit[items]))
        again = ~left
        rows = np.flatnonzero(left & alike & ~first)
        again[rows] = np.isin(items[rows], items[settles])
        return settles, again

    def _cases(self, payments: _Payments, places: Iterable[int]) -> dict[int, _Case]:
        """Read payments in full, and look up what they name."""
        cases: dict[int, _Case] = {}
        for place in places:
            payment = payments[place]
            cases[place] = _Case(payment, self._reader.read(payment), [])
        said: defaultdict[EvidenceKind, list[tuple[_Case, str, str | None, bool]]] = defaultdict(list)
        for case in cases.values():
            for (kind, value, channel), doubt in case.read.items():
                if kind not in _ACCOUNTS:
                    said[kind].append((case, value, channel, doubt == BARE))
        for kind, names in said.items():
            items, which = self._index.find_texts(kind, [value for _, value, _, _ in names])
            served = self._served[items].tolist()
            for item, place, known in zip(_listed(items), _listed(which), served, strict=True):
                case, value, channel, bare = names[place]
                if known and channel in (None, self._channel.of(item)):
                    case.hits.append((item, kind, value, bare))
        return cases

    def _settle(self, case: _Case, owner: int, number: int) -> Match:
        """Decide one payment by the single form, and take what it settles off the items."""
        match, payment = self.decide(case, owner, number), case.payment
        for part in match.parts:
            at, taken = int(np.searchsorted(self._ids, part.item.id)), part.amount.minor + part.write_off.minor
            self._open[at] -= taken
            self._taken_off[at].append((number, taken))
            if self._on_delivery[at] and payment.method is Method.CASH_ON_DELIVERY:
                self._collected[at].append((number, taken))
        return match

    def decide(self, case: _Case, owner: int, number: int) -> Match:
        """Return the single form's answer, with the items as they were when so many payments had been decided."""
        payment = case.payment
        called: dict[int, set[tuple[EvidenceKind, str]]] = {}
        for at, kind, value, _ in case.hits:
            called.setdefault(at, set()).add((kind, value))
        if owner >= 0 and (account := payer_account_of(payment)):
            for at in self._by_person.of(self._person[owner]):
                called.setdefault(at, set()).add((EvidenceKind.PAYER_ACCOUNT, account))
            for at in self._by_group.of(self._group[owner]) if self._group[owner] >= 0 else ():
                if self._person[at] != self._person[owner]:
                    called.setdefault(at, set()).add((EvidenceKind.GROUP_ACCOUNT, account))
        # With another order of the customer whose order is named, more money can come to more than one.
        for item in [at for at, names in called.items() if any(kind not in WHO for kind, _ in names)]:
            more = payment.amount.minor > self._left(item, number) or self._on_delivery[item]
            if more and self._person[item] >= 0:
                for at in self._by_person.of(self._person[item]):
                    called.setdefault(at, set())
        items = [self._item(at, called[at], number) for at in sorted(called)]
        return decide(payment, written_out(case.read), items, self._channels, self._reader)

    def _left(self, item: int, number: int) -> int:
        """Return what was open of an item when so many payments had been decided."""
        if self._settled_by[item] < number:
            return 0
        return int(self._open[item]) + sum(taken for by, taken in self._taken_off.get(item, ()) if by >= number)

    def _item(self, at: int, called: set[tuple[EvidenceKind, str]], number: int) -> OpenItem:
        texts, currency = self._texts, self._currency.of(at)
        on_delivery = int(self._on_delivery[at])
        collected = sum(taken for by, taken in self._collected.get(at, ()) if by < number) if on_delivery else 0
        return OpenItem(
            id=int(self._ids[at]),
            order_id=int(self._ids[at]),
            channel=self._channel.of(at),
            number=texts["number"][at],
            status=self._statuses[int(self._status.codes[at])],
            amount=Money(int(self._amount[at]), currency),
            open=Money(self._left(at, number), currency),
            references=frozenset(called),
            customer=texts["customer"][at],
            customer_name=texts["customer_name"][at] or "",
            group=texts["group"][at],
            customer_number=texts["customer"][at],
            on_delivery=Money(on_delivery, currency) if on_delivery else None,
            collected=Money(collected, currency) if collected else None,
        )

    def answers(self, matched: Matched) -> Iterator[Match]:
        """Yield the whole answer of each payment, with its reason and evidence, as the single form gives it."""
        places = [place for place in range(matched.payments.count) if place not in matched.cases]
        cases = {**matched.cases, **self._cases(matched.payments, places)}
        for place in range(matched.payments.count):
            match = matched.matches.get(place)
            yield match or self.decide(cases[place], int(matched.owner[place]), matched.before + place)


@dataclass(frozen=True, slots=True)
class Matched:
    """What payments turned out to be, in their order.

    items has the place of the one item that was settled exactly, where the columns decided, else -1; matches has the
    answers of the single form, by the payment's place, and cases what was read in full.
    """

    of: OpenItems
    payments: _Payments
    outcomes: Sequence[Outcome]
    items: Ints
    amount: Ints
    owner: Ints
    matches: Mapping[int, Match]
    cases: Mapping[int, _Case]
    before: int

    def answers(self) -> Iterator[Match]:
        """Yield the whole answer of each payment."""
        return self.of.answers(self)

    def allocations(self) -> pd.DataFrame:
        """Return what was allocated: a row per payment's place and item's id, with the amount in minor units."""
        plain = np.flatnonzero(self.items >= 0)
        parts = [(place, p.item.id, p.amount.minor) for place, match in self.matches.items() for p in match.parts]
        rows = np.array(sorted(parts), dtype=np.int64).reshape(-1, 3)
        columns = np.stack([plain, self.of.ids(self.items[plain]), self.amount[plain]], axis=1)
        both = np.concatenate([columns, rows])
        # Stable, as the parts of one payment are in the order of their items.
        both = both[np.argsort(both[:, 0], kind="stable")]
        return pd.DataFrame({"payment": both[:, 0], "item": both[:, 1], "amount": both[:, 2]})


@dataclass(frozen=True, slots=True)
class _Told:
    """What a row of payments tells by its fields.

    plain is where the variable symbol is all that can name an order, owner an item of the customer whose known account
    it is, else -1. Where counts[account, channel] is set, a symbol counts in the channel.
    """

    amount: Ints
    currency: Ints
    back: Bools
    plain: Bools
    symbol: Ints
    account: Ints
    counts: Bools
    owner: Ints


@dataclass(frozen=True, slots=True)
class _Case:
    """A payment that was read in full, and its hits: items, what each is called in it, and whether that is bare."""

    payment: IncomingPayment
    read: Read
    hits: list[tuple[int, EvidenceKind, str, bool]]

    @property
    def sole(self) -> int | None:
        """The item that it names, if nothing speaks for another."""
        if len({item for item, _, _, _ in self.hits}) != 1:
            return None
        named = any(kind is not EvidenceKind.PAYER_NAME and not bare for _, kind, _, bare in self.hits)
        return self.hits[0][0] if named else None


class _Payments:
    """Payments in columns; one by itself, as the single form takes it, is made when it is asked for."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.count = len(frame)
        self.amount: Ints = frame["amount"].to_numpy(dtype=np.int64)
        self._coded = {name: _Coded(frame[name]) for name in _FEW if name in frame}
        others = [name for name in _PAYMENT_FIELDS if name not in _FEW and name != "amount" and name in frame]
        self._texts = {name: _objects(frame[name]) for name in others}

    def texts(self, name: str) -> Objects:
        """Return a column of texts; a column that isn't there is one of None."""
        found = self._texts.get(name)
        return np.full(self.count, None, dtype=object) if found is None else found

    def given(self, name: str) -> Bools:
        """Say where a column of texts has something."""
        found = self._texts.get(name)
        return np.zeros(self.count, dtype=np.bool_) if found is None else found.astype(np.bool_)

    def coded(self, name: str) -> tuple[Ints, list[str]]:
        """Return a column's codes and its different texts, -1 for what has none."""
        found = self._coded.get(name)
        return (np.full(self.count, -1, dtype=np.int64), []) if found is None else (found.codes, found.texts)

    def __getitem__(self, place: int) -> IncomingPayment:
        told: dict[str, Any] = {name: column[place] for name, column in self._texts.items()}
        few: dict[str, Any] = {
            name: column.of(place) for name, column in self._coded.items() if column.codes[place] >= 0
        }
        told["amount"] = Money(int(self.amount[place]), few.pop("currency"))
        told["method"] = Method(few.pop("method"))
        told["kind"] = Kind(few.pop("kind", Kind.PAYMENT))
        return IncomingPayment(**told, **few)


class _Coded:
    """A column of few different texts: each row's code, and the texts by their codes."""

    def __init__(self, column: pd.Series[Any]) -> None:
        codes, texts = _codes(column)
        self.codes: Ints = _ints(codes)
        self.texts = texts

    def of(self, row: int) -> str:
        """Return the text of a row."""
        return self.texts[int(self.codes[row])]

    def among(self, texts: Iterable[str]) -> Bools:
        """Say which rows have one of some texts."""
        known = set(texts)
        return np.isin(self.codes, [code for code, text in enumerate(self.texts) if text in known])

    def codes_of(self, texts: Iterable[str]) -> Ints:
        """Return the codes of texts, -1 for what no row has."""
        known = {text: code for code, text in enumerate(self.texts)}
        return _ints([known.get(text, -1) for text in texts])


class _Rows:
    """The rows that have each code of a column."""

    def __init__(self, codes: Ints) -> None:
        self._rows: Ints = _ints(np.argsort(codes, kind="stable"))
        self._codes = codes[self._rows]

    def of(self, code: int) -> list[int]:
        """Return the rows with a code."""
        begin, end = (int(np.searchsorted(self._codes, each)) for each in (code, code + 1))
        return _listed(self._rows[begin:end])


class _Index:
    """What items are called. A kind of reference is indexed when a payment first names something of it."""

    def __init__(self, references: pd.DataFrame, ids: Ints) -> None:
        kinds, names = _codes(references["kind"])
        self._kinds = {EvidenceKind(name): kind for kind, name in enumerate(names)}
        self._kind, self._ids = kinds, ids
        self._item, self._value = _ints(references["item"]), _objects(references["value"])
        self._made: dict[EvidenceKind, _Keys] = {}

    def _of(self, kind: EvidenceKind) -> _Keys:
        if kind not in self._made:
            rows = np.flatnonzero(self._kind == self._kinds.get(kind, -1))
            values = self._value[rows]
            self._made[kind] = _Keys(_keys(kind, values), self._places(self._item[rows]), values)
        return self._made[kind]

    def _places(self, items: Ints) -> Ints:
        # Ids without gaps needn't be searched for.
        whole = len(self._ids) and self._ids[-1] - self._ids[0] == len(self._ids) - 1
        return items - self._ids[0] if whole else np.searchsorted(self._ids, items)

    def find_symbols(self, symbols: Ints) -> tuple[Ints, Ints]:
        """Return the items that have variable symbols, and beside each the place of its symbol."""
        keys = self._of(EvidenceKind.VARIABLE_SYMBOL)
        rows, which = keys.find(symbols)
        return keys.items[rows], which

    def find_texts(self, kind: EvidenceKind, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """Return the items that are called by references of a kind, and beside each the place of its reference."""
        keys, wanted = self._of(kind), _objects(texts)
        rows, which = keys.find(_keys(kind, wanted))
        # Two texts can have one hash.
        same = np.asarray(keys.texts(rows) == wanted[which], dtype=np.bool_)
        return keys.items[rows[same]], which[same]


class _Keys:
    """Keys of 64 bits in their order, each with where its items begin among all items."""

    def __init__(self, keys: Ints, items: Ints, texts: Objects) -> None:
        order = np.argsort(keys)
        self.items, self._order, self._texts = items[order], order, texts
        keys = keys[order]
        begins = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))
        self._keys, self._begins = keys[begins], np.append(begins, len(keys))

    def texts(self, rows: Ints) -> Objects:
        """Return the texts that rows have; to put them all in order would take longer."""
        return self._texts[self._order[rows]]

    def find(self, wanted: Ints) -> tuple[Ints, Ints]:
        """Return the rows that have keys, and beside each which of the keys wanted it is."""
        if not len(self._keys):
            return (nothing := np.zeros(0, dtype=np.int64)), nothing
        # Looking up in the order of the keys goes through memory once, and is several times as quick.
        order = np.argsort(wanted)
        wanted = wanted[order]
        at = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        known = self._keys[at] == wanted
        at, order = at[known], order[known]
        begins, counts = self._begins[at], self._begins[at + 1] - self._begins[at]
        within = np.arange(counts.sum(), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        return _ints(np.repeat(begins, counts) + within), _ints(np.repeat(order, counts))


def _keys(kind: EvidenceKind, texts: Objects) -> Ints:
    """Return a key of 64 bits for each reference: a symbol's own number, else a hash."""
    if kind is EvidenceKind.VARIABLE_SYMBOL:
        return normal_symbols(texts)
    return np.fromiter(map(hash, texts.tolist()), dtype=np.int64, count=len(texts))


def _without_settling(told: _Told, named: Ints) -> Ints:
    """Return the codes of the outcomes that follow without a look at what is open."""
    nothing = told.plain & (named == 0)
    outcomes = {
        Outcome.RETURNED: told.back,
        Outcome.UNKNOWN: (told.amount == 0) | (nothing & (told.amount > 0) & (told.owner < 0)),
        Outcome.REFUND: told.plain & (told.amount < 0) & (named > 0),
        Outcome.OUTGOING: nothing & (told.amount < 0),
    }
    return np.select(list(outcomes.values()), [_CODE[outcome] for outcome in outcomes], _UNDECIDED)


def _codes(column: pd.Series[Any]) -> tuple[npt.NDArray[Any], list[str]]:
    """Return a number for each text of a column, -1 for none, and the different texts."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(), column.cat.categories.tolist()
    codes, texts = pd.factorize(column)
    return codes, list(texts)


def _listed(values: Ints) -> list[int]:
    return values.tolist()


def _earliest(units: Ints, places: Ints, wanted: Ints) -> Ints:
    """Return for each unit wanted the first of the places that are beside it among the units, or _NEVER."""
    if not len(units):
        return np.full(len(wanted), _NEVER)
    each, which = np.unique(units, return_inverse=True)
    first = np.full(len(each), _NEVER)
    np.minimum.at(first, which, places)
    at = np.searchsorted(each, wanted).clip(max=len(each) - 1)
    return np.where(each[at] == wanted, first[at], _NEVER)


def _seen_before(values: Ints) -> Bools:
    return np.asarray(pd.Series(values).duplicated(), dtype=np.bool_)


def _objects(values: Any) -> Objects:
    return np.asarray(values, dtype=object)


def _ints(values: Any) -> Ints:
    return np.array(values, dtype=np.int64)
