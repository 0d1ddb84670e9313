"""Reconciliation: which open items a payment settles. Evidence, not scores; one payment at a time.

A payment is settled by itself only when the evidence is unique. Whatever could be read in two ways is left to a
person, with the evidence shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    tokens_in,
    variable_symbols_in,
)
from domain.rules import ChannelRules, EvidenceKind, Policy

_NO_REFERENCE = frozenset({"", "NOTPROVIDED", "NOTPROVIDED.", "NONREF"})


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in its normal form; channel is empty when it holds in every channel."""

    kind: EvidenceKind
    value: str
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One reason to think that a payment is for an item, in words that an operator can check."""

    kind: EvidenceKind
    said: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item that a payment may be for, with every piece of evidence found."""

    item: OpenItem
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a payment turned out to be, why, and how its money is split; surplus is what nobody asked for."""

    outcome: Outcome
    policy: Policy
    reason: str
    parts: tuple[Part, ...] = ()
    surplus: Money
    candidates: tuple[Candidate, ...] = ()


def channels_of(payment: IncomingPayment, channels: Mapping[str, ChannelRules]) -> tuple[ChannelRules, ...]:
    """Return the channels that own the account a payment arrived on; all of them when nobody owns it."""
    account = normal_account(payment.account or "")
    owners = tuple(rules for rules in channels.values() if account and account in rules.accounts)
    return owners or tuple(channels.values())


def references_of(payment: IncomingPayment, channels: Mapping[str, ChannelRules]) -> tuple[Reference, ...]:
    """Return every reference a payment carries, in normal form, without repeats.

    A variable symbol counts only in the channels that own the receiving account. Order and invoice numbers are looked
    for in free text by each channel's own pattern.
    """
    found: dict[Reference, None] = {}

    def add(kind: EvidenceKind, value: str | None, channel: str | None = None) -> None:
        if value and value not in _NO_REFERENCE:
            found[Reference(kind, value, channel)] = None

    texts = [text for text in (payment.text, payment.end_to_end_id, payment.order_reference) if text]
    add(EvidenceKind.PROVIDER_REFERENCE, payment.provider_reference)
    add(EvidenceKind.RF, normal_rf(payment.rf) if payment.rf else None)
    add(EvidenceKind.END_TO_END_ID, compact(payment.end_to_end_id or ""))
    add(EvidenceKind.TRACKING_NUMBER, compact(payment.tracking_number or ""))
    add(EvidenceKind.ORDER_NUMBER, normal_number(payment.order_reference or ""))
    account = normal_account(payment.account or "")
    symbols = [normal_variable_symbol(payment.variable_symbol)] if payment.variable_symbol else []
    for text in texts:
        symbols.extend(variable_symbols_in(text))
        for reference in rf_references_in(text):
            add(EvidenceKind.RF, reference)
    for rules in channels_of(payment, channels):
        if account in rules.accounts:
            for symbol in symbols:
                add(EvidenceKind.VARIABLE_SYMBOL, symbol, rules.channel)
        patterns = rules.references
        for kind, pattern in (
            (EvidenceKind.ORDER_NUMBER, patterns.order_number),
            (EvidenceKind.INVOICE_NUMBER, patterns.invoice_number),
        ):
            for text in texts if pattern else ():
                for token in tokens_in(text, pattern or ""):
                    add(kind, token, rules.channel)
    if payment.payer_account:
        add(EvidenceKind.PAYER_ACCOUNT, normal_account(payment.payer_account))
    return tuple(found)


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


def _said(kind: EvidenceKind, value: str) -> str:
    # An account number is personal; that it is known says enough.
    return _WORDS[kind] if kind is EvidenceKind.PAYER_ACCOUNT else f"{_WORDS[kind]} {value}"


def _candidates(references: Sequence[Reference], items: Iterable[OpenItem]) -> list[Candidate]:
    found: list[Candidate] = []
    for item in items:
        said = dict.fromkeys(
            (ref.kind, ref.value)
            for ref in references
            if ref.channel in (None, item.channel) and (ref.kind, ref.value) in item.references
        )
        evidence = tuple(Evidence(kind, _said(kind, value)) for kind, value in said)
        if evidence:
            found.append(Candidate(item, evidence))
    return sorted(found, key=lambda candidate: candidate.item.id)


def _numbers(candidates: Iterable[Candidate]) -> str:
    return ", ".join(candidate.item.number for candidate in candidates)


def _strongest(candidates: Sequence[Candidate], priority: Sequence[EvidenceKind]) -> list[Candidate]:
    ranks = [min(priority.index(evidence.kind) for evidence in candidate.evidence) for candidate in candidates]
    best = min(ranks)
    return [candidate for candidate, rank in zip(candidates, ranks, strict=True) if rank == best]


def reconcile(payment: IncomingPayment, items: Iterable[OpenItem], channels: Mapping[str, ChannelRules]) -> Match:
    """Decide what a payment settles among the items that its references can mean.

    items are candidates from the store: those that share a reference with the payment, and those of the customers who
    own its payer's account. More items do no harm; they have no evidence.
    """
    nothing = Money.zero(payment.amount.currency)
    candidates = _candidates(references_of(payment, channels), items)
    named = [c for c in candidates if any(e.kind is not EvidenceKind.PAYER_ACCOUNT for e in c.evidence)]

    def ended(outcome: Outcome, reason: str, chosen: Sequence[Candidate], policy: Policy | None = None) -> Match:
        rules = channels.get(chosen[0].item.channel) if chosen else None
        decided = rules.outcomes.policy(outcome) if rules else Policy.OPERATOR
        return Match(
            outcome=outcome, policy=policy or decided, reason=reason, surplus=nothing, candidates=tuple(candidates)
        )

    if payment.amount.minor < 0:
        if named:
            return ended(Outcome.REFUND, f"money went out that names order {_numbers(named)}", named)
        return ended(Outcome.OUTGOING, "money went out and names no order", [], Policy.IGNORE)
    if not named:
        return _by_account(payment, candidates, channels) or ended(
            Outcome.UNKNOWN, "no reference in the payment names an order", []
        )
    several = [c for c in named if c.item.open.minor > 0 and c.item.status not in CLOSED]
    if len(several) > 1 and _sums_up(payment.amount, several):
        parts = tuple(Part(c.item, c.item.open, nothing, completes=True) for c in several)
        return Match(
            outcome=Outcome.EXACT,
            policy=Policy.RELEASE,
            reason=f"names {len(several)} orders, whose open amounts come to exactly {payment.amount}",
            parts=parts,
            surplus=nothing,
            candidates=tuple(candidates),
        )
    rules = [channels[c.item.channel] for c in named]
    best = _strongest(named, rules[0].references.priority) if len({r.channel for r in rules}) == 1 else named
    if len(best) > 1:
        return ended(Outcome.AMBIGUOUS, f"could be for {_numbers(best)}, and the amount does not decide", best)
    match = _settle(payment.amount, best[0], channels[best[0].item.channel], candidates)
    if len(named) > 1 and match.outcome not in (Outcome.EXACT, Outcome.WITHIN_TOLERANCE):
        reason = f"{best[0].evidence[0].said} names {best[0].item.number}, other evidence {_numbers(named)}"
        return ended(Outcome.AMBIGUOUS, f"{reason}; the amount fits none of them alone", named)
    return match


def _sums_up(amount: Money, candidates: Sequence[Candidate]) -> bool:
    same = all(candidate.item.open.currency == amount.currency for candidate in candidates)
    return same and sum(candidate.item.open.minor for candidate in candidates) == amount.minor


def _by_account(
    payment: IncomingPayment, candidates: Sequence[Candidate], channels: Mapping[str, ChannelRules]
) -> Match | None:
    """Settle by the payer's known account, only when exactly one open item of his has exactly this amount."""
    fitting = [c for c in candidates if c.item.open == payment.amount and c.item.status not in CLOSED]
    if len(fitting) != 1:
        return None
    return _settle(payment.amount, fitting[0], channels[fitting[0].item.channel], candidates)


def _settle(amount: Money, chosen: Candidate, rules: ChannelRules, candidates: Sequence[Candidate]) -> Match:
    item = chosen.item
    by = " and ".join(evidence.said for evidence in chosen.evidence)
    nothing = Money.zero(amount.currency)

    def ended(outcome: Outcome, reason: str, parts: tuple[Part, ...] = (), surplus: Money = nothing) -> Match:
        policy = rules.outcomes.policy(outcome)
        return Match(
            outcome=outcome,
            policy=policy,
            reason=reason,
            parts=() if policy is Policy.OPERATOR else parts,
            surplus=surplus,
            candidates=tuple(candidates),
        )

    if item.amount.currency != amount.currency:
        return ended(Outcome.WRONG_CURRENCY, f"{by} names {item.number}, which is to be paid in {item.amount.currency}")
    if item.status in CLOSED:
        return ended(Outcome.LATE, f"{by} names {item.number}, which is {item.status}")
    if item.open.minor <= 0:
        return ended(Outcome.DUPLICATE, f"{by} names {item.number}, which is already paid")
    part, surplus = split(amount, item, rules.tolerance.limit(item.open))
    difference = amount - item.open
    if not difference:
        return ended(Outcome.EXACT, f"{by} names {item.number}, and the amount is exact", (part,))
    if part.write_off or (not surplus and difference.minor > 0):
        return ended(
            Outcome.WITHIN_TOLERANCE, f"{by} names {item.number}; {difference} of difference is let pass", (part,)
        )
    if difference.minor < 0:
        return ended(Outcome.SHORT, f"{by} names {item.number}; {-difference} is still missing", (part,))
    return ended(Outcome.OVER, f"{by} names {item.number}; {surplus} is too much", (part,), surplus)
