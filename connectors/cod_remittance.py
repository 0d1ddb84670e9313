"""A carrier's remittance of cash on delivery as CSV: what it collected for which parcel, and when it paid it out.

Our own documented format has these columns; a carrier's own titles are mapped in the settings:

    remittance_id,tracking_number,order_number,collected,fee,transferred,currency,delivered_on,paid_on,payment_order
    R-2026-118,DR0412345678C,1042,1042.50,42.50,1000.00,CZK,2026-03-02,2026-03-05,9000118

A row needs `collected`, `paid_on`, and the tracking number or the order's number. Each row settles its order. All rows
of one `remittance_id` are also the report of one lump sum: what was collected less the fees, which is looked for on the
bank statement and settles nothing. Without that id, or where no row tells the fee or what was transferred, nothing is
known of lump sums; a carrier that keeps nothing has a fee of 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from connectors.csv_statement import Row, Rows, Table, TableConfig
from connectors.statements import Unreadable, not_zero
from domain.money import Money, MoneyError
from domain.payments import IncomingPayment, Method, Refusal, StatementEntry, StatementFile, incoming_from_statement
from domain.payouts import CARRIER, REMITTANCE, LineKind, Payout, PayoutLine, RemittanceFile, problems
from domain.wording import listed

_FORM = "cod-csv"


class CodRemittanceConfig(TableConfig):
    """One carrier's remittances."""

    FIELDS = (
        "remittance_id",
        "tracking_number",
        "order_number",
        "collected",
        "fee",
        "transferred",
        "currency",
        "delivered_on",
        "paid_on",
        "payment_order",
    )
    REQUIRED = (("collected",), ("paid_on",), ("tracking_number", "order_number"))

    carrier: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="Which carrier's; becomes its account")
    payers: tuple[Annotated[str, Field(min_length=3, max_length=80)], ...] = Field(
        default=(), description="Words of the payer's name, or its account, as the bank has it for these remittances"
    )


class CodRemittance:
    """Reads a carrier's cash-on-delivery remittances."""

    reads = "CSV remittance of cash on delivery with the columns that are set up"

    def __init__(self, config: CodRemittanceConfig) -> None:
        self.account = f"{CARRIER}{config.carrier}"
        self._config = config
        self._rows = Rows(config)

    @property
    def payout_source(self) -> str:
        """The source of the carrier's lump sums."""
        return self.account

    @property
    def payout_payers(self) -> Sequence[str]:
        """Names and accounts that the bank writes for the carrier."""
        return self._config.payers

    def recognises(self, data: bytes, name: str) -> bool:
        """Say whether a file has the header row that is set up."""
        del name
        return self._rows.recognises(data)

    def read(self, data: bytes, name: str) -> RemittanceFile:
        """Read every row into an entry, booked on the day the carrier paid it out, and the lump sums that they are."""
        del name
        told = _Told(self.account)
        read = Table(self._config, told.entry).read(
            data, form=_FORM, method=Method.CASH_ON_DELIVERY, account=self.account
        )
        payouts, unknown = told.payouts(read)
        return RemittanceFile(
            format=read.format,
            method=read.method,
            statements=read.statements,
            refused=(*read.refused, *unknown),
            payouts=payouts,
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """What a row says of its remittance, beside what its entry does."""

    remittance: str | None
    fee: Money | None = None
    reference: str | None = None


class _Told:
    """The rows of one file as they are read, by where they stand."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._parts: dict[str, _Part] = {}

    def entry(self, row: Row) -> StatementEntry:
        """Read a row; raises Unreadable or MoneyError."""
        remittance = row.text("remittance_id")
        self._parts[row.where] = _Part(remittance)
        tracking_number, order_number = row.text("tracking_number"), row.text("order_number")
        if not tracking_number and not order_number:
            said = "both are missing, so it is not known what was collected for"
            raise Unreadable(f"tracking_number, order_number: {said}")
        row.day("delivered_on")
        made = StatementEntry(
            amount=not_zero(_collected(row)),
            booked_on=row.required_day("paid_on"),
            where=row.where,
            bank_reference=f"{remittance}/{tracking_number or order_number}" if remittance else None,
            order_reference=order_number,
            tracking_number=tracking_number,
        )
        self._parts[row.where] = _Part(remittance, _fee(row, made.amount), row.text("payment_order"))
        return made

    def payouts(self, read: StatementFile) -> tuple[tuple[Payout, ...], list[Refusal]]:
        """Return the lump sums of the remittances in a file, and of which of them the lump sum can't be known."""
        entries = [entry for statement in read.statements for entry in statement.entries]
        incoming = incoming_from_statement(
            source=REMITTANCE, method=read.method, account=self._account, entries=entries
        )
        groups: dict[str, list[tuple[StatementEntry, IncomingPayment]]] = defaultdict(list)
        for entry, payment in zip(entries, incoming, strict=True):
            if (remittance := self._parts[entry.where].remittance) is not None:
                groups[remittance].append((entry, payment))
        # A row of which not even the remittance can be read may belong to any.
        bad = {(part.remittance if (part := self._parts.get(one.where)) else None): one.where for one in read.refused}
        lost = next((one.where for one in read.refused if one.where not in self._parts), None)
        made: list[Payout] = []
        unknown: list[Refusal] = []
        for remittance, rows in groups.items():
            if all(self._parts[entry.where].fee is None for entry, _ in rows):
                continue
            where = lost or bad.get(remittance)
            payout = f"{where} may be a part of it" if where else self._payout(remittance, rows)
            wrong = [payout] if isinstance(payout, str) else [one.reason for one in problems(payout)]
            if isinstance(payout, Payout) and not wrong:
                made.append(payout)
            else:
                said = f"what it pays out is not known: {'; '.join(wrong[:3])}"
                unknown.append(Refusal(f"remittance {remittance:.60}", said))
        return tuple(made), unknown

    def _payout(self, remittance: str, rows: Sequence[tuple[StatementEntry, IncomingPayment]]) -> Payout | str:
        """Return the lump sum that rows are, or why they can be none."""
        parts = [self._parts[entry.where] for entry, _ in rows]
        days = sorted({entry.booked_on for entry, _ in rows})
        references = sorted({part.reference for part in parts if part.reference})
        currencies = sorted({entry.amount.currency for entry, _ in rows})
        for what, found in (("paid_on", days), ("currency", currencies), ("payment_order", references)):
            if len(found) > 1:
                return f"{what}: its rows say {listed([f'{one!s:.40}' for one in found[:3]])}"
        if silent := [entry.where for (entry, _), part in zip(rows, parts, strict=True) if part.fee is None]:
            return f"fee, transferred: {silent[0]} tells neither"
        try:
            lines = tuple(
                _line(payment, part.fee) for (_, payment), part in zip(rows, parts, strict=True) if part.fee is not None
            )
            zero = Money.zero(currencies[0])
            return Payout(
                source=self._account,
                external_id=remittance,
                gross=sum((line.gross for line in lines), zero),
                fee=sum((line.fee for line in lines), zero),
                net=sum((line.net for line in lines), zero),
                paid_on=days[0],
                reference=references[0] if references else None,
                lines=lines,
            )
        except MoneyError as error:
            return str(error)


def _line(payment: IncomingPayment, fee: Money) -> PayoutLine:
    return PayoutLine(
        external_id=payment.external_id,
        kind=LineKind.PAYMENT if payment.amount.minor > 0 else LineKind.OTHER,
        gross=payment.amount,
        fee=fee,
        net=payment.amount - fee,
        provider_reference=payment.tracking_number,
        order_reference=payment.order_reference,
    )


def _collected(row: Row) -> Money:
    collected = row.money("collected")
    if collected is None:
        raise Unreadable("collected: the amount is missing")
    return collected


def _fee(row: Row, collected: Money) -> Money | None:
    """Return what the carrier kept, told as itself or by what it transferred of it."""
    fee, transferred = row.money("fee"), row.money("transferred")
    if transferred is None:
        return fee
    if fee is not None and collected - fee != transferred:
        said = f"{collected.amount} less {fee.amount} is not {transferred.amount}"
        raise Unreadable(f"collected, fee, transferred: {said}")
    return collected - transferred


CONFIG = CodRemittanceConfig
CONNECTOR = CodRemittance
