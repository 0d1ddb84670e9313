"""Preview of matching: what a change of rules would have made of payments, each tried again by itself.

The past is rebuilt from what is stored. Of each payment that settled something, the items are taken as they were open
just before; one that waits is tried on what is open now, as it will be when the rules are saved. What can't be rebuilt
is taken as it is now: the names that items have, and the customers' accounts and groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from domain.allocation import OpenItem
from domain.matching import Match, Reader, Reference, decide, named_customer
from domain.orders import Status
from domain.payments import Method, Payment
from domain.preview import Difference, Narrowed, Subject
from domain.rules import ChannelRules, EvidenceKind, Policy, Surplus
from domain.wording import listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What an allocation, or its reversal, relieved an item of, in minor units."""

    id: int
    minor: int
    at: datetime
    method: Method = Method.BANK_TRANSFER


@dataclass(frozen=True, slots=True, kw_only=True)
class PastItem:
    """An open item of the past: as it is now with nothing taken off it, and what became of it since.

    statuses are those that its order had, each with the moment at which it came to it, the oldest first.
    customer_number is the channel's own.
    """

    item: OpenItem
    made_at: datetime | None
    statuses: tuple[tuple[datetime, Status], ...]
    taken: tuple[Taken, ...]
    customer_number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PastPayment:
    """A payment of the past. first is its first allocation, at when it was decided; neither of one that still waits."""

    payment: Payment
    first: int | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A customer whom an account is known of, and the payment that taught it, None where the shop told it."""

    customer_id: int
    payment_id: int | None


_ALIKE = 200
"""As matching does, of one name with an amount at most so many items are looked at, the newest ones."""


class PastItems:
    """Everything that payments could have settled, found by what it is called and by whose it is."""

    def __init__(
        self, items: Iterable[PastItem], accounts: Mapping[str, Sequence[Account]], owners: Mapping[str, int]
    ) -> None:
        """Take items with the references that they have in the store, which has no accounts among them.

        accounts are those of payers, and owners whose they are known to be now.
        """
        self._items = {one.item.id: one for one in items}
        self._accounts, self._owners = accounts, owners
        # Old and new rules ask about one payment after the other, and mostly mean the same items.
        self._asked: PastPayment | None = None
        self._was: dict[tuple[int, frozenset[tuple[EvidenceKind, str]]], OpenItem] = {}
        self._by_name: dict[tuple[EvidenceKind, str], list[int]] = defaultdict(list)
        self._by_customer: dict[int | str | None, list[int]] = defaultdict(list)
        self._by_group: dict[tuple[str, str | None], list[int]] = defaultdict(list)
        for id_, one in sorted(self._items.items()):
            self._by_customer[one.item.customer].append(id_)
            self._by_group[one.item.channel, one.item.group].append(id_)
            for name in one.item.references:
                self._by_name[name].append(id_)

    def number_of(self, item: OpenItem) -> str:
        """Return the channel's own number of an item's customer."""
        return self._items[item.id].customer_number

    def candidates(
        self, past: PastPayment, references: Sequence[Reference], channels: Mapping[str, ChannelRules]
    ) -> list[OpenItem]:
        """Return the items that a payment's references can mean, with what was open of each, as matching gets them."""
        if past is not self._asked:
            self._asked, self._was = past, {}
        said: dict[int, set[tuple[EvidenceKind, str]]] = defaultdict(set)
        owing: set[int | str | None] = set()
        for reference in references:
            name = (reference.kind, reference.value)
            if reference.kind in (EvidenceKind.PAYER_ACCOUNT, EvidenceKind.GROUP_ACCOUNT):
                continue
            called = self._by_name.get(name, ())
            for id_ in called[-_ALIKE:] if reference.kind is EvidenceKind.PAYER_NAME else called:
                said[id_].add(name)
                if reference.kind is not EvidenceKind.PAYER_NAME:
                    owing.add(self._items[id_].item.customer)
        for reference in references:
            if reference.kind is EvidenceKind.PAYER_ACCOUNT:
                owner = self._owner(reference.value, past)
                if owner is not None:
                    owing.add(owner)
                    self._speak_for(owner, reference.value, channels, said)
        for customer in owing:
            for id_ in self._by_customer.get(customer, ()):
                said.setdefault(id_, set())
        found = (self._as_it_was(self._items[id_], past, names) for id_, names in sorted(said.items()))
        return [item for item in found if item is not None]

    def _owner(self, account: str, past: PastPayment) -> int | None:
        """Return the one customer whose account it was known to be when the payment was decided."""
        if past.at is None:
            return self._owners.get(account)
        known = self._accounts.get(account, ())
        of = {one.customer_id for one in known if one.payment_id is None or one.payment_id < past.payment.id}
        return of.pop() if len(of) == 1 else None

    def _speak_for(
        self,
        owner: int,
        account: str,
        channels: Mapping[str, ChannelRules],
        said: dict[int, set[tuple[EvidenceKind, str]]],
    ) -> None:
        """Let an account speak for its owner's items, and for those of his group where companies pay for each other."""
        his = self._by_customer.get(owner, ())
        for id_ in his:
            said[id_].add((EvidenceKind.PAYER_ACCOUNT, account))
        for item in {
            (one.item.channel, one.item.group): one.item for one in map(self._items.__getitem__, his)
        }.values():
            rules = channels.get(item.channel)
            if rules is None or not item.group or item.group not in rules.references.paying_groups:
                continue
            for id_ in self._by_group[item.channel, item.group]:
                if self._items[id_].item.customer != owner:
                    said[id_].add((EvidenceKind.GROUP_ACCOUNT, account))

    def _as_it_was(self, one: PastItem, past: PastPayment, names: set[tuple[EvidenceKind, str]]) -> OpenItem | None:
        """Return an item as it was open for a payment, or None if it wasn't there yet."""
        at = past.at
        key = (one.item.id, frozenset(names))
        if key in self._was:
            return self._was[key]
        if at is not None and one.made_at is not None and one.made_at > at:
            return None
        taken = [each for each in one.taken if _before(each, past)]
        status = one.item.status
        if at is not None and one.statuses:
            until = [means for when, means in one.statuses if when < at or (past.first is None and when == at)]
            status = until[-1] if until else one.statuses[0][1]
        was = replace(one.item, status=status, references=key[1])
        for method in {each.method for each in taken}:
            was = was.relieved(sum(each.minor for each in taken if each.method is method), method)
        self._was[key] = was
        return was


def _before(each: Taken, past: PastPayment) -> bool:
    """Say whether an item had been relieved of that before a payment was decided."""
    if past.first is not None:
        return each.id < past.first
    return past.at is None or each.at <= past.at


_POLICIES = {
    Policy.RELEASE: "carried on",
    Policy.WAIT: "kept for the order",
    Policy.OPERATOR: "left to a person",
    Policy.BALANCE: "kept on the balance",
    Policy.REFUND: "to be sent back",
    Policy.IGNORE: "left alone",
}
_SURPLUS = {
    Surplus.BALANCE: "the rest kept on the balance",
    Surplus.REFUND: "the rest to be sent back",
    Surplus.OPERATOR: "the rest left to a person",
}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What becomes of a payment, in words; orders are what it settles, each with how much of it."""

    becomes: str
    orders: tuple[tuple[str, int], ...]

    @property
    def said(self) -> str:
        numbers = listed([number for number, _ in self.orders]) if self.orders else ""
        return f"{self.becomes}: {numbers}" if numbers else self.becomes


class _Side:
    """One set of rules, asked about payments."""

    def __init__(self, channels: Mapping[str, ChannelRules], items: PastItems) -> None:
        self._channels, self._items = channels, items
        self._reader = Reader(channels)
        self._narrowed = {channel: Narrowed(rules) for channel, rules in channels.items()}

    def answer(self, past: PastPayment) -> _Answer:
        """Say what becomes of a payment by these rules."""
        references = self._reader.references(past.payment)
        candidates = self._items.candidates(past, references, self._channels)
        match = decide(past.payment, references, candidates, self._channels, self._reader)
        policy = match.policy
        if policy is Policy.BALANCE and not match.parts and named_customer(match) is None:
            policy = Policy.OPERATOR
        said = [match.outcome.replace("_", " "), _POLICIES[policy]]
        if match.parts and match.surplus.minor > 0:
            said.append(_SURPLUS[self._surplus(match)])
        return _Answer(", ".join(said), tuple((part.item.number, part.amount.minor) for part in match.parts))

    def _surplus(self, match: Match) -> Surplus:
        """Say where goes what was paid too much; of orders of several customers, to a person."""
        owing = {(part.item.channel, part.item.customer) for part in match.parts}
        item = match.parts[0].item
        if len(owing) != 1 or not isinstance(item.customer, int):
            return Surplus.OPERATOR
        own = self._narrowed[item.channel].of_customer(item.group, self._items.number_of(item))
        return own.outcomes.surplus


def preview_payments(
    pasts: Iterable[PastPayment],
    items: PastItems,
    old: Mapping[str, ChannelRules],
    new: Mapping[str, ChannelRules],
    *,
    advance: Callable[[], object] = lambda: None,
) -> list[Difference]:
    """Return what new rules would have made otherwise of payments; old and new are the rules of every channel."""
    before, after = _Side(old, items), _Side(new, items)
    found: list[Difference] = []
    for past in pasts:
        was, becomes = before.answer(past), after.answer(past)
        if was != becomes:
            other = f"be “{becomes.becomes}” instead of “{was.becomes}”"
            found.append(
                Difference(
                    subject=Subject.PAYMENT,
                    name=str(past.payment.id),
                    decision="match",
                    now=was.said,
                    then=becomes.said,
                    kind=other
                    if was.becomes != becomes.becomes
                    else f"settle other orders, and be “{was.becomes}” as well",
                )
            )
        advance()
    return found
