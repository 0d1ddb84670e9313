"""Reading a statement or remittance file of any format, and what the readers of the formats share."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence

from connectors.roles import StatementReader
from domain.money import Money, MoneyError
from domain.payments import Method, Refusal, StatementFile

MAX_BYTES = 64 * 1024 * 1024
# A file of 64 MiB can have so many lines, or such a long one, that reading it would take gigabytes.
MAX_LINES = 2_000_000
MAX_LINE = 1_000_000
WHOLE_FILE = "whole file"
_FIRST_LOOK = 65_536
_LINE_END = re.compile(r"\r\n|\r|\n")

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Single-byte encodings in which banks write, likeliest first; Latin-1 reads every byte, so one always fits.
_GUESSES = ("cp1250", "cp852", "iso-8859-1")
_BINARY = {b"%PDF": "a PDF", b"PK\x03\x04": "a ZIP archive or an Excel workbook", b"\xd0\xcf\x11\xe0": "an Excel file"}

# Whole tokens only: the symbol has at most ten digits, and “VS2024-17” or “VS12a” is something else.
_VARIABLE_SYMBOL = re.compile(r"(?<![A-Za-z0-9])VS(?::\s?|/)?([0-9]{1,10})(?![0-9A-Za-z-])")
_CREDITOR_REFERENCE = re.compile(r"RF[0-9]{2}[A-Z0-9]{1,21}")
_NO_REFERENCE = re.compile(r"NOT ?PROVIDED.*|NONREF|N|KREF\+?", re.IGNORECASE | re.DOTALL)


class Unreadable(ValueError):
    """A file, or a part of one, that can't be taken; its text says why and what to do, in a sentence."""


def read_statement(data: bytes, name: str, readers: Sequence[StatementReader]) -> StatementFile:
    """Read a file with the first reader that recognises it. Never raises: what can't be taken is listed as refused."""
    if not data.strip():
        return refused_file("unknown", "the file is empty; ask the sender for it again")
    if len(data) > MAX_BYTES:
        return refused_file("unknown", f"the file is over {MAX_BYTES >> 20} MiB; ask for a shorter period per file")
    for reader in readers:
        if reader.recognises(data, name):
            return reader.read(data, name)
    known = sorted({str(getattr(reader, "reads", type(reader).__name__)) for reader in readers})
    looks = next((what for magic, what in _BINARY.items() if data.startswith(magic)), None)
    if looks is None and b"\0" in data:
        looks = "binary data"
    found = f"the file is {looks}, not a statement" if looks else "the file is of no format that is set up here"
    return refused_file("unknown", f"{found}; the formats are: {'; '.join(known) or 'none yet, add a reader'}")


def refused_file(form: str, reason: str, method: Method = Method.BANK_TRANSFER) -> StatementFile:
    """Say of a whole file that nothing of it can be taken."""
    return StatementFile(format=form, method=method, refused=(Refusal(WHOLE_FILE, reason),))


def decode(data: bytes, declared: str | None = None) -> str:
    """Turn a file's bytes into text: by its byte-order mark, else as declared, else UTF-8, else the likeliest.

    Raises Unreadable if the bytes are no text, are not in the encoding that was declared, or have more or longer lines
    than a statement has.
    """
    encoding = _marked(data) or declared
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding:
            raise Unreadable(
                f"the file is not written in {encoding} (byte {error.start + 1}); save it so, or set its real encoding"
            ) from None
        cut_off = error.reason == "unexpected end of data" and error.start > 0
        text = data[: error.start].decode() if cut_off else data.decode(_likeliest(data), errors="replace")
    if "\0" in text:
        raise Unreadable("the file is not text; ask the sender for it again")
    _bounded(text)
    return text


def _bounded(text: str) -> None:
    """Raise Unreadable for more lines, or a longer one, than can be read within bounds; CR, LF and CRLF end a line."""
    if max(text.count("\n"), text.count("\r")) >= MAX_LINES:
        raise Unreadable(f"the file has more than {MAX_LINES} lines; ask for a shorter period per file")
    number, start = 1, 0
    while len(text) - start > MAX_LINE:
        # Looked for in as much as a line may have, so that neither line end is sought through the whole file.
        window = text[start : start + MAX_LINE + 1]
        end = max(window.rfind("\n"), window.rfind("\r"))
        if end < 0:
            raise Unreadable(
                f"line {number} is longer than {MAX_LINE} characters, which no statement's is; is the file whole?"
            )
        number += len(_LINE_END.findall(window, 0, end + 1))
        start += end + 1


def first_look(data: bytes, declared: str = "utf-8") -> str:
    """Return the beginning of a file as text, without a byte-order mark, for recognising it; never raises."""
    return data[:_FIRST_LOOK].decode(_marked(data) or declared, errors="ignore").removeprefix("\ufeff")


def _marked(data: bytes) -> str | None:
    return next((name for bom, name in _BOMS if data.startswith(bom)), None)


def _likeliest(data: bytes) -> str:
    """Choose the encoding in which the fewest bytes above ASCII come out as something else than letters."""
    high = data.translate(None, bytes(range(128)))[:10_000]

    def strange(encoding: str) -> int:
        text = high.decode(encoding, errors="replace")
        return sum(unicodedata.category(letter) not in ("Lu", "Ll") for letter in text)

    return min(_GUESSES, key=strange)


def variable_symbol(*texts: str | None) -> str | None:
    """Return the variable symbol written as VS:123, VS123, /VS/123 or /VS123, without leading zeros.

    None if there is none, or if the texts name more than one.
    """
    found = {hit.lstrip("0") for text in texts if text for hit in _VARIABLE_SYMBOL.findall(text)} - {""}
    return found.pop() if len(found) == 1 else None


def creditor_reference(*texts: str | None) -> str | None:
    """Return the ISO 11649 creditor reference (RF…) that a text is, or has as a whole word; spaces in it don't count.

    None if there is none with the right check digits, or if the texts name more than one.
    """
    words = {word.upper() for text in texts if text for word in ("".join(text.split()), *text.split())}
    found = {word for word in words if _CREDITOR_REFERENCE.fullmatch(word) and passes_mod_97(word)}
    return found.pop() if len(found) == 1 else None


def passes_mod_97(text: str) -> bool:
    """Say whether the check digits of an IBAN or an RF reference (ISO 7064 mod 97-10) are right."""
    if not (text.isascii() and text.isalnum() and 5 <= len(text) <= 34):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def reference(text: str | None) -> str | None:
    """Return a reference as written, or None for the words by which banks say that there is none."""
    text = (text or "").strip()
    return None if not text or _NO_REFERENCE.fullmatch(text) else text


def not_zero(amount: Money) -> Money:
    """Return an amount that can settle something; raises MoneyError for zero."""
    if not amount:
        raise MoneyError("amount is zero: nothing to settle")
    return amount


def discrepancy(
    where: str, *, opening: Money | None, closing: Money | None, amounts: Sequence[Money], refusals: int
) -> Refusal | None:
    """Check that opening plus entries is closing, and tell the figures if it is not.

    Entries of other currencies than the balances' don't count; without both balances there is nothing to check.
    refusals is how many of the statement's entries were refused, since those may be the difference.
    """
    if opening is None or closing is None:
        return None
    if opening.currency != closing.currency:
        return Refusal(where, f"opening {opening} and closing {closing} are of different currencies; ask the bank")
    sum_of_entries = sum(amount.minor for amount in amounts if amount.currency == opening.currency)
    if opening.minor + sum_of_entries == closing.minor:
        return None
    try:
        moved = Money(sum_of_entries, opening.currency)
        reached = opening + moved
    except MoneyError:
        return Refusal(where, "the entries come to more than an amount of money can be; ask the bank for it again")
    advice = f"see also the {refusals} refused of its entries" if refusals else "ask the bank for the file again"
    return Refusal(
        where,
        f"opening {opening} and entries of {moved} come to {reached}, but closing says {closing}; {advice}",
    )
