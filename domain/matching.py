"""Reconciliation: which open items a payment settles. Evidence, not scores; one payment at a time.

A payment is settled by itself only when the evidence is unique. Whatever could be read in two ways is left to a
person, with the evidence shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from domain.allocation import OpenItem, Part, split
from domain.money import Money
from domain.orders import CLOSED
from domain.payments import IncomingPayment, Outcome
from domain.references import (
    compact,
    normal_account,
    normal_number,
    normal_rf,
    normal_variable_symbol,
    rf_references_in,
    symbol_readings,
    token_readings,
)
from domain.rules import ChannelRules, EvidenceKind, Outcomes, Policy

_NO_REFERENCE = frozenset({"", "NOTPROVIDED", "NOTPROVIDED.", "NONREF"})
_WITHOUT_BANK = re.compile(r"[0-9-]{1,17}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in its normal form; without a channel it holds in every one.

    It is not sure when the text that it stands in can be read in another way too.
    """

    kind: EvidenceKind
    value: str
    channel: str | None = None
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """One reason to think that a payment is for an item, in words that an operator can check."""

    kind: EvidenceKind
    said: str
    sure: bool = True


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
    account = normal_account(payment.account or "")
    owners = tuple(rules for rules in channels.values() if account in rules.accounts)
    return owners or tuple(channels.values())


def references_of(payment: IncomingPayment, channels: Mapping[str, ChannelRules]) -> tuple[Reference, ...]:
    """Return every reference a payment carries, in normal form, without repeats.

    A variable symbol counts only in the channels that own the receiving account. Order and invoice numbers are looked
    for in free text by each channel's own pattern; the end-to-end id, which the payer chose, counts in the same ones.
    """
    found: dict[tuple[EvidenceKind, str, str | None], bool] = {}

    def add(kind: EvidenceKind, value: str | None, channel: str | None = None, *, sure: bool = True) -> None:
        if value and value not in _NO_REFERENCE:
            found[kind, value, channel] = found.get((kind, value, channel), False) or sure

    texts = [text for text in (payment.text, payment.end_to_end_id, payment.order_reference) if text]
    add(EvidenceKind.PROVIDER_REFERENCE, payment.provider_reference)
    add(EvidenceKind.RF, normal_rf(payment.rf) if payment.rf else None)
    add(EvidenceKind.TRACKING_NUMBER, compact(payment.tracking_number or ""))
    add(EvidenceKind.ORDER_NUMBER, normal_number(payment.order_reference or ""))
    for text in texts:
        for reference in rf_references_in(text):
            add(EvidenceKind.RF, reference)
    account = normal_account(payment.account or "")
    for rules in channels_of(payment, channels):
        add(EvidenceKind.END_TO_END_ID, compact(payment.end_to_end_id or ""), rules.channel)
        if account in rules.accounts:
            add(EvidenceKind.VARIABLE_SYMBOL, normal_variable_symbol(payment.variable_symbol or ""), rules.channel)
            for text in texts:
                for symbol in symbol_readings(text):
                    add(EvidenceKind.VARIABLE_SYMBOL, symbol.value, rules.channel, sure=symbol.sure)
        for kind, pattern in (
            (EvidenceKind.ORDER_NUMBER, rules.references.order_number),
            (EvidenceKind.INVOICE_NUMBER, rules.references.invoice_number),
        ):
            for text in texts if pattern else ():
                for token in token_readings(text, pattern or ""):
                    add(kind, token.value, rules.channel, sure=token.sure)
    payer = normal_account(payment.payer_account or "")
    # A domestic number is another account at every bank.
    if not _WITHOUT_BANK.fullmatch(payer):
        add(EvidenceKind.PAYER_ACCOUNT, payer)
    return tuple(Reference(kind, value, channel, sure) for (kind, value, channel), sure in found.items())


_WORDS = {
    EvidenceKind.PROVIDER_REFERENCE: "the gateway's reference",
    EvidenceKind.RF: "the RF reference",
    EvidenceKind.END_TO_END_ID: "the end-to-end id",
    EvidenceKind.TRACKING_NUMBER: "the tracking number",
    EvidenceKind.VARIABLE_SYMBOL: "the variable symbol",
    EvidenceKind.INVOICE_NUMBER: "the invoice number",
    EvidenceKind.ORDER_NUMBER: "the order number",
    EvidenceKind.PAYER_ACCOUNT: "the payer's known account",
}


def _said(kind: EvidenceKind, value: str, *, sure: bool) -> str:
    # An account number is personal; that it is known says enough.
    said = _WORDS[kind] if kind is EvidenceKind.PAYER_ACCOUNT else f"{_WORDS[kind]} {value}"
    return said if sure else f"{said}, if the text is read so"


def _candidates(
    references: Sequence[Reference], items: Iterable[OpenItem], channels: Mapping[str, ChannelRules]
) -> tuple[Candidate, ...]:
    found: list[Candidate] = []
    for item in sorted({item.id: item for item in items}.values(), key=lambda item: item.id):
        said: dict[tuple[EvidenceKind, str], bool] = {}
        for ref in references if item.channel in channels else ():
            if ref.channel in (None, item.channel) and (ref.kind, ref.value) in item.references:
                said[ref.kind, ref.value] = said.get((ref.kind, ref.value), False) or ref.sure
        if said:
            evidence = tuple(
                Evidence(kind, _said(kind, value, sure=sure), sure) for (kind, value), sure in said.items()
            )
            found.append(Candidate(item, evidence))
    return tuple(found)


def reconcile(payment: IncomingPayment, items: Iterable[OpenItem], channels: Mapping[str, ChannelRules]) -> Match:
    """Decide what a payment settles among the items that its references can mean.

    items are candidates from the store: those that share a reference with the payment, and those of the customers who
    own its payer's account. More items do no harm; they have no evidence.
    """
    references = references_of(payment, channels)
    case = _Case(payment.amount, _candidates(references, items, channels), channels)
    named = [c for c in case.candidates if any(e.kind is not EvidenceKind.PAYER_ACCOUNT for e in c.evidence)]
    if not payment.amount:
        return case.ends(Outcome.UNKNOWN, "the amount is zero, so there is nothing to settle", named)
    if payment.amount.minor < 0:
        if named:
            return case.ends(Outcome.REFUND, f"money went out that names {_numbers(named)}", named)
        return case.ends(Outcome.OUTGOING, "money went out and names no order")
    if not named:
        symbol = normal_variable_symbol(payment.variable_symbol or "")
        silent = not symbol and not any(ref.kind in _NAMING for ref in references)
        return case.by_account(silent=silent)
    return case.single(named[0]) if len(named) == 1 else case.several(named)


# Gateways and banks give these to every payment, so they don't say that the payer meant an order.
_NAMING = frozenset(EvidenceKind) - {
    EvidenceKind.PAYER_ACCOUNT,
    EvidenceKind.PROVIDER_REFERENCE,
    EvidenceKind.END_TO_END_ID,
}


def _listed(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _numbers(candidates: Iterable[Candidate]) -> str:
    return _listed([candidate.item.number for candidate in candidates])


def _named(candidate: Candidate) -> str:
    return f"{candidate.item.number} is named by {_listed([evidence.said for evidence in candidate.evidence])}"


def _told_apart(candidates: Sequence[Candidate]) -> bool:
    """Say whether every item is named by references of its own; one that fits two of them means either, not both."""
    own = [{e for e in c.evidence if e.kind is not EvidenceKind.PAYER_ACCOUNT} for c in candidates]
    sure = all(any(evidence.sure for evidence in each) for each in own)
    return sure and all(one.isdisjoint(other) for one, other in combinations(own, 2))


@dataclass(frozen=True, slots=True)
class _Case:
    """A payment's amount and everything that it may be for."""

    amount: Money
    candidates: tuple[Candidate, ...]
    channels: Mapping[str, ChannelRules]

    def ends(
        self,
        outcome: Outcome,
        reason: str,
        chosen: Sequence[Candidate] = (),
        parts: tuple[Part, ...] = (),
        surplus: Money | None = None,
    ) -> Match:
        """End with an outcome and what the channel does about it; what a person decides is not allocated."""
        outcomes = self.channels[chosen[0].item.channel].outcomes if chosen else Outcomes()
        policy = outcomes.policy(outcome)
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
        item, named = chosen.item, _named(chosen)
        if bar := self._bar(item):
            outcome, why = bar
            return self.ends(outcome, f"{named}, but {why}", [chosen])
        part, surplus = split(self.amount, item, self.channels[item.channel].tolerance.limit(item.open))
        difference = self.amount - item.open
        if not difference:
            return self.ends(Outcome.EXACT, f"{named}, and the amount is exact", [chosen], (part,))
        off = f"{difference} is too much" if difference.minor > 0 else f"{-difference} is still missing"
        if part.write_off:
            return self.ends(Outcome.WITHIN_TOLERANCE, f"{named}; {off}, within tolerance", [chosen], (part,))
        if not any(evidence.sure for evidence in chosen.evidence):
            return self.ends(Outcome.AMBIGUOUS, f"{named}, but the amount does not confirm it: {off}", [chosen])
        outcome = Outcome.SHORT if difference.minor < 0 else Outcome.OVER
        return self.ends(outcome, f"{named}; {off}", [chosen], (part,), surplus)

    def several(self, named: Sequence[Candidate]) -> Match:
        """Settle all open items that are named, or the strongest, when the amount is exactly that; else leave it."""
        bars = {c.item.id: self._bar(c.item) for c in named}
        open_ = [c for c in named if not bars[c.item.id]]
        if len(open_) > 1 and _told_apart(open_) and sum(c.item.open.minor for c in open_) == self.amount.minor:
            reason = f"{_numbers(open_)} are named, and what is open of them comes to exactly {self.amount}"
            return self.ends(Outcome.EXACT, reason, open_, tuple(self._whole(c) for c in open_))
        best = [c for c in self._strongest(named) if c in open_]
        if len(best) == 1 and best[0].item.open == self.amount:
            others = [c for c in named if c is not best[0]]
            also = f"; {_numbers(others)} {'is' if len(others) == 1 else 'are'} named too"
            reason = f"{_named(best[0])}, and the amount is exact{also}"
            return self.ends(Outcome.EXACT, reason, best, (self._whole(best[0]),))
        outcomes = {bar[0] for bar in bars.values() if bar}
        if not open_ and len(outcomes) == 1:
            said = _listed([f"{c.item.number}: {self._standing(c.item)}" for c in named])
            return self.ends(outcomes.pop(), f"several orders are named, and none can take the payment: {said}", named)
        said = _listed([f"{c.item.number} ({self._standing(c.item)})" for c in named], "or")
        return self.ends(Outcome.AMBIGUOUS, f"it could be for {said}, and the amount does not decide", named)

    def by_account(self, *, silent: bool) -> Match:
        """Settle by the payer's known account: only what names nothing, and has the amount of one open item."""
        fitting = [c for c in self.candidates if c.item.open == self.amount and not self._bar(c.item)]
        if not silent or not fitting:
            return self.ends(Outcome.UNKNOWN, "no reference in the payment names an order that is known")
        if len(fitting) > 1:
            reason = f"no order is named; the payer's account is known, and {_numbers(fitting)} have this amount open"
            return self.ends(Outcome.AMBIGUOUS, reason, fitting)
        number = fitting[0].item.number
        reason = f"no order is named, but the payer's account is known, and only {number} has exactly this amount open"
        return self.ends(Outcome.EXACT, reason, fitting, (self._whole(fitting[0]),))

    def _bar(self, item: OpenItem) -> tuple[Outcome, str] | None:
        """Return why this payment can't settle an item, whatever its amount."""
        if item.amount.currency != self.amount.currency:
            return Outcome.WRONG_CURRENCY, f"is to be paid in {item.amount.currency}"
        if item.status in CLOSED:
            return Outcome.LATE, f"is {item.status}"
        if item.open.minor <= 0:
            return Outcome.DUPLICATE, "is already paid"
        return None

    def _standing(self, item: OpenItem) -> str:
        bar = self._bar(item)
        return bar[1].removeprefix("is ") if bar else f"{item.open} open"

    def _strongest(self, named: Sequence[Candidate]) -> list[Candidate]:
        """Return what has the best evidence; between channels kinds can't be compared, as each has its own priority."""
        channels = {candidate.item.channel for candidate in named}
        priority = self.channels[channels.pop()].references.priority if len(channels) == 1 else ()
        ranks = [
            min((not e.sure, priority.index(e.kind) if priority else 0) for e in candidate.evidence)
            for candidate in named
        ]
        return [candidate for candidate, rank in zip(named, ranks, strict=True) if rank == min(ranks)]

    def _whole(self, candidate: Candidate) -> Part:
        return Part(candidate.item, candidate.item.open, Money.zero(self.amount.currency), completes=True)
