"""Bank statements as CSV, in our own documented format or, by a map of columns, in a bank's.

Our own format has a header row and is UTF-8, with a dot in amounts and ISO dates; the columns may come in any order,
and all but `booked_on` and one of `amount`, `credit` and `debit` may be left out:

    booked_on,value_date,amount,currency,bank_reference,variable_symbol,payer_name,payer_account,remittance
    2026-03-02,2026-03-02,1042.50,CZK,20260302-7,1042,Jan Novák,123456789/0800,Order 1042

`amount` is signed: positive came in, negative left. A bank that has a column each for money in and money out writes
`credit` and `debit` instead. Further columns: `end_to_end_id`, `order_reference`.
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from connectors import Config
from connectors.statements import Unreadable, creditor_reference, decode, first_look, not_zero, reference, refused_file
from domain.money import Money, MoneyError, exponent
from domain.payments import Method, Refusal, Statement, StatementEntry, StatementFile

Encoding = Literal[
    "utf-8", "utf-16", "cp1250", "cp1251", "cp1252", "cp852", "cp866", "iso-8859-1", "iso-8859-2", "iso-8859-15"
]
_DELIMITERS = (",", ";", "\t", "|")
_MAX_LINES_PER_ROW = 50
_EXCEL_TEXT = re.compile(r'="([^"]*)"')


class TableConfig(Config):
    """How a table is written, and which of its columns is what."""

    FIELDS: ClassVar[tuple[str, ...]] = ()
    # Of each group at least one column must be there.
    REQUIRED: ClassVar[tuple[tuple[str, ...], ...]] = ()

    delimiter: Literal["auto", ",", ";", "\t", "|"] = Field(
        "auto", description="Between cells; auto goes by the titles"
    )
    encoding: Encoding = "utf-8"
    decimal: Literal[".", ","] = Field(".", description="Decimal separator of amounts")
    thousands: Literal["", " ", ".", ",", "'"] = Field("", description="Separator of thousands in amounts")
    date_format: str = Field("%Y-%m-%d", description="As in strptime: %Y-%m-%d, %d.%m.%Y, …")
    header_row: int = Field(1, ge=1, le=1000, description="Number of the line that has the titles")
    currency: str | None = Field(None, description="Currency of the amounts, where there is no column for it")
    columns: dict[str, str] = Field(
        default_factory=dict[str, str], description="Our name of a column → its title; empty means our own format"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.currency is not None:
            exponent(self.currency)
        if self.thousands == self.decimal:
            raise ValueError("thousands and decimal must be different separators")
        if not _whole_dates(self.date_format):
            raise ValueError(f"date_format: “{self.date_format}” doesn't give day, month and year, as %d.%m.%Y does")
        if unknown := sorted(set(self.columns) - set(self.FIELDS)):
            raise ValueError(f"columns: {', '.join(unknown)} not known; choose from {', '.join(self.FIELDS)}")
        titles = [_title(title) for title in self.columns.values()]
        if len(set(titles)) < len(titles):
            raise ValueError("columns: the same title stands twice")
        if self.columns and (missing := self.missing(set(self.columns))):
            raise ValueError(f"columns: {missing} is missing")
        return self

    def missing(self, fields: set[str]) -> str | None:
        """Return in words which of the required columns is not among some fields."""
        return next((" or ".join(group) for group in self.REQUIRED if not fields & set(group)), None)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table; what it is asked for and can't give raises Unreadable, naming the column."""

    where: str
    cells: dict[str, str]
    config: TableConfig

    def text(self, field: str) -> str | None:
        """Return a cell's text, or None if it is empty or there is no such column."""
        return self.cells.get(field) or None

    def day(self, field: str) -> date | None:
        """Return a cell's date, or None if it is empty."""
        text = self.text(field)
        if text is None:
            return None
        try:
            return date(*time.strptime(text, self.config.date_format)[:3])
        except ValueError:
            raise Unreadable(f"{field}: “{text[:40]}” is not a date written as {self.config.date_format}") from None

    def required_day(self, field: str) -> date:
        """Return a cell's date."""
        found = self.day(field)
        if found is None:
            raise Unreadable(f"{field}: the date is missing")
        return found

    def money(self, field: str) -> Money | None:
        """Return a cell's amount in the row's currency, or None if it is empty."""
        text = self.text(field)
        if text is None:
            return None
        currency = self.text("currency") or self.config.currency
        if currency is None:
            raise Unreadable("currency: it is missing, and the reader has no setting for it")
        plain = text.replace("\u00a0", " ").replace("\u202f", " ").replace("\u2212", "-").strip()
        match = _number(self.config.decimal, self.config.thousands).fullmatch(plain)
        if not match:
            example = f"1{self.config.thousands}234{self.config.decimal}50"
            raise Unreadable(f"{field}: “{text[:40]}” is not an amount written as {example}")
        digits = re.sub(r"[^0-9]", "", match["whole"])
        try:
            return Money.parse(f"{match['sign']}{digits}.{match['fraction'] or '0'}", currency)
        except MoneyError as error:
            raise Unreadable(f"{field}: {error}") from None


def _whole_dates(form: str) -> bool:
    """Say whether a date written in a format can be read back from it."""
    try:
        return date(*time.strptime(date(2024, 12, 31).strftime(form), form)[:3]) == date(2024, 12, 31)
    except ValueError:
        return False


@cache
def _number(decimal: str, thousands: str) -> re.Pattern[str]:
    grouped = rf"[0-9]{{1,3}}(?:{re.escape(thousands)}[0-9]{{3}}){{1,4}}|" if thousands else ""
    fraction = rf"(?:{re.escape(decimal)}(?P<fraction>[0-9]{{0,10}}))?"
    return re.compile(rf"(?P<sign>[+-]?) ?(?P<whole>{grouped}[0-9]{{1,15}}){fraction}")


def _title(text: str) -> str:
    return " ".join(text.split()).casefold()


class Rows:
    """Reads the rows of tables of one kind: finds the columns by their titles."""

    def __init__(self, config: TableConfig) -> None:
        self.config = config

    def recognises(self, data: bytes) -> bool:
        """Say whether the header row has the titles that are looked for."""
        try:
            self._header(_lines(first_look(data, self.config.encoding)))
        except Unreadable:
            return False
        return True

    def rows(self, data: bytes) -> Iterator[tuple[str, Row | Unreadable]]:
        """Return where each row below the titles stands, with the row, or with why it can't be read.

        Raises Unreadable for what is no text, or has not the titles that are looked for.
        """
        lines = _lines(decode(data, self.config.encoding))
        return self._below(lines, self._header(lines))

    def nothing(self, data: bytes) -> Refusal:
        """Say of a file that there is nothing below its titles."""
        titles = self._titles(_lines(first_look(data, self.config.encoding)))
        reason = "there are no rows below the titles; if payments were expected, ask the sender for the file again"
        return Refusal(f"line {titles + 1}", reason)

    def _titles(self, lines: list[str]) -> int:
        """Return which line should have the titles; Excel's line that names the delimiter is not counted as one."""
        return self.config.header_row - (0 if lines[0].lower().startswith("sep=") else 1)

    def _below(self, lines: list[str], header: _Header) -> Iterator[tuple[str, Row | Unreadable]]:
        for where, cells in _rows(lines, header.row + 1, header.delimiter):
            try:
                yield where, self._row(where, cells, header)
            except Unreadable as error:
                yield where, error

    def _header(self, lines: list[str]) -> _Header:
        """Find the columns in the header row; raises Unreadable if it is not the one that is looked for."""
        row = self._titles(lines)
        line = lines[row] if row < len(lines) else ""
        wanted = {_title(title): field for field, title in self.config.columns.items()}
        wanted = wanted or {field: field for field in self.config.FIELDS}
        problem = f"the file has no line {self.config.header_row} with column titles"
        for delimiter in _DELIMITERS if self.config.delimiter == "auto" else (self.config.delimiter,):
            titles = [_title(title) for _, cells in _rows([line], 0, delimiter) for title in cells or ()]
            columns = {wanted[title]: position for position, title in enumerate(titles) if title in wanted}
            lacking = sorted(set(wanted.values()) - set(columns)) if self.config.columns else []
            missing = self.config.missing(set(columns)) or ", ".join(lacking)
            twice = [title for title in wanted if titles.count(title) > 1]
            if not missing and not twice:
                return _Header(row, delimiter, columns, len(titles))
            if columns:
                problem = f"the header row has no column for {missing}" if missing else f"two columns are {twice[0]}"
        raise Unreadable(f"{problem}; check the reader's delimiter, header_row and columns against the file")

    def _row(self, where: str, cells: list[str] | None, header: _Header) -> Row:
        if cells is None:
            raise Unreadable("the quotes in this row don't match; double each quote that is part of a text")
        if len(cells) < header.width or any(cells[header.width :]):
            raise Unreadable(f"the row has {len(cells)} cells where the header has {header.width}; it may be cut off")
        return Row(where, {field: cells[position] for field, position in header.columns.items()}, self.config)


class Table(Rows):
    """Reads tables of one kind, and makes an entry of each row."""

    def __init__(self, config: TableConfig, entry: Callable[[Row], StatementEntry]) -> None:
        super().__init__(config)
        self.entry = entry

    def read(self, data: bytes, *, form: str, method: Method, account: str) -> StatementFile:
        """Read a whole table, into one statement for each currency; what can't be taken is refused row by row."""
        try:
            rows = self.rows(data)
        except Unreadable as error:
            return refused_file(form, str(error), method)
        refused: list[Refusal] = []
        entries: dict[str, list[StatementEntry]] = {}
        for where, row in rows:
            try:
                if isinstance(row, Unreadable):
                    raise row
                entry = self.entry(row)
            except (Unreadable, MoneyError) as error:
                refused.append(Refusal(where, str(error)))
            else:
                entries.setdefault(entry.amount.currency, []).append(entry)
        if not entries and not refused:
            refused.append(self.nothing(data))
        return StatementFile(
            format=form,
            method=method,
            statements=tuple(
                Statement(account=account, currency=currency, entries=tuple(found))
                for currency, found in entries.items()
            ),
            refused=tuple(refused),
        )


@dataclass(frozen=True, slots=True)
class _Header:
    row: int
    delimiter: str
    columns: dict[str, int]
    width: int


def _lines(text: str) -> list[str]:
    """Cut a text into lines, each with its end, since a quoted cell may have several."""
    return re.split(r"(?<=\n)|(?<=\r)(?!\n)", text.removeprefix("\ufeff"))


def _rows(lines: list[str], start: int, delimiter: str) -> Iterator[tuple[str, list[str] | None]]:
    """Return each row that is not blank: where it stands, and its cells, or None if they can't be told apart.

    Reading goes on at the line after a bad one, so that an open quote doesn't swallow the rest of the file.
    """
    position = start
    while position < len(lines):
        reader = csv.reader(lines[position : position + _MAX_LINES_PER_ROW], delimiter=delimiter, strict=True)
        where = f"line {position + 1}"
        try:
            cells = [_cell(cell) for cell in next(reader)]
        except csv.Error:
            position += 1
            yield where, None
        else:
            position += reader.line_num
            if any(cells):
                yield where, cells


def _cell(text: str) -> str:
    """Return a cell's text without what Excel adds to keep a number's leading zeros: ="00123"."""
    match = _EXCEL_TEXT.fullmatch(text.strip())
    return (match[1] if match else text).strip()


class CsvStatementConfig(TableConfig):
    """A bank account's statements in one bank's CSV."""

    FIELDS = (
        "booked_on",
        "value_date",
        "amount",
        "credit",
        "debit",
        "currency",
        "bank_reference",
        "variable_symbol",
        "payer_name",
        "payer_account",
        "remittance",
        "end_to_end_id",
        "order_reference",
    )
    REQUIRED = (("booked_on",), ("amount", "credit", "debit"))

    account: str = Field(min_length=1, max_length=64, description="The account that the statements are of")


class CsvStatement:
    """Reads CSV statements."""

    reads = "CSV statement with the columns that are set up"

    def __init__(self, config: CsvStatementConfig) -> None:
        self.account = "".join(config.account.split())
        self.table = Table(config, _entry)

    def recognises(self, data: bytes, name: str) -> bool:
        """Say whether a file has the header row that is set up."""
        del name
        return self.table.recognises(data)

    def read(self, data: bytes, name: str) -> StatementFile:
        """Read every row into an entry."""
        del name
        return self.table.read(data, form="csv", method=Method.BANK_TRANSFER, account=self.account)


def _entry(row: Row) -> StatementEntry:
    account = row.text("payer_account")
    return StatementEntry(
        amount=not_zero(_amount(row)),
        booked_on=row.required_day("booked_on"),
        value_date=row.day("value_date"),
        where=row.where,
        bank_reference=reference(row.text("bank_reference")),
        end_to_end_id=reference(row.text("end_to_end_id")),
        variable_symbol=_symbol(row),
        rf=creditor_reference(row.text("remittance"), row.text("end_to_end_id")),
        payer_name=row.text("payer_name"),
        payer_account="".join(account.split()) if account else None,
        remittance=row.text("remittance"),
        order_reference=row.text("order_reference"),
    )


def _amount(row: Row) -> Money:
    """Return the signed amount; a debit column says by itself that money left, whatever sign stands in it."""
    given = {field: money for field in ("amount", "credit", "debit") if (money := row.money(field)) is not None}
    moved = {field: money for field, money in given.items() if money}
    if not given:
        raise Unreadable("amount: it is missing")
    if len(moved) > 1:
        raise Unreadable(f"{', '.join(moved)}: the row has an amount in each, so it is not known which is meant")
    field, money = next(iter((moved or given).items()))
    return -abs(money) if field == "debit" else money


def _symbol(row: Row) -> str | None:
    text = row.text("variable_symbol")
    if text is None:
        return None
    found = re.fullmatch(r"(?:VS:?)?\s?([0-9]{1,20})", text)
    symbol = found[1].lstrip("0") if found else ""
    if not found or len(symbol) > 10:
        raise Unreadable(f"variable_symbol: “{text[:40]}” is not a number of at most ten digits")
    return symbol or None


CONFIG = CsvStatementConfig
CONNECTOR = CsvStatement
