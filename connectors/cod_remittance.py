"""A carrier's remittance of cash on delivery as CSV: what it collected for which parcel, and when it paid it out.

Our own documented format has these columns; a carrier's own titles are mapped in the settings:

    remittance_id,tracking_number,order_number,collected,currency,delivered_on,paid_on
    R-2026-118,DR0412345678C,1042,1042.50,CZK,2026-03-02,2026-03-05

A row needs `collected`, `paid_on`, and the tracking number or the order's number.
"""

from __future__ import annotations

from pydantic import Field

from connectors.csv_statement import Row, Table, TableConfig
from connectors.statements import Unreadable, not_zero
from domain.money import Money
from domain.payments import Method, StatementEntry, StatementFile


class CodRemittanceConfig(TableConfig):
    """One carrier's remittances."""

    FIELDS = (
        "remittance_id",
        "tracking_number",
        "order_number",
        "collected",
        "currency",
        "delivered_on",
        "paid_on",
    )
    REQUIRED = (("collected",), ("paid_on",), ("tracking_number", "order_number"))

    carrier: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="Which carrier's; becomes its account")


class CodRemittance:
    """Reads a carrier's cash-on-delivery remittances."""

    reads = "CSV remittance of cash on delivery with the columns that are set up"

    def __init__(self, config: CodRemittanceConfig) -> None:
        self.account = f"cod:{config.carrier}"
        self.table = Table(config, _entry)

    def recognises(self, data: bytes, name: str) -> bool:
        """Say whether a file has the header row that is set up."""
        del name
        return self.table.recognises(data)

    def read(self, data: bytes, name: str) -> StatementFile:
        """Read every row into an entry, booked on the day the carrier paid it out."""
        del name
        return self.table.read(data, form="cod-csv", method=Method.CASH_ON_DELIVERY, account=self.account)


def _entry(row: Row) -> StatementEntry:
    tracking_number, order_number = row.text("tracking_number"), row.text("order_number")
    if not tracking_number and not order_number:
        raise Unreadable("tracking_number, order_number: both are missing, so it is not known what was collected for")
    row.day("delivered_on")
    remittance = row.text("remittance_id")
    return StatementEntry(
        amount=not_zero(_collected(row)),
        booked_on=row.required_day("paid_on"),
        where=row.where,
        bank_reference=f"{remittance}/{tracking_number or order_number}" if remittance else None,
        order_reference=order_number,
        tracking_number=tracking_number,
    )


def _collected(row: Row) -> Money:
    collected = row.money("collected")
    if collected is None:
        raise Unreadable("collected: the amount is missing")
    return collected


CONFIG = CodRemittanceConfig
CONNECTOR = CodRemittance
