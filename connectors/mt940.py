"""Bank statements in SWIFT MT940, as banks really write them.

The library mt-940 reads each field; this module cuts the file into fields, so that every line has its number, one bad
field spoils nothing else, and each `:61:` is either an entry or refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, ClassVar

import mt940

from connectors import Config
from connectors.statements import (
    Unreadable,
    creditor_reference,
    decode,
    discrepancy,
    first_look,
    not_zero,
    passes_mod_97,
    reference,
    refused_file,
    variable_symbol,
)
from domain.money import Money, MoneyError
from domain.payments import Method, Refusal, Statement, StatementEntry, StatementFile

# The library logs the text of what it can't read, and that is people's names and accounts.
logging.getLogger("mt940").setLevel(logging.CRITICAL + 1)

_OPENING = ("60F", "60M", "60")
_CLOSING = ("62F", "62M", "62")
_KNOWN = frozenset("13 13D 20 21 25 25P 28 28C 34F 61 64 65 86 90C 90D NS NSF".split()) | {*_OPENING, *_CLOSING}

_TAG = re.compile(r":([0-9]{2}[A-Z]?|NS[A-Z]?):(.*)", re.DOTALL)
_END = re.compile(r"-(\}.*|å)?")  # “å” is the bracket in Swedish 7-bit files
_BALANCE = re.compile(r"[CD][0-9]{6}([A-Z]{3})([0-9]{1,15}(,[0-9]{0,10})?)?", re.IGNORECASE)
_EXPECTED = re.compile(r"[0-9]{6}(?:[0-9]{4}|\s{4})?E[CD]")

# How a `:86:` is subdivided: by numbered subfields, and within the purpose by words.
_SUBFIELDS = re.compile(r"\s*[0-9]{3}([?>~^<|@])(?=[0-9]{2})")
_PURPOSE = frozenset("20 21 22 23 24 25 26 27 28 29 60 61 62 63".split())
_GERMAN = re.compile(r"(EREF|KREF|MREF|CRED|DEBT|SVWZ|ABWA|ABWE|PURP|COAM|OAMT|IBAN|BIC|MDAT)\+")
_DUTCH = re.compile(r"/(TRTP|IBAN|BIC|NAME|REMI|EREF|MARF|CSID|CNTP|PREF|RTRN|ORDP|BENM|ISDT|ULTD|ULTC|PURP)/")
# A piece that is this long was cut in the middle of a word, and goes on in the next.
_FULL_LINE, _FULL_SUBFIELD = 65, 27


class _StatementLine(mt940.tags.Statement):
    """A `:61:` as the standard has it, the transaction type required and the references whole.

    With the library's own pattern “11 27421,94” would be read as 11, and a long reference cut.
    """

    pattern: ClassVar[str] = r"""^
    (?P<year>[0-9]{2})(?P<month>[0-9]{2})(?P<day>[0-9]{2})
    (?P<entry_month>[0-9]{2}|\s{2})?(?P<entry_day>[0-9]{2}|\s{2})?
    (?P<status>R?[DC])(?P<funds_code>[A-Z])?[ ]?
    (?P<amount>[0-9]{1,15}(?:,[0-9]{0,10})?)
    (?P<id>[A-Z][A-Z0-9 ]{3})
    (?P<customer_reference>(?:(?!//)[^\n])*)
    (?://(?P<bank_reference>[^\n]*))?
    (?:\n(?P<extra_details>.*))?$"""


_TAGS: dict[int | str, mt940.tags.Tag] = {61: _StatementLine()}


@dataclass(frozen=True, slots=True)
class _Field:
    """One field: its tag, the number of its first line in the file, and its lines."""

    tag: str
    line: int
    lines: list[str]

    @property
    def where(self) -> str:
        return f"line {self.line}, :{self.tag}:"


@dataclass(frozen=True, slots=True)
class _Page:
    """A statement, or a page of one that began or goes on elsewhere (intermediate balances)."""

    statement: Statement
    begins: bool
    ends: bool


class Mt940:
    """Reads MT940."""

    reads = "MT940 (SWIFT text)"

    def __init__(self, config: Config) -> None:
        self.name = config.name

    def recognises(self, data: bytes, name: str) -> bool:
        """Say whether a file has the fields with which an MT940 statement begins."""
        del name
        head = first_look(data)
        return all(re.search(rf"(?:^|[\r\n]):{tag}:", head) for tag in ("20", "25P?", "(?:28C?|60[FM]?)"))

    def read(self, data: bytes, name: str) -> StatementFile:
        """Read every statement of a file; pages of one statement that follow each other become one."""
        del name
        try:
            messages = list(_messages(decode(data)))
        except Unreadable as error:
            return refused_file("mt940", str(error))
        if not messages:
            return refused_file("mt940", "there is no statement in it (:20:); ask the bank for an MT940 file")
        refused: list[Refusal] = []
        pages = [_page(message, refused, last=message is messages[-1]) for message in messages]
        return StatementFile(
            format="mt940",
            method=Method.BANK_TRANSFER,
            statements=tuple(_joined(page for page in pages if page)),
            refused=tuple(refused),
        )


def _messages(text: str) -> Iterator[list[_Field]]:
    """Cut a file into statements, and these into fields; headers and trailers around them are left out."""
    fields: list[_Field] = []
    inside = False
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        match = _TAG.fullmatch(line)
        if match and match[1] == "20" and fields:
            yield fields
            fields = []
        if match:
            fields.append(_Field(match[1], number, [match[2]]))
            inside = True
        elif _END.fullmatch(line.rstrip()):
            inside = False
        elif inside:
            fields[-1].lines.append(line)
    if fields:
        yield fields


def _joined(pages: Iterable[_Page]) -> list[Statement]:
    """Put the pages of one statement together, so that equal entries on two pages are counted as two."""
    joined: list[list[_Page]] = []
    for page in pages:
        last = joined[-1][-1] if joined else None
        if last and not last.ends and not page.begins and _of(last) == _of(page):
            joined[-1].append(page)
        else:
            joined.append([page])
    return [
        replace(
            of_one[0].statement,
            entries=tuple(entry for page in of_one for entry in page.statement.entries),
            closing=of_one[-1].statement.closing,
            closed_on=of_one[-1].statement.closed_on,
        )
        for of_one in joined
    ]


def _of(page: _Page) -> tuple[str, str]:
    return page.statement.account, page.statement.currency


def _page(fields: list[_Field], refused: list[Refusal], *, last: bool) -> _Page | None:
    """Read one message; None if it names no account or no currency, so that nothing of it can be taken."""
    first = {field.tag: field for field in reversed(fields)}
    where = f"statement at line {fields[0].line}"
    unknown = [field for field in fields if field.tag not in _KNOWN]
    refused += [Refusal(field.where, "this is no field of MT940; it was passed over") for field in unknown]
    opening = next((first[tag] for tag in _OPENING if tag in first), None)
    closing = next((first[tag] for tag in _CLOSING if tag in first), None)
    dated = [match for field in (opening, closing) if field and (match := _BALANCE.match(field.lines[0].strip()))]
    currency = dated[0][1].upper() if dated else None
    account = _account(first.get("25") or first.get("25P"), currency)
    lines = _lines(fields)
    if account is None or currency is None:
        missing = "balance (:60F:), so its currency is not known" if account else "account (:25:)"
        refused.append(Refusal(where, f"it has no {missing}; none of its {len(lines)} entries can be taken"))
        return None
    before = len(refused)
    cut_off = lines.pop()[0] if last and closing is None and lines else None
    entries = _entries(lines, currency, refused)
    if cut_off:
        reason = "the file ends before the closing balance, so this entry may be cut off; ask the bank for it again"
        refused.append(Refusal(cut_off.where, reason))
    refusals = len(refused) - before
    start, opened_on = _balance(opening, f"{where}, :60F:", refused)
    end, closed_on = _balance(closing, f"{where}, :62F:", refused)
    amounts = [entry.amount for entry in entries]
    wrong = discrepancy(where, opening=start, closing=end, amounts=amounts, refusals=refusals)
    refused += [wrong] if wrong else []
    statement = Statement(
        account=account,
        currency=currency,
        entries=tuple(entries),
        opening=start,
        closing=end,
        opened_on=opened_on,
        closed_on=closed_on,
    )
    begins, ends = opening is None or opening.tag != "60M", closing is None or closing.tag != "62M"
    return _Page(statement, begins, ends)


def _account(field: _Field | None, currency: str | None) -> str | None:
    """Return the account without spaces, and without the currency that some banks write after an IBAN."""
    account = "".join(field.lines[0].split()) if field else ""
    if currency and account.endswith(currency) and passes_mod_97(account[:-3]):
        return account[:-3]
    return account or None


def _balance(field: _Field | None, where: str, refused: list[Refusal]) -> tuple[Money | None, date | None]:
    """Return a balance and the day that it is of."""
    try:
        return _read_balance(field)
    except (Unreadable, MoneyError) as error:
        refused.append(Refusal(field.where if field else where, f"{error}; the balances were not checked"))
        return None, None


def _read_balance(field: _Field | None) -> tuple[Money, date]:
    value = field.lines[0].strip() if field else ""
    match = _BALANCE.fullmatch(value)
    if field is None:
        raise Unreadable("the statement has no such balance")
    if not match or not match[2]:
        raise Unreadable("this is not a balance: C or D, a date YYMMDD, a currency and an amount with a comma")
    collection = mt940.models.Transactions(options=mt940.Options.all())
    try:
        collection.parse(f":{field.tag}:{value}")
    except ValueError as error:
        raise Unreadable(f"the date {value[1:7]} does not exist ({error})") from None
    (balance,) = collection.data.values()
    day = date(balance.date.year, balance.date.month, balance.date.day)  # the library's own date is no plain one
    return Money.from_decimal(balance.amount.amount, match[1].upper()), day


def _lines(fields: list[_Field]) -> list[tuple[_Field, list[str]]]:
    """Return each `:61:` with the lines of its `:86:`; a `:86:` after the closing balance is the statement's own."""
    lines: list[tuple[_Field, list[str]]] = []
    inside = False
    for field in fields:
        if field.tag == "61":
            lines.append((field, []))
            inside = True
        elif field.tag == "86" and inside:
            lines[-1][1].extend(field.lines)
        elif field.tag in (*_OPENING, *_CLOSING):
            inside = False
    return lines


def _entries(lines: list[tuple[_Field, list[str]]], currency: str, refused: list[Refusal]) -> list[StatementEntry]:
    entries: list[StatementEntry] = []
    for line, details in lines:
        try:
            entries.append(_entry(line, details, currency))
        except (Unreadable, MoneyError) as error:
            refused.append(Refusal(line.where, str(error)))
    return entries


def _entry(line: _Field, details: list[str], currency: str) -> StatementEntry:
    """Read one `:61:` with its details; raises Unreadable or MoneyError."""
    read = _read_line(line)
    said = _details(details)
    own = reference(re.split(r"\s{2,}", read["customer_reference"].strip())[0])
    more = (read["extra_details"] or "").strip()
    end_to_end_id = reference(said.get("EREF")) or own
    text = said.get("text") or more or None
    return StatementEntry(
        amount=not_zero(Money.from_decimal(read["amount"].amount, currency)),
        booked_on=read.get("entry_date") or read["date"],
        value_date=read["date"],
        where=line.where,
        bank_reference=reference(read["bank_reference"]),
        end_to_end_id=end_to_end_id,
        variable_symbol=variable_symbol(text, own, more, end_to_end_id),
        rf=creditor_reference(text, end_to_end_id),
        payer_name=said.get("name"),
        payer_account=said.get("account"),
        remittance=text,
        # SWIFT's code of a returned item, in the field that says what kind of movement it is.
        returned=read["id"][1:].upper() == "RTI",
    )


def _read_line(line: _Field) -> dict[str, Any]:
    first, *more = line.lines
    value = f"{first.strip()}\n{' '.join(text.rstrip() for text in more)}".strip()
    if _EXPECTED.match(value):
        raise Unreadable("the entry is only expected (mark EC or ED), not booked; it comes again once it is")
    collection = mt940.models.Transactions(tags=_TAGS, options=mt940.Options.all())
    try:
        read = collection.parse(f":61:{value}")
    except RuntimeError:
        raise Unreadable(
            "this is not a statement line: dates as YYMMDD and MMDD, C, D, RC or RD, an amount with a comma, and a "
            "type of four characters such as NTRF are expected"
        ) from None
    except ValueError as error:
        raise Unreadable(f"“{value[:10]}” holds a date that does not exist ({error})") from None
    return read[0].data


def _details(lines: list[str]) -> dict[str, str]:
    """Return what a `:86:` says: text, name and account, and what its code words introduce."""
    whole = "".join(lines)
    match = _SUBFIELDS.match(whole)
    if not match:
        return _coded(_unwrapped(lines, _FULL_LINE))
    parts = re.split(re.escape(match[1]) + "([0-9]{2})", whole)
    subfields = list(zip(parts[1::2], parts[2::2], strict=True))
    said = _coded(_unwrapped([text for code, text in subfields if code in _PURPOSE], _FULL_SUBFIELD))
    single = {code: text.strip() for code, text in reversed(subfields)}
    name = _unwrapped([text for code, text in subfields if code in ("32", "33")], _FULL_SUBFIELD).replace("\n", " ")
    account, bank = single.get("38") or single.get("31") or "", single.get("30") or ""
    # Without its bank code a domestic account number is not unique.
    account = f"{account}/{bank}" if account.isdecimal() and bank.isdecimal() else account
    return {**said, **{key: text for key, text in (("name", name), ("account", account)) if text}}


def _unwrapped(pieces: list[str], width: int) -> str:
    """Join pieces of text: without a gap where one was full, else as lines of their own."""
    joined = "".join(piece if len(piece) >= width else f"{piece}\n" for piece in pieces)
    return "\n".join(line.strip() for line in joined.split("\n") if line.strip())


def _coded(text: str) -> dict[str, str]:
    """Take apart a purpose with code words, German (SVWZ+) or Dutch (/REMI/); without them it is all text."""
    dutch = text.startswith("/")
    lead, *coded = (_DUTCH if dutch else _GERMAN).split(text.replace("\n", "") if dutch else text)
    said: dict[str, str] = {}
    for code, value in zip(coded[::2], coded[1::2], strict=True):
        said.setdefault(code, value.strip().strip("/") if dutch else value.strip())
    party = said.get("CNTP", "").split("/")  # account, bank, name, city
    found = {
        "EREF": said.get("EREF", "").replace("\n", ""),
        "text": "\n".join(filter(None, (lead.strip(), said.get("SVWZ"), _without_kind(said.get("REMI", ""))))),
        "name": said.get("NAME") or (party[2] if len(party) > 2 else ""),
        "account": said.get("IBAN") or party[0],
    }
    return {key: value for key, value in found.items() if value}


def _without_kind(text: str) -> str:
    return re.sub(r"^(USTD|STRD(/CUR)?)/+", "", text)


CONFIG = Config
CONNECTOR = Mt940
