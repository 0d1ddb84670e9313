"""A gateway's report of its payouts as CSV: which payments, refunds and fees each lump sum on the bank statement is.

Our own documented format has one row per line of a payout; a gateway's own titles are mapped in the settings:

    payout_id,paid_on,currency,kind,provider_reference,order_reference,gross,fee,net
    P-2026-118,2026-03-05,EUR,payment,T-7001,E1001,25.80,0.70,25.10
    P-2026-118,2026-03-05,EUR,refund,T-6950,,-10.00,0.00,-10.00

A row needs `payout_id`, `paid_on`, `kind`, `gross`, and `fee` or `net`; what the payout has once may stand on each of
its rows or on the first alone. Gross less fee is net. A payout of which a row is bad is left out as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from connectors.csv_statement import Row, Rows, TableConfig
from connectors.statements import Unreadable, refused_file
from domain.money import Money, MoneyError
from domain.payments import Method, Refusal
from domain.payouts import LineKind, Payout, PayoutFile, PayoutLine, line_problems, problems

_FORM = "payout-csv"
# Rows are kept until all of their payout's are read, so a file of any length would take gigabytes.
MAX_ROWS = 200_000
_GROSS, _FEE, _NET = _SUMS = ("payout_gross", "payout_fee", "payout_net")

_Told = TypeVar("_Told")


class PayoutReportConfig(TableConfig):
    """The payout reports of one gateway."""

    FIELDS = (
        "payout_id",
        "paid_on",
        "currency",
        "payout_reference",
        "payout_gross",
        "payout_fee",
        "payout_net",
        "line_id",
        "kind",
        "provider_reference",
        "order_reference",
        "booked_on",
        "gross",
        "fee",
        "net",
    )
    REQUIRED = (("payout_id",), ("paid_on",), ("kind",), ("gross",), ("fee", "net"))

    source: str = Field(
        pattern=r"^[a-z0-9][a-z0-9:-]{0,79}$",
        description="Whose payments they are; for a gateway that is connected as the connector NAME, `TYPE:NAME`",
    )
    kinds: dict[str, LineKind] = Field(
        default_factory=dict[str, LineKind], description="The report's word for a line → what it is; ours count too"
    )
    fees: Literal["positive", "negative"] = Field("positive", description="The sign of fees that the gateway keeps")
    payers: tuple[Annotated[str, Field(min_length=3, max_length=80)], ...] = Field(
        default=(), description="Words of the payer's name, or its account, as the bank has it for these payouts"
    )


@dataclass(slots=True)
class _Group:
    """The rows of one payout, and what is bad about them."""

    rows: list[Row] = field(default_factory=list[Row])
    refused: list[Refusal] = field(default_factory=list[Refusal])


class PayoutReport:
    """Reads a gateway's payout reports."""

    reads = "CSV payout report with the columns that are set up"

    def __init__(self, config: PayoutReportConfig) -> None:
        self._config = config
        self._table = Rows(config)
        self._kinds = {kind.value: kind for kind in LineKind}
        self._kinds |= {_word(word): kind for word, kind in config.kinds.items()}

    @property
    def payout_source(self) -> str:
        """The source of the gateway's payments, and of its payouts."""
        return self._config.source

    @property
    def payout_payers(self) -> Sequence[str]:
        """Names and accounts that the bank writes for the gateway."""
        return self._config.payers

    def recognises(self, data: bytes, name: str) -> bool:
        """Say whether a file has the header row that is set up."""
        del name
        return self._table.recognises(data)

    def read(self, data: bytes, name: str) -> PayoutFile:
        """Read every payout; one of which anything is bad is refused, with a sentence for each of its lines."""
        del name
        try:
            rows = self._table.rows(data)
        except Unreadable as error:
            return _refused(str(error))
        groups: dict[str, _Group] = {}
        lost: list[Refusal] = []
        for count, (where, row) in enumerate(rows):
            if count == MAX_ROWS:
                return _refused(f"the report has more than {MAX_ROWS} rows; ask for a shorter period per file")
            payout_id = row.text("payout_id") if isinstance(row, Row) else None
            if payout_id and isinstance(row, Row):
                groups.setdefault(payout_id, _Group()).rows.append(row)
            else:
                lost.append(Refusal(where, str(row) if isinstance(row, Unreadable) else "payout_id: it is missing"))
        if not groups and not lost:
            lost.append(self._table.nothing(data))
        taken: list[Payout] = []
        refused = list(lost)
        for payout_id, group in groups.items():
            payout = self._payout(payout_id, group, lost)
            bad = [*group.refused, *(problems(payout) if payout else ())]
            if payout is not None and not bad:
                taken.append(payout)
                continue
            first = bad[0].where if len(bad) == 1 else f"{bad[0].where} and what follows it"
            refused += [*bad, Refusal(f"payout {payout_id:.60}", f"nothing of it is taken, because of {first}")]
        return PayoutFile(format=_FORM, method=Method.CARD, payouts=tuple(taken), refused=tuple(refused))

    def _payout(self, payout_id: str, group: _Group, lost: Sequence[Refusal]) -> Payout | None:
        """Return a payout, or None when a part of it can't be read, which is then in the group's refusals."""
        paid_on = _once(group, "paid_on", partial(Row.day, field="paid_on"))
        reference = _once(group, "payout_reference", partial(Row.text, field="payout_reference"))
        told = {name: _once(group, name, partial(Row.money, field=name)) for name in _SUMS}
        lines = self._lines(group)
        if paid_on is None and not group.refused:
            group.refused.append(Refusal(group.rows[0].where, "paid_on: the date is missing"))
        if lost and told[_NET] is None:
            said = f"{lost[0].where} could be one of its lines, and there is no payout_net to tell by"
            group.refused.append(Refusal(group.rows[0].where, said))
        if paid_on is None or group.refused:
            return None
        fee = told[_FEE]
        try:
            if fee is not None and self._config.fees == "negative":
                fee = -fee
            zero = Money.zero(lines[0].net.currency)
            return Payout(
                source=self._config.source,
                external_id=payout_id,
                gross=_or_sum(told[_GROSS], [line.gross for line in lines], zero),
                fee=_or_sum(fee, [line.fee for line in lines], zero),
                net=_or_sum(told[_NET], [line.net for line in lines], zero),
                paid_on=paid_on,
                lines=tuple(lines),
                reference=reference,
            )
        except MoneyError as error:
            group.refused.append(Refusal(group.rows[0].where, str(error)))
            return None

    def _lines(self, group: _Group) -> list[PayoutLine]:
        lines: list[PayoutLine] = []
        seen: Counter[str] = Counter()
        for row in group.rows:
            try:
                line = self._line(row, seen)
            except (Unreadable, MoneyError) as error:
                group.refused.append(Refusal(row.where, str(error)))
            else:
                lines.append(line)
                said = line_problems(line, lines[0].net.currency)
                group.refused += [Refusal(row.where, problem) for problem in said]
        return lines

    def _line(self, row: Row, seen: Counter[str]) -> PayoutLine:
        word = row.text("kind") or ""
        kind = self._kinds.get(_word(word))
        if kind is None:
            known = ", ".join(LineKind)
            raise Unreadable(f"kind: “{word:.40}” is not known; there are {known}; the reader's kinds map other words")
        gross, fee, net = self._amounts(row)
        if kind is LineKind.FEE:
            # Some write what the gateway asks for by itself as an amount, others as a fee.
            gross, fee = gross - gross, fee - gross
        reference, order = row.text("provider_reference"), row.text("order_reference")
        id_ = row.text("line_id")
        if id_ is None:
            # The same lines in the same order get the same ids, however often the report comes.
            about = "/".join(filter(None, (kind, reference or order)))
            seen[about] += 1
            id_ = about if seen[about] == 1 else f"{about}#{seen[about]}"
        return PayoutLine(
            external_id=id_,
            kind=kind,
            gross=gross,
            fee=fee,
            net=net,
            provider_reference=reference,
            order_reference=order,
            booked_on=row.day("booked_on"),
            where=row.where,
        )

    def _amounts(self, row: Row) -> tuple[Money, Money, Money]:
        gross, fee, net = row.money("gross"), row.money("fee"), row.money("net")
        if gross is None:
            raise Unreadable("gross: the amount is missing")
        if fee is not None:
            fee = -fee if self._config.fees == "negative" else fee
            return gross, fee, gross - fee if net is None else net
        if net is None:
            raise Unreadable("fee, net: both are missing, so it is not known what is paid out of it")
        return gross, gross - net, net


def _refused(reason: str) -> PayoutFile:
    return PayoutFile(format=_FORM, method=Method.CARD, refused=refused_file(_FORM, reason).refused)


def _word(text: str) -> str:
    return " ".join(text.split()).casefold()


def _once(group: _Group, name: str, read: Callable[[Row], _Told | None]) -> _Told | None:
    """Return what a payout has once, from whichever of its rows have it; rows that disagree are refused."""
    found: list[tuple[str, _Told]] = []
    for row in group.rows:
        try:
            value = read(row)
        except Unreadable as error:
            group.refused.append(Refusal(row.where, str(error)))
            continue
        if value is not None:
            found.append((row.where, value))
    other = next(((where, value) for where, value in found if value != found[0][1]), None)
    if other is not None:
        said = f"{name}: it says {other[1]!s:.60}, but {found[0][0]} says {found[0][1]!s:.60} of the same payout"
        group.refused.append(Refusal(other[0], said))
    return found[0][1] if found else None


def _or_sum(told: Money | None, amounts: Sequence[Money], zero: Money) -> Money:
    return sum(amounts, zero) if told is None else told


CONFIG = PayoutReportConfig
CONNECTOR = PayoutReport
