"""References: how orders, invoices and accounts are named in payments, brought to one writing.

Two writings are equal when their normal forms are. Nothing here guesses: a reference in free text counts only as
a whole token that the channel's own pattern describes, never as a part of a longer one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Cyrillic and Greek capitals that look like Latin ones, as people and banks mix them.
_LOOK_ALIKES = str.maketrans("АВЕЅІЈКМНОРСТУХЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABESIJKMHOPCTYXSABEZHIKMNOPTYX")
_NOT_TOKEN = re.compile(r"[^0-9A-Z]+")
_DIGITS = re.compile(r"[0-9]+")
_SYMBOL_LABEL = re.compile(
    r"(?<![0-9A-Z])/?V(?:AR(?:IABILN[IY])?)?[ .]*S(?:YMB(?:OL)?)?[ ./:#-]*([0-9][0-9 -]{0,18})(?![0-9A-Z])"
)
_RF = re.compile(r"(?<![0-9A-Z])RF[0-9]{2}(?:[ -]?[0-9A-Z]){1,21}(?![0-9A-Z])")
_MAX_TEXT = 4_000
_MAX_JOINED = 5


def fold(text: str) -> str:
    """Bring text to capitals without diacritics, look-alike Cyrillic and Greek letters made Latin."""
    plain = unicodedata.normalize("NFKD", text[:_MAX_TEXT].upper())
    return "".join(ch for ch in plain if not unicodedata.combining(ch)).translate(_LOOK_ALIKES)


def compact(text: str) -> str:
    """Return the letters and digits of a reference, folded; separators mean nothing in a reference."""
    return _NOT_TOKEN.sub("", fold(text))


def normal_number(text: str) -> str:
    """Return the normal form of an order or invoice number: compact, leading zeros of each digit group dropped."""
    return _without_padding(compact(text))


def _without_padding(token: str) -> str:
    return _DIGITS.sub(lambda group: group[0].lstrip("0") or "0", token)


def normal_variable_symbol(text: str) -> str | None:
    """Return a variable symbol without leading zeros, or None when it is none (at most 10 digits, not all zeros)."""
    digits = re.sub(r"[ -]", "", text.strip())
    if not digits.isascii() or not digits.isdigit():
        return None
    digits = digits.lstrip("0")
    return digits if 0 < len(digits) <= 10 else None


def normal_account(text: str) -> str:
    """Return an IBAN or a domestic account number without spaces, in capitals."""
    return re.sub(r"\s", "", text).upper()


def normal_rf(text: str) -> str | None:
    """Return an ISO 11649 creditor reference in its electronic form, or None when its check digits are wrong."""
    plain = re.sub(r"[ -]", "", text.strip().upper())
    if not re.fullmatch(r"RF[0-9]{2}[0-9A-Z]{1,21}", plain, re.ASCII):
        return None
    rearranged = plain[4:] + plain[:4]
    number = int("".join(str(int(ch, 36)) for ch in rearranged))
    # Zeros may pad the reference on the left; the check digits don't change with them.
    return f"RF{plain[2:4]}{plain[4:].lstrip('0')}" if number % 97 == 1 else None


def variable_symbols_in(text: str) -> Iterator[str]:
    """Yield the variable symbols that a text labels as such: VS123, VS: 00123, /VS/123, VS 12-34, var. symbol 123.

    Where other digits follow, every reading is yielded: “VS 1017 26” may mean 1017 or 101726.
    """
    for match in _SYMBOL_LABEL.finditer(fold(text)):
        words = re.findall("[0-9]+", match[1])
        for end in range(1, len(words) + 1):
            if symbol := normal_variable_symbol("".join(words[:end])):
                yield symbol


def rf_references_in(text: str) -> Iterator[str]:
    """Yield the ISO 11649 references in a text whose check digits are right."""
    for match in _RF.finditer(fold(text)):
        # What follows an RF reference may look like more of it, so shorter readings are tried too.
        words = re.split(r"[ -]", match[0])
        for end in range(len(words), 0, -1):
            if reference := normal_rf("".join(words[:end])):
                yield reference
                break


def tokens_in(text: str, pattern: str) -> Iterator[str]:
    """Yield the normal forms of the whole tokens in a text that a channel's pattern describes.

    The pattern is for a number without separators; in the text, dashes, slashes, dots and spaces may stand inside it,
    and zeros may pad its digits. A token never begins or ends inside a word: 12 is not found in 2012. A number of
    digits alone must stand in one piece, or every date would be one. Where a text can be read in two ways, both are
    yielded.
    """
    wanted = re.compile(pattern, re.IGNORECASE)
    words = [word for word in _NOT_TOKEN.split(fold(text)) if word]
    for start in range(len(words)):
        for end in range(start + 1, min(start + _MAX_JOINED, len(words)) + 1):
            joined = "".join(words[start:end])
            if end > start + 1 and joined.isdigit():
                continue
            if wanted.fullmatch(joined) or wanted.fullmatch(_without_padding(joined)):
                yield normal_number(joined)
