"""Reconciliation: which open items a payment settles. Evidence, not scores; one payment at a time.

A payment is settled by itself only when the evidence is unique. Whatever could be read in two ways is left to a
person, with the evidence shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from domain.allocation import OpenItem, Part, Share, split
from domain.money import Money
from domain.orders import CLOSED
from domain.payments import IncomingPayment, Kind, Outcome
from domain.references import (
    bare_numbers,
    compact,
    names_agree,
    needs_digits,
    normal_account,
    normal_number,
    normal_rf,
    normal_variable_symbol,
    payer_reference,
    rf_references_in,
    says_a_number,
    symbol_readings,
    token_readings,
)
from domain.rules import ChannelRules, EvidenceKind, Outcomes, Policy
from domain.wording import listed

_NO_REFERENCE = frozenset({"", "NOTPROVIDED", "NOTPROVIDED.", "NONREF"})
_WITHOUT_BANK = re.compile(r"[0-9-]{1,17}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in its normal form; without a channel it holds in every one.

    It is not sure when the text that it stands in can be read in another way too, and bare when it is a number whose
    letters were left out.
    """

    kind: EvidenceKind
    value: str
    channel: str | None = None
    sure: bool = True
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """One reason to think that a payment is for an item, in words that an operator can check."""

    kind: EvidenceKind
    said: str
    sure: bool = True
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item that a payment may be for, with every piece of evidence found."""

    item: OpenItem
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a payment turned out to be, why, and how its money is split; surplus is what nobody asked for.

    Where there are parts, they and the surplus come to the payment's amount; where there are none, nothing is split.
    """

    outcome: Outcome
    policy: Policy
    reason: str
    parts: tuple[Part, ...] = ()
    surplus: Money
    candidates: tuple[Candidate, ...] = ()


def channels_of(payment: IncomingPayment, channels: Mapping[str, ChannelRules]) -> tuple[ChannelRules, ...]:
    """Return the channels that own the account a payment arrived on; all of them when nobody owns it."""
    return Reader(channels).channels_of(payment.account)


def references_of(payment: IncomingPayment, channels: Mapping[str, ChannelRules]) -> tuple[Reference, ...]:
    """Return every reference a payment carries, in normal form, without repeats.

    A variable symbol counts only in the channels that own the receiving account. Order and invoice numbers are looked
    for in free text by each channel's own pattern; the end-to-end id, which the payer chose, counts in the same ones.
    """
    return Reader(channels).references(payment)


def payer_account_of(payment: IncomingPayment) -> str | None:
    """Return the account that a payment came from in its normal form, or None for one that is no account by itself."""
    account = normal_account(payment.payer_account or "")
    return account if is_account(account) else None


def is_account(account: str) -> bool:
    """Say whether a text is one account by itself; a domestic number is another at every bank."""
    return account not in _NO_REFERENCE and not _WITHOUT_BANK.fullmatch(account)


SURE, UNSURE, BARE = 0, 1, 2
Read = dict[tuple[EvidenceKind, str, str | None], int]
"""References in short: kind, value and channel, with the least of the doubts that there are of it."""


def written_out(read: Read) -> tuple[Reference, ...]:
    """Return references as they are decided by."""
    return tuple(Reference(*name, sure=doubt == SURE, bare=doubt == BARE) for name, doubt in read.items())


def names_of(
    number: str,
    *,
    variable_symbol: str | None = None,
    rf: str | None = None,
    invoice_number: str | None = None,
    provider_reference: str | None = None,
    tracking_number: str | None = None,
) -> frozenset[tuple[EvidenceKind, str]]:
    """Return what payments can call an order by, in normal form; variable_symbol and rf are in theirs already."""
    named = {
        EvidenceKind.ORDER_NUMBER: normal_number(number),
        EvidenceKind.END_TO_END_ID: compact(number),
        EvidenceKind.VARIABLE_SYMBOL: variable_symbol,
        EvidenceKind.RF: rf,
        EvidenceKind.INVOICE_NUMBER: normal_number(invoice_number or ""),
        EvidenceKind.PROVIDER_REFERENCE: provider_reference,
        EvidenceKind.TRACKING_NUMBER: compact(tracking_number or ""),
    }
    return frozenset((kind, value) for kind, value in named.items() if value)


def named_customer(match: Match) -> int | None:
    """Return the one customer whose items a payment names, if at least one of them is named for sure."""
    named = [one for one in match.candidates if any(evidence.kind not in WHO for evidence in one.evidence)]
    sure = any(evidence.sure and evidence.kind not in WHO for one in named for evidence in one.evidence)
    customers = {one.item.customer for one in named}
    customer = customers.pop() if sure and len(customers) == 1 else None
    return customer if isinstance(customer, int) else None


class Reader:
    """Reads what payments carry, for a set of channels; one serves for any number of payments."""

    def __init__(self, channels: Mapping[str, ChannelRules]) -> None:
        self._channels = tuple(channels.values())
        self._by_name = channels
        self._narrowed: dict[tuple[str, str | None, str | None], ChannelRules] = {}
        self._owners: dict[str | None, tuple[tuple[ChannelRules, bool], ...]] = {}
        self._of_account: dict[str | None, tuple[ChannelRules, ...]] = {}
        patterns = [p for r in self._channels for p in (r.references.order_number, r.references.invoice_number) if p]
        self.words_count = not all(map(needs_digits, patterns))
        """Whether a text without a number can name an order."""

    def channels_of(self, account: str | None) -> tuple[ChannelRules, ...]:
        """Return the channels that own an account; all of them when nobody owns it."""
        if account not in self._of_account:
            self._of_account[account] = tuple(rules for rules, _ in self.owning(account))
        return self._of_account[account]

    def rules_of(self, item: OpenItem) -> ChannelRules:
        """Return the rules that hold for an item's customer."""
        rules, group, number = self._by_name[item.channel], item.group, item.customer_number
        if group not in rules.groups and number not in rules.customers:
            return rules
        key = (item.channel, group if group in rules.groups else None, number if number in rules.customers else None)
        if key not in self._narrowed:
            self._narrowed[key] = rules.for_customer(group=key[1], customer=key[2])
        return self._narrowed[key]

    def owning(self, account: str | None) -> tuple[tuple[ChannelRules, bool], ...]:
        """Return the same channels, each with whether the account is its own."""
        if account not in self._owners:
            normal = normal_account(account or "")
            owners = tuple((rules, True) for rules in self._channels if normal in rules.accounts)
            self._owners[account] = owners or tuple((rules, False) for rules in self._channels)
        return self._owners[account]

    def id_counts(self, end_to_end_id: str) -> bool:
        """Say whether an end-to-end id can name an order."""
        return self.words_count or end_to_end_id not in _NO_REFERENCE

    def references(self, payment: IncomingPayment) -> tuple[Reference, ...]:
        """Return every reference a payment carries, in normal form, without repeats."""
        return written_out(self.read(payment))

    def read(self, payment: IncomingPayment) -> Read:
        """Return the same in short."""
        found: Read = {}

        def add(kind: EvidenceKind, value: str | None, channel: str | None = None, *, sure: bool = True) -> None:
            if value and value not in _NO_REFERENCE:
                doubt = SURE if sure else UNSURE
                found[kind, value, channel] = min(found.get((kind, value, channel), doubt), doubt)

        told = (payment.text, payment.end_to_end_id, payment.order_reference)
        texts = [text for text in told if text and (self.words_count or says_a_number(text))]
        if payment.provider_reference:
            add(EvidenceKind.PROVIDER_REFERENCE, payment.provider_reference)
        if payment.rf:
            add(EvidenceKind.RF, normal_rf(payment.rf))
        if payment.tracking_number:
            add(EvidenceKind.TRACKING_NUMBER, compact(payment.tracking_number))
        if payment.order_reference:
            add(EvidenceKind.ORDER_NUMBER, normal_number(payment.order_reference))
        for text in texts:
            for reference in rf_references_in(text):
                add(EvidenceKind.RF, reference)
        for rules, owns in self.owning(payment.account):
            channel = rules.channel
            if payment.end_to_end_id:
                add(EvidenceKind.END_TO_END_ID, compact(payment.end_to_end_id), channel)
            if owns:
                if payment.variable_symbol:
                    add(EvidenceKind.VARIABLE_SYMBOL, normal_variable_symbol(payment.variable_symbol), channel)
                for text in texts:
                    for symbol in symbol_readings(text):
                        add(EvidenceKind.VARIABLE_SYMBOL, symbol.value, channel, sure=symbol.sure)
            if not texts:
                continue
            for kind, pattern in (
                (EvidenceKind.ORDER_NUMBER, rules.references.order_number),
                (EvidenceKind.INVOICE_NUMBER, rules.references.invoice_number),
            ):
                for text in texts if pattern else ():
                    for token in token_readings(text, pattern or ""):
                        add(kind, token.value, channel, sure=token.sure)
                    for number in bare_numbers(text, pattern or ""):
                        found.setdefault((kind, number, channel), BARE)
        if payer := payer_account_of(payment):
            add(EvidenceKind.PAYER_ACCOUNT, payer)
            add(EvidenceKind.GROUP_ACCOUNT, payer)
        if payment.payer_name and payment.amount.minor > 0:
            add(EvidenceKind.PAYER_NAME, payer_reference(payment.payer_name, payment.amount))
        return found


_WORDS = {
    EvidenceKind.PROVIDER_REFERENCE: "the gateway's reference",
    EvidenceKind.RF: "the RF reference",
    EvidenceKind.END_TO_END_ID: "the end-to-end id",
    EvidenceKind.TRACKING_NUMBER: "the tracking number",
    EvidenceKind.VARIABLE_SYMBOL: "the variable symbol",
    EvidenceKind.INVOICE_NUMBER: "the invoice number",
    EvidenceKind.ORDER_NUMBER: "the order number",
    EvidenceKind.PAYER_ACCOUNT: "the payer's known account",
    EvidenceKind.GROUP_ACCOUNT: "the known account of a company of its group",
    EvidenceKind.PAYER_NAME: "the payer's name with the exact amount",
}
WHO = frozenset({EvidenceKind.PAYER_ACCOUNT, EvidenceKind.GROUP_ACCOUNT, EvidenceKind.PAYER_NAME})
"""Kinds that tell who paid and not what for; their values are personal and are never shown."""


_FOR = {Share.ALL: "", Share.GOODS: " for the goods", Share.DELIVERY: " for the delivery"}
_PAID = {
    Share.ALL: "is already paid",
    Share.GOODS: "is already paid but for its delivery",
    Share.DELIVERY: "has its delivery paid already",
}


def _said(kind: EvidenceKind, value: str, doubt: int) -> str:
    said = _WORDS[kind] if kind in WHO else f"{_WORDS[kind]} {value}"
    return said + ("", ", if the text is read so", ", which the text has without its letters")[doubt]


def _candidates(
    references: Sequence[Reference], items: Sequence[OpenItem], channels: Mapping[str, ChannelRules]
) -> tuple[Candidate, ...]:
    found: list[Candidate] = []
    for item in items:
        said: dict[tuple[EvidenceKind, str], int] = {}
        for ref in references if item.channel in channels else ():
            if ref.channel in (None, item.channel) and (ref.kind, ref.value) in item.references:
                doubt = BARE if ref.bare else SURE if ref.sure else UNSURE
                said[ref.kind, ref.value] = min(said.get((ref.kind, ref.value), doubt), doubt)
        if said:
            evidence = tuple(
                Evidence(kind, _said(kind, value, doubt), sure=doubt == SURE, bare=doubt == BARE)
                for (kind, value), doubt in said.items()
            )
            found.append(Candidate(item, evidence))
    return tuple(found)


def reconcile(payment: IncomingPayment, items: Iterable[OpenItem], channels: Mapping[str, ChannelRules]) -> Match:
    """Decide what a payment settles among the items that its references can mean.

    items are candidates from the store: those that share a reference with the payment, and the open items of the
    customers who owe these and of those who own its payer's account. More items do no harm; they have no evidence.
    """
    known = sorted({item.id: item for item in items}.values(), key=lambda item: item.id)
    reader = Reader(channels)
    return decide(payment, reader.references(payment), known, channels, reader)


def decide(
    payment: IncomingPayment,
    references: Sequence[Reference],
    items: Sequence[OpenItem],
    channels: Mapping[str, ChannelRules],
    reader: Reader,
) -> Match:
    """Do what reconcile does, with references that were read, and items without repeats in the order of their ids."""
    items = [item if item.on_delivery is None else item.asked_of(payment.method, payment.amount) for item in items]
    owners = reader.channels_of(payment.account)
    home = owners[0] if len(owners) == 1 else None
    here = frozenset(rules.channel for rules in owners)
    case = _Case(payment, references, _candidates(references, items, channels), items, channels, home, here, reader)
    named = [c for c in case.candidates if any(e.kind not in WHO and not e.bare for e in c.evidence)]
    if payment.kind is Kind.RETURN:
        said = "what had been paid out" if payment.amount.minor > 0 else "what had come in"
        return case.ends(Outcome.RETURNED, f"the bank returned {said}", named)
    if not payment.amount:
        return case.ends(Outcome.UNKNOWN, "the amount is zero, so there is nothing to settle", named)
    if payment.amount.minor < 0:
        if named:
            return case.ends(Outcome.REFUND, f"money went out that names {_numbers(named)}", named)
        return case.ends(Outcome.OUTGOING, "money went out and names no order")
    if not named:
        # Any number can look like one whose letters were left out; who paid must say that it is meant.
        named = [c for c in case.candidates if _who(c) and any(e.bare for e in c.evidence)]
    if not named:
        symbol = normal_variable_symbol(payment.variable_symbol or "")
        silent = not symbol and not any(ref.kind in _NAMING and not ref.bare for ref in references)
        return case.by_account(silent=silent)
    return case.single(named[0]) if len(named) == 1 else case.several(named)


# Gateways and banks give these to every payment, so they don't say that the payer meant an order.
_NAMING = frozenset(EvidenceKind) - WHO - {EvidenceKind.PROVIDER_REFERENCE, EvidenceKind.END_TO_END_ID}

# What a person typed, and can have mistyped; the others come from machines or carry check digits.
_TYPED = frozenset(
    {EvidenceKind.END_TO_END_ID, EvidenceKind.VARIABLE_SYMBOL, EvidenceKind.INVOICE_NUMBER, EvidenceKind.ORDER_NUMBER}
)

_WRITTEN = _TYPED - {EvidenceKind.END_TO_END_ID}

_SUBSET_ITEMS_MAX = 10
"""Among more items than these, so many sums are possible that one which fits says little."""


def exact_sets(amount: int, items: Sequence[OpenItem]) -> list[tuple[OpenItem, ...]]:
    """Return up to two sets of items whose open amounts come to exactly an amount; none where there are too many."""
    if len(items) > _SUBSET_ITEMS_MAX or any(item.crowded for item in items):
        return []
    found: list[tuple[OpenItem, ...]] = []

    def search(left: int, at: int, taken: tuple[OpenItem, ...]) -> None:
        if not left:
            found.append(taken)
        for place in range(at, len(items) if left else 0):
            if len(found) < 2 and items[place].open.minor <= left:
                search(left - items[place].open.minor, place + 1, (*taken, items[place]))

    search(amount, 0, ())
    return found


def _numbers(candidates: Iterable[Candidate]) -> str:
    return listed([candidate.item.number for candidate in candidates])


def _item_numbers(items: Iterable[OpenItem]) -> str:
    return listed([item.number for item in items])


def _named(candidate: Candidate) -> str:
    return f"{candidate.item.number} is named by {listed([evidence.said for evidence in candidate.evidence])}"


def _told_apart(candidates: Sequence[Candidate]) -> bool:
    """Say whether every item is named by references of its own; one that fits two of them means either, not both."""
    own = [{e for e in c.evidence if e.kind not in WHO} for c in candidates]
    sure = all(any(evidence.sure for evidence in each) for each in own)
    return sure and all(one.isdisjoint(other) for one, other in combinations(own, 2))


def _who(candidate: Candidate) -> bool:
    """Say whether who paid speaks for an item, too."""
    return any(evidence.kind in WHO for evidence in candidate.evidence)


def _bare(candidate: Candidate) -> bool:
    """Say whether an item is named only by a number whose letters were left out."""
    return all(evidence.bare for evidence in candidate.evidence if evidence.kind not in WHO)


def _of_machines(candidate: Candidate) -> bool:
    return any(evidence.sure and evidence.kind not in _TYPED | WHO for evidence in candidate.evidence)


@dataclass(frozen=True, slots=True)
class _Case:
    """A payment and everything that it may be for.

    here are the channels whose account it arrived on, or all where nobody's is it; home is the one if there is but one.
    """

    payment: IncomingPayment
    references: Sequence[Reference]
    candidates: tuple[Candidate, ...]
    items: Sequence[OpenItem]
    channels: Mapping[str, ChannelRules]
    home: ChannelRules | None
    here: frozenset[str]
    reader: Reader

    @property
    def amount(self) -> Money:
        return self.payment.amount

    def ends(
        self,
        outcome: Outcome,
        reason: str,
        chosen: Sequence[Candidate] = (),
        parts: tuple[Part, ...] = (),
        surplus: Money | None = None,
    ) -> Match:
        """End with an outcome and what the rules do about it; what a person decides is not allocated."""
        rules = [self.reader.rules_of(c.item) for c in chosen] or [self.home]
        policies = {(each.outcomes if each else Outcomes()).policy(outcome, self.payment.method) for each in rules}
        policy = policies.pop() if len(policies) == 1 else Policy.OPERATOR
        allocated = parts if policy is not Policy.OPERATOR else ()
        return Match(
            outcome=outcome,
            policy=policy,
            reason=reason,
            parts=allocated,
            surplus=surplus if allocated and surplus else Money.zero(self.amount.currency),
            candidates=self.candidates,
        )

    def single(self, chosen: Candidate) -> Match:
        """Settle the one item that is named."""
        item, named, bar = chosen.item, _named(chosen), self._bar(chosen.item)
        if bar and bar[0] is Outcome.DUPLICATE and (other := self._meant_instead(item)):
            said = f"{named}, but {bar[1]}; the payer's next order {other.number} has exactly this amount open"
            return self.ends(Outcome.EXACT, said, [chosen], (self._whole(other),))
        if against := self._against(chosen):
            said = f"{named}, but who paid speaks for {_numbers(against)}"
            return self.ends(Outcome.AMBIGUOUS, said, [chosen, *against])
        if _bare(chosen) and self.amount != (item.amount if bar else item.open):
            return self.ends(Outcome.AMBIGUOUS, f"{named}, but the amount does not confirm it", [chosen])
        if item.amount.currency != self.amount.currency:
            return self._converted(chosen)
        if bar:
            return self.ends(bar[0], f"{named}, but {bar[1]}", [chosen])
        part, surplus = split(self.amount, item, self.reader.rules_of(item).tolerated(item.open))
        difference = self.amount - item.open
        if not difference:
            return self.ends(Outcome.EXACT, f"{named}, and the amount is exact{_FOR[item.share]}", [chosen], (part,))
        off = f"{difference} is too much" if difference.minor > 0 else f"{-difference} is still missing"
        off += _FOR[item.share]
        if part.write_off:
            return self.ends(Outcome.WITHIN_TOLERANCE, f"{named}; {off}, within tolerance", [chosen], (part,))
        if doubt := self._doubt(chosen):
            return self.ends(Outcome.AMBIGUOUS, f"{named}, but {doubt}: {off}", [chosen])
        if difference.minor > 0 and (sets := self._with_others(item)):
            if len(sets) > 1:
                said = f"{named}, and with others of its customer it comes to {self.amount} in more than one way"
                return self.ends(Outcome.AMBIGUOUS, said, [chosen])
            said = f"{named}, and what is open of {_item_numbers(sets[0])}, all of one customer, comes to exactly that"
            return self.ends(Outcome.EXACT, said, [chosen], tuple(self._whole(each) for each in sets[0]))
        outcome = Outcome.SHORT if difference.minor < 0 else Outcome.OVER
        return self.ends(outcome, f"{named}; {off}", [chosen], (part,), surplus)

    def several(self, named: Sequence[Candidate]) -> Match:
        """Settle all open items that are named, or the one that the amount singles out; else leave it."""
        bars = {c.item.id: self._bar(c.item) for c in named}
        open_ = [c for c in named if not bars[c.item.id]]
        if len(open_) > 1 and _told_apart(open_) and sum(c.item.open.minor for c in open_) == self.amount.minor:
            reason = f"{_numbers(open_)} are named, and what is open of them comes to exactly {self.amount}"
            return self.ends(Outcome.EXACT, reason, open_, tuple(self._whole(c.item) for c in open_))
        if best := self._singled_out(named, open_):
            others = [c for c in named if c is not best]
            also = f"; {_numbers(others)} {'is' if len(others) == 1 else 'are'} named too"
            reason = f"{_named(best)}, and the amount is exact{_FOR[best.item.share]}{also}"
            return self.ends(Outcome.EXACT, reason, [best], (self._whole(best.item),))
        outcomes = {bar[0] for bar in bars.values() if bar}
        doubtful = any(_bare(c) or self._against(c) for c in named)
        if not open_ and len(outcomes) == 1 and not doubtful:
            said = listed([f"{c.item.number}: {self._standing(c.item)}" for c in named])
            return self.ends(outcomes.pop(), f"several orders are named, and none can take the payment: {said}", named)
        said = listed([f"{c.item.number} ({self._standing(c.item)})" for c in named], "or")
        return self.ends(Outcome.AMBIGUOUS, f"it could be for {said}, and the amount does not decide", named)

    def by_account(self, *, silent: bool) -> Match:
        """Settle by the payer's known account: only what names nothing, and what is open has one sum that fits."""
        known = [
            c
            for c in self.candidates
            if not self._bar(c.item) and any(e.kind in WHO - {EvidenceKind.PAYER_NAME} for e in c.evidence)
        ]
        # What came to another shop's account is most likely for that shop, where the payer is not known yet.
        pool = [c for c in known if c.item.channel in self.here]
        fitting = [c.item for c in pool if c.item.open.minor <= self.amount.minor] if silent else []
        sets = exact_sets(self.amount.minor, fitting)
        if len(sets) == 1:
            chosen = [c for c in pool if c.item in sets[0]]
            own = all(e.kind is not EvidenceKind.GROUP_ACCOUNT for c in chosen for e in c.evidence)
            whose = "the payer's account is known" if own else "the payer's account is that of a company of the group"
            has = "has exactly this amount" if len(chosen) == 1 else "together have exactly this amount"
            reason = f"no order is named, but {whose}, and only {_numbers(chosen)} {has} open"
            return self.ends(Outcome.EXACT, reason, chosen, tuple(self._whole(c.item) for c in chosen))
        if sets:
            said = listed([_item_numbers(each) for each in sets], "or")
            reason = f"no order is named; the payer's account is known, and what is open fits in two ways: {said}"
            return self.ends(Outcome.AMBIGUOUS, reason, [c for c in pool if any(c.item in each for each in sets)])
        reason = "no reference in the payment names an order that is known"
        if any(item.crowded for item in fitting):
            reason += "; the payer's account is known, but its owner has more orders than can be told by the amount"
        elif len(fitting) > _SUBSET_ITEMS_MAX:
            reason += (
                f"; the payer's account is known, but {len(fitting)} open orders are too many to tell by the amount"
            )
        elif pool:
            reason += "; the payer's account is known, but " + (
                "no open orders of its owner come to this amount" if silent else "something else is named"
            )
        elif known:
            reason += "; the payer's account is known, but the money came to an account of another shop"
        alike = [c for c in self.candidates if any(e.kind is EvidenceKind.PAYER_NAME for e in c.evidence)]
        alike = [c for c in alike if not self._bar(c.item)]
        if alike:
            reason += (
                f"; the payer's name and the amount are those of {_numbers(alike[:5])}, which only a person may take"
            )
        return self.ends(Outcome.UNKNOWN, reason)

    def _converted(self, chosen: Candidate) -> Match:
        """Settle an item in another currency at the channel's rate, when the amount confirms it."""
        item, named = chosen.item, _named(chosen)
        said = f"{named}, but is to be paid in {item.amount.currency}"
        rules = self.reader.rules_of(item)
        conversion, currency = rules.conversion, item.amount.currency
        # The rates are to the channel's own currency, which an order need not have.
        worth = conversion.convert(self.amount, currency) if currency == rules.currency else None
        if worth is None:
            return self.ends(Outcome.WRONG_CURRENCY, said, [chosen])
        if bar := self._bar(replace(item, amount=Money.zero(self.amount.currency))):
            outcome, why = bar
            return self.ends(outcome, f"{named}, but {why}", [chosen])
        difference = worth - item.open
        if abs(difference.minor) > item.open.minor * conversion.percent / 100:
            return self.ends(Outcome.WRONG_CURRENCY, f"{said}, and {worth} is too far from {item.open}", [chosen])
        part = Part(item, worth, -difference, completes=not item.waits, taken=self.amount)
        outcome = Outcome.WITHIN_TOLERANCE if difference else Outcome.EXACT
        reason = f"{named}; {self.amount} is worth {worth}, and {item.open} is open"
        return self.ends(outcome, reason, [chosen], (part,))

    def _doubt(self, chosen: Candidate) -> str | None:
        """Return what keeps a reference from being believed when the amount is not exactly what is open."""
        if unknown := self._names_unknown(chosen):
            return f"{unknown} is named too and nobody knows it, and the amount does not confirm it"
        sure = {evidence.kind for evidence in chosen.evidence if evidence.sure}
        if not sure:
            return "the amount does not confirm it"
        if self._read_twice(chosen):
            sure.discard(EvidenceKind.END_TO_END_ID)
        if len(sure) > 1 or _of_machines(chosen) or _who(chosen):
            return None
        agree = names_agree(self.payment.payer_name or "", chosen.item.customer_name)
        if self._of_digits_alone(chosen) and not agree:
            return "a number of digits alone can be another's, and neither the amount nor the payer's name confirms it"
        if agree is False:
            return "neither the amount nor the payer's name confirms it"
        return None

    def _of_digits_alone(self, chosen: Candidate) -> bool:
        """Say whether an item is named only by digits in a free text; what a source has a field for is no such text."""
        return all(
            ref.kind in _TYPED - {EvidenceKind.VARIABLE_SYMBOL} and ref.value.isdigit() and ref.channel is not None
            for ref in self._naming(chosen.item)
        )

    def _read_twice(self, chosen: Candidate) -> bool:
        """Say whether the end-to-end id that names an item is a number of it, too: one writing, and two kinds."""
        naming = self._naming(chosen.item)
        ids = {normal_number(ref.value) for ref in naming if ref.kind is EvidenceKind.END_TO_END_ID}
        return any(ref.kind is not EvidenceKind.END_TO_END_ID and ref.value in ids for ref in naming)

    def _naming(self, item: OpenItem) -> list[Reference]:
        """Return the references that name an item, and not who paid."""
        return [
            ref
            for ref in self.references
            if ref.kind not in WHO and ref.channel in (None, item.channel) and (ref.kind, ref.value) in item.references
        ]

    def _names_unknown(self, chosen: Candidate) -> str | None:
        """Return a reference that a person wrote and that names nothing, beside the one that names an item."""
        digits = "".join(ch for ch in chosen.item.number if ch.isdigit())
        # One number that is read as two kinds names one thing.
        known = {ref.value for candidate in self.candidates for ref in self._naming(candidate.item)}
        for ref in self.references:
            if (
                ref.kind not in _WRITTEN
                or not ref.sure
                or ref.value in known
                or any((ref.kind, ref.value) in candidate.item.references for candidate in self.candidates)
            ):
                continue
            if not (ref.kind is EvidenceKind.VARIABLE_SYMBOL and digits.endswith(ref.value)):
                return _said(ref.kind, ref.value, SURE)
        return None

    def _against(self, chosen: Candidate) -> list[Candidate]:
        """Return other customers' items of exactly this amount that who paid speaks for, against what was typed."""
        if _of_machines(chosen) or _who(chosen):
            return []
        if names_agree(self.payment.payer_name or "", chosen.item.customer_name):
            return []
        return [
            c
            for c in self.candidates
            if _who(c)
            and c.item.open == self.amount
            and not self._bar(c.item)
            and not _same_customer(c.item, chosen.item)
        ]

    def _with_others(self, item: OpenItem) -> list[tuple[OpenItem, ...]]:
        """Return up to two sets of items of one customer, with the named one in each, that come to the amount."""
        left = self.amount.minor - item.open.minor
        return [(item, *each) for each in exact_sets(left, self._others_open(item, left))]

    def _others_open(self, item: OpenItem, most: int) -> list[OpenItem]:
        """Return the other items of a customer that this payment can settle, each with at most so much open."""
        return [
            each
            for each in self.items
            if each.id != item.id
            and _same_customer(each, item)
            and each.channel in self.channels
            and not self._bar(each)
            and each.open.minor <= most
        ]

    def _meant_instead(self, paid: OpenItem) -> OpenItem | None:
        """Return the one open item that who names an older one of the same customer, paid long since, can only mean."""
        if self.amount == paid.amount:
            return None
        sets = exact_sets(self.amount.minor, self._others_open(paid, self.amount.minor))
        alone = sets[0][0] if len(sets) == 1 and len(sets[0]) == 1 else None
        speaks = [c.item for c in self.candidates if _who(c) and c.item.open == self.amount and not self._bar(c.item)]
        return alone if speaks == [alone] else None

    def _singled_out(self, named: Sequence[Candidate], open_: Sequence[Candidate]) -> Candidate | None:
        """Return the one named item that has exactly the amount open, where no other can be meant instead."""
        fitting = [c for c in open_ if c.item.open == self.amount]
        if len(fitting) > 1:
            # Only the reference itself decides between them, and only if it is no other's.
            best = [c for c in self._strongest(named) if c in fitting]
            if len(best) != 1 or self._against(best[0]):
                return None
            return best[0] if not any(_who(c) for c in fitting if c is not best[0]) else None
        if not fitting or self._against(fitting[0]):
            return None
        alone = [c for c in self._strongest(named) if c in open_] == fitting
        one_customer = all(c is fitting[0] or _same_customer(c.item, fitting[0].item) for c in named)
        return fitting[0] if alone or _who(fitting[0]) or one_customer else None

    def _bar(self, item: OpenItem) -> tuple[Outcome, str] | None:
        """Return why this payment can't settle an item, whatever its amount."""
        if item.amount.currency != self.amount.currency:
            return Outcome.WRONG_CURRENCY, f"is to be paid in {item.amount.currency}"
        if item.status in CLOSED:
            return Outcome.LATE, f"is {item.status}"
        if item.open.minor <= 0:
            return Outcome.DUPLICATE, _PAID[item.share]
        return None

    def _standing(self, item: OpenItem) -> str:
        bar = self._bar(item)
        return bar[1].removeprefix("is ") if bar else f"{item.open} open{_FOR[item.share]}"

    def _strongest(self, named: Sequence[Candidate]) -> list[Candidate]:
        """Return what has the best evidence; between channels kinds can't be compared, as each has its own priority."""
        channels = {candidate.item.channel for candidate in named}
        priority = self.channels[channels.pop()].references.priority if len(channels) == 1 else ()
        ranks = [
            min(
                (not e.sure, priority.index(e.kind) if priority else 0) for e in candidate.evidence if e.kind not in WHO
            )
            for candidate in named
        ]
        return [candidate for candidate, rank in zip(named, ranks, strict=True) if rank == min(ranks)]

    def _whole(self, item: OpenItem) -> Part:
        return Part(item, item.open, Money.zero(self.amount.currency), completes=not item.waits)


def _same_customer(one: OpenItem, other: OpenItem) -> bool:
    return one.customer is not None and (one.channel, one.customer) == (other.channel, other.customer)
