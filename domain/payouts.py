"""Payouts: a gateway's or a carrier's lump sum on the bank statement, and the report of whose payments it is made.

A carrier pays out what it collected on delivery just as a gateway does; its report is a registry, or a remittance file.

Everywhere gross is what customers paid, negative where it went back to them; fee is what the gateway kept, negative
where it gave a fee back; and net, which is gross less fee, is what is paid out.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from domain.money import Money, said_of
from domain.payments import IncomingPayment, Kind, Method, Refusal, StatementFile
from domain.references import compact, fold, normal_account, normal_number
from domain.wording import counted, listed

EARLY_DAYS, LATE_DAYS = 1, 7
"""How far the bank's booking may be off the day on which the gateway says that the money arrives.

The day is told in the gateway's own time zone, so a bank can be one ahead. Holidays with a weekend, such as those of
Easter and Christmas, are five days without a booking, and some banks take two more.
"""

NAME_MIN = 6
"""A payout's id or reference of fewer letters and digits may be anything in a text: an order, a house number."""

SHORT_MIN = 4
"""A shorter one counts beside something else: where id and reference both stand there, or where the payer is known."""

ID_MAX, SOURCE_MAX = 200, 80
_JOINED_MAX = 6
_TOLD = 3

_WORD = re.compile(r"[^\W_]+")
_INSIDE = re.compile(r"[-/._\s]{1,3}")


class LineKind(StrEnum):
    """What a line of a payout's report is."""

    PAYMENT = "payment"
    REFUND = "refund"
    CHARGEBACK = "chargeback"
    REINSTATED = "reinstated"
    """A dispute was won: what a chargeback took came back."""
    FEE = "fee"
    """What the gateway asks for by itself: a monthly fee, the fee of a dispute."""
    OTHER = "other"
    """Anything else that the gateway sets off: a reserve, a correction, a payout that came back to it."""


KINDS: Mapping[LineKind, Kind] = {
    LineKind.PAYMENT: Kind.PAYMENT,
    LineKind.REFUND: Kind.REFUND,
    LineKind.CHARGEBACK: Kind.CHARGEBACK,
    LineKind.REINSTATED: Kind.REINSTATED,
}
"""The lines that are payments, or movements of one, by what these are."""

_COMES = (LineKind.PAYMENT, LineKind.REINSTATED)
_GOES = (LineKind.REFUND, LineKind.CHARGEBACK)
_PLURALS = {LineKind.REINSTATED: "won disputes", LineKind.OTHER: "other movements"}
_SINGULARS = {LineKind.REINSTATED: "won dispute", LineKind.OTHER: "other movement"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutLine:
    """One line of a payout's report.

    external_id is the gateway's id of the line, or of the movement that it is. provider_reference is the gateway's
    reference of the payment that the line belongs to. where says where in a file it stands, for error texts.
    """

    external_id: str
    kind: LineKind
    gross: Money
    fee: Money
    net: Money
    provider_reference: str | None = None
    order_reference: str | None = None
    booked_on: date | None = None
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """One payout as its gateway reports it; (source, external_id) is unique.

    source is that of the gateway's payments. paid_on is the day on which the gateway says that the money arrives;
    reference is what else may name the payout on the bank statement. A negative net is debited by the gateway.
    """

    source: str
    external_id: str
    gross: Money
    fee: Money
    net: Money
    paid_on: date
    lines: tuple[PayoutLine, ...]
    reference: str | None = None

    @property
    def currency(self) -> str:
        """The currency that is paid out in, which is that of every line."""
        return self.net.currency


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutFile(StatementFile):
    """What a file of payout reports says; a payout of which anything is bad is refused as a whole."""

    payouts: tuple[Payout, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemittanceFile(StatementFile):
    """What a file of a carrier's remittances says: its entries settle the orders, and its payouts the lump sums.

    A payout's lines have the external ids of the entries' payments.
    """

    payouts: tuple[Payout, ...] = ()


REMITTANCE = "remittance"
"""The source of every payment that a carrier's remittance file tells of."""


def payments_source(source: str) -> str:
    """Return under which source the payments of a payout's source are stored."""
    return REMITTANCE if source.startswith(CARRIER) else source


CARRIER = "cod:"
"""How the source of a payout begins, and the account of its payments, that a carrier's remittance file tells of."""


def problems(payout: Payout) -> tuple[Refusal, ...]:
    """Return what is wrong with a payout, each in a sentence that names the line; nothing when it may be stored.

    Each line's gross less its fee must be its net, and the lines' sums must be the payout's.
    """
    found: list[Refusal] = []
    whole = f"payout {payout.external_id:.60}"
    if not _is_id(payout.external_id, ID_MAX) or not _is_id(payout.source, SOURCE_MAX):
        found.append(Refusal(whole, f"its id must have 1 to {ID_MAX} characters, and none that can't be seen"))
    if not payout.lines:
        found.append(Refusal(whole, "its report has no lines, so it is not known what it is made of"))
    times = Counter(line.external_id for line in payout.lines)
    for line in payout.lines:
        where = line.where or f"{whole}, line {line.external_id:.60}"
        if not _is_id(line.external_id, ID_MAX):
            found.append(Refusal(where, f"its id must have 1 to {ID_MAX} characters, and none that can't be seen"))
        elif times[line.external_id] > 1:
            found.append(Refusal(where, f"the id {line.external_id:.60} stands {times[line.external_id]} times"))
        found += [Refusal(where, said) for said in line_problems(line, payout.currency)]
    if not found:
        found += [Refusal(whole, said) for said in _sum_problems(payout)]
    return tuple(found)


def _is_id(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and text.isprintable() and bool(text.strip())


def line_problems(line: PayoutLine, currency: str) -> Iterator[str]:
    """Yield what is wrong with one line of a payout in a currency, each in a sentence."""
    if strange := {line.gross.currency, line.fee.currency, line.net.currency} - {currency}:
        yield f"it is in {', '.join(sorted(strange))}, but the payout is in {currency}"
        return
    if line.gross.minor - line.fee.minor != line.net.minor:
        yield f"gross {line.gross.amount} less fee {line.fee.amount} is not net {line.net.amount}"
    if (line.kind in _COMES and line.gross.minor <= 0) or (line.kind in _GOES and line.gross.minor >= 0):
        wanted = "more" if line.kind in _COMES else "less"
        yield f"the gross amount of a {line.kind} must be {wanted} than zero, and it is {line.gross.amount}"
    if line.kind is LineKind.FEE and line.gross:
        yield f"a line that is a fee has no gross amount, and this one has {line.gross.amount}"


def _sum_problems(payout: Payout) -> Iterator[str]:
    named = {"gross": payout.gross, "fee": payout.fee, "net": payout.net}
    if strange := {money.currency for money in named.values()} - {payout.currency}:
        yield f"its sums are in {payout.currency} and {', '.join(sorted(strange))}"
        return
    for name, told in named.items():
        minor = sum(getattr(line, name).minor for line in payout.lines)
        if minor != told.minor:
            yield f"{name}: it says {told}, but its lines come to {said_of(minor, payout.currency)}"


def gateway(source: str) -> str:
    """Return what a person calls the gateway that a source of payments is: its connector's name."""
    return source.rpartition(":")[2] or source


def in_words(source: str, external_id: str, sums: Sequence[Money], counts: Mapping[LineKind, int]) -> str:
    """Say what a payout comes to: what customers paid, what the gateway kept, what arrives, and of how much it is made.

    sums are gross, fee and net; counts are its lines by kind, of which none is told of by itself.
    """
    made = [
        counted(counts[kind], _SINGULARS.get(kind, kind), _PLURALS.get(kind)) for kind in LineKind if counts.get(kind)
    ]
    of = listed(made) if made else "nothing"
    gross, fee, net = sums
    return f"payout {external_id} of {gateway(source)}: {gross} gross, {fee} fees, {net} net; {of}"


# The lines


def movement(payout: Payout, line: PayoutLine) -> IncomingPayment:
    """Return the payment, or the movement of one, that a line tells of and that nobody else has told of."""
    id_ = f"payout_line/{payout.external_id}/{line.external_id}"
    if len(id_) > ID_MAX:
        id_ = f"payout_line/#{hashlib.sha256(id_.encode()).hexdigest()}"
    return IncomingPayment(
        source=payout.source,
        external_id=id_,
        method=Method.CARD,
        amount=line.gross,
        booked_on=line.booked_on or payout.paid_on,
        provider_reference=line.provider_reference,
        order_reference=line.order_reference,
        kind=KINDS[line.kind],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """A payment of ours, or a movement of one, that a line may be; reported is what lines already say of it."""

    id: int
    external_id: str
    amount: Money
    reported: int = 0
    lines: int = 0


class Unidentified(StrEnum):
    """Why a line is none of our payments."""

    NEW = "new"
    UNCLEAR = "unclear"
    """It could be one that is known with another amount, and storing it beside that one would count money twice."""


def identify(line: PayoutLine, known: Sequence[Movement]) -> Movement | Unidentified:
    """Return which of our movements a line is; known are those of its kind with its provider reference or id.

    A payment that is reported with another amount is still that payment. Of refunds there may be several, so one with
    another amount is not.
    """
    by_id = sorted(known, key=lambda one: one.id)
    named = [one for one in by_id if one.external_id == line.external_id]
    free = [one for one in by_id if not one.lines]
    equal = [one for one in free if one.amount == line.gross]
    if line.kind is LineKind.PAYMENT:
        # A payment that was captured in parts has a line for each.
        parts = [one for one in by_id if one.lines and _has_room(one, line)]
        found = named or equal or free or parts
        return found[0] if found else Unidentified.NEW
    if found := named or equal:
        return found[0]
    return Unidentified.UNCLEAR if free else Unidentified.NEW


def _has_room(one: Movement, line: PayoutLine) -> bool:
    return one.amount.currency == line.gross.currency and line.gross.minor <= one.amount.minor - one.reported


# The lump sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A payout that is looked for on the bank statement; payment_id is the movement that it was found to be."""

    id: int
    source: str
    external_id: str
    net: Money
    paid_on: date
    reference: str | None = None
    payment_id: int | None = None


@dataclass(frozen=True, slots=True)
class Arrived:
    """A movement is this payout's lump sum, and no payment of an order."""

    payout: Expected


@dataclass(frozen=True, slots=True)
class Unclear:
    """A movement is a gateway's, yet it is not clear of which payout; a person sees why. It is no order's either."""

    reason: str
    several: bool = False


def find_payout(
    payment: IncomingPayment, payouts: Iterable[Expected], payers: Mapping[str, Sequence[str]]
) -> Arrived | Unclear | None:
    """Decide whether a movement on a bank statement is a payout; None when nothing says that it is a gateway's.

    It is one when exactly one payout that has not arrived yet has its currency and its very amount, is expected around
    its day, and the movement is recognisable as the gateway's: the payout's id or reference stands in it as a whole
    token, or it comes from a payer that the gateway is known by. payers are these, names or accounts, by source. What
    else is in the movement doesn't count: a gateway writes a variable symbol of its own. Short names count together,
    and between payouts of a known payer.
    """
    if payment.method is not Method.BANK_TRANSFER or payment.kind is not Kind.PAYMENT or not payment.amount:
        return None
    expected = sorted((payout for payout in payouts if payout.net), key=lambda payout: (payout.paid_on, payout.id))
    tokens = _tokens(payment) if expected else frozenset[str]()
    if named := [payout for payout in expected if _names(payout) & tokens]:
        return _by_name(payment, named)
    sources = {source for source, known in payers.items() if any(_comes_from(payment, payer) for payer in known)}
    if sources:
        return _by_payer(payment, expected, sources, tokens)
    twice = [payout for payout in expected if len(names := _names(payout, SHORT_MIN)) > 1 and names <= tokens]
    fitting = [one for one in twice if _fits(one, payment)]
    return Arrived(fitting[0]) if len(fitting) == 1 else None


def _by_name(payment: IncomingPayment, named: Sequence[Expected]) -> Arrived | Unclear:
    fitting = [one for one in named if _fits(one, payment)]
    if len(fitting) == 1:
        return Arrived(fitting[0])
    if fitting:
        return _several(fitting)
    return Unclear("; ".join(f"it names {_of(one)}, {_off(one, payment)}" for one in named[:_TOLD]))


def _off(one: Expected, payment: IncomingPayment) -> str:
    """Say why a payout that a movement names is not what came."""
    if one.payment_id is not None:
        return f"which has arrived already as payment {one.payment_id}"
    if one.net != payment.amount:
        return f"whose report says {one.net}, and {_came(payment)}"
    return f"which was to arrive on {one.paid_on}, and this was booked on {payment.booked_on}"


def _by_payer(
    payment: IncomingPayment, expected: Sequence[Expected], sources: set[str], tokens: frozenset[str]
) -> Arrived | Unclear | None:
    around = [one for one in expected if one.source in sources and _is_open(one, payment) and _in_time(one, payment)]
    fitting = [one for one in around if one.net == payment.amount]
    named = [one for one in fitting if _names(one, SHORT_MIN) & tokens]
    fitting = named if len(named) == 1 else fitting
    if len(fitting) == 1:
        return Arrived(fitting[0])
    if fitting:
        return _several(fitting)
    if payment.amount.minor < 0:
        return None  # the gateway's own invoice, for all that is known
    comes = f"it comes from {' or '.join(sorted(map(gateway, sources)))}"
    if not around:
        return Unclear(f"{comes}, and no report of a payout over {payment.amount} around that day has come yet")
    said = ", ".join(f"the report of {_of(one)} says {one.net}" for one in around[:_TOLD])
    return Unclear(f"{comes}; {said}, and {_came(payment)}")


def _came(payment: IncomingPayment) -> str:
    return f"{payment.amount} arrived" if payment.amount.minor > 0 else f"{-payment.amount} left"


def _several(fitting: Sequence[Expected]) -> Unclear:
    said = " or ".join(map(_of, fitting[:_TOLD]))
    return Unclear(f"it could be {said}, and nothing in it decides between them", several=True)


def _of(one: Expected) -> str:
    return f"payout {one.external_id} of {gateway(one.source)}"


def _is_open(one: Expected, payment: IncomingPayment) -> bool:
    return one.payment_id is None and one.net.currency == payment.amount.currency


def _in_time(one: Expected, payment: IncomingPayment) -> bool:
    return -EARLY_DAYS <= (payment.booked_on - one.paid_on).days <= LATE_DAYS


def _fits(one: Expected, payment: IncomingPayment) -> bool:
    return _is_open(one, payment) and _in_time(one, payment) and one.net == payment.amount


def _names(one: Expected, shortest: int = NAME_MIN) -> frozenset[str]:
    """Return what names a payout, in normal form."""
    given = (one.external_id, one.reference or "")
    return frozenset(normal_number(text) for text in given if len(compact(text)) >= shortest)


def _tokens(payment: IncomingPayment) -> frozenset[str]:
    """Return every whole token in a movement, in normal form; one of digits alone stands in one piece."""
    found: set[str] = set()
    texts = (
        payment.text,
        payment.end_to_end_id,
        payment.provider_reference,
        payment.order_reference,
        payment.variable_symbol,
        payment.rf,
    )
    for text in filter(None, texts):
        folded = fold(text)
        words = list(_WORD.finditer(folded))
        for start, first in enumerate(words):
            joined, end = first[0], first.end()
            found.add(normal_number(joined))
            for word in words[start + 1 : start + _JOINED_MAX]:
                if not _INSIDE.fullmatch(folded[end : word.start()]):
                    break
                joined, end = joined + word[0], word.end()
                if not joined.isdigit():
                    found.add(normal_number(joined))
    return frozenset(found)


def _comes_from(payment: IncomingPayment, payer: str) -> bool:
    """Say whether a movement's payer is one that is known: the same account, or a name with these words in it."""
    account = normal_account(payment.payer_account or "")
    if account and account == normal_account(payer):
        return True
    wanted, words = _WORD.findall(fold(payer)), _WORD.findall(fold(payment.payer_name or ""))
    places = range(len(words) - len(wanted) + 1) if wanted else ()
    return any(words[place : place + len(wanted)] == wanted for place in places)
