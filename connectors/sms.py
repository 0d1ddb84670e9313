"""Messages by SMS: how numbers are written and what a text takes, the same for every way of sending one."""

from __future__ import annotations

import re
import unicodedata

from connectors.errors import Rejected

MAX_CHARACTERS = 1_600
"""What Twilio takes at most, and more than anybody reads on a phone."""

# GSM 03.38 (3GPP TS 23.038, 6.2.1): the letters of a short text, and those that take the room of two.
_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED = frozenset("^{}\\[~]|€\f")
_LOOKS = str.maketrans(
    {"„": '"', "“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "...", "·": "-", "№": "No"}
    | {"ł": "l", "Ł": "L", "đ": "d", "Đ": "D"}
)
_BETWEEN = re.compile("[\\s./()\u2010-\u2015\u2212-]+")
# ITU-T E.164 allows 15 digits; no mobile number has fewer than 8 with its country's code.
_E164 = re.compile(r"\+[1-9][0-9]{7,14}")
_NATIONAL_MAX = 10
"""Digits of a mobile number without its country's code, in every country whose numbers could be taken for longer."""


def number_of(value: str, *, country: str | None = None, trunk: str = "0") -> str:
    """Return a phone number in E.164, such as +420601234567.

    country is the calling code of numbers that are written without one, trunk what is dropped from their front. Raises
    Rejected, without repeating the number, for what isn't exactly one.
    """
    written = _BETWEEN.sub("", value.replace("(0)", "")) if len(value) <= 40 else ""
    if written.startswith("00"):
        written = f"+{written[2:]}"
    elif re.fullmatch("[0-9]+", written) and country:
        written = f"+{_with_country(written, country, trunk)}"
    if not _E164.fullmatch(written):
        raise Rejected(
            "message: the customer's phone number is not one that an SMS can be sent to"
            + ("" if country else "; one without its country's code needs the connector's setting country")
        )
    return written


def _with_country(written: str, country: str, trunk: str) -> str:
    """Put the country's code before a number, unless it is there and only the plus was left out."""
    if len(written) > _NATIONAL_MAX and written.startswith(country):
        return written
    return country + (written.removeprefix(trunk) if trunk else written)


def in_gsm(text: str) -> bool:
    """Say whether a text needs no letters but those of GSM 03.38; otherwise a part of it holds less than half."""
    return all(letter in _BASIC or letter in _EXTENDED for letter in text)


def plain(text: str) -> str:
    """Return a text without the marks on its letters, if it then fits into GSM 03.38 and is no dearer; else as it was.

    A single "č" makes a text cost more than twice, so marks are left out of short messages in Latin letters.
    """
    if in_gsm(text):
        return text
    folded = "".join(map(_folded, text.translate(_LOOKS)))
    return folded if in_gsm(folded) and parts_of(folded) <= parts_of(text) else text


def _folded(letter: str) -> str:
    if letter in _BASIC:
        return letter
    return "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))


def parts_of(text: str) -> int:
    """Return in how many parts a text is sent, each of which is paid for."""
    if in_gsm(text):
        length, alone, chained = sum(1 + (letter in _EXTENDED) for letter in text), 160, 153
    else:
        length, alone, chained = len(text.encode("utf-16-be")) // 2, 70, 67
    return 1 if length <= alone else -(-length // chained)


def body_of(text: str) -> str:
    """Return a text as it is sent; raises Rejected for one that is empty, too long, or has control characters in it."""
    body = text.strip()
    if not body or len(body) > MAX_CHARACTERS:
        raise Rejected(f"message: its text is empty, or longer than {MAX_CHARACTERS} characters")
    if any(unicodedata.category(letter) in ("Cc", "Cs") and letter != "\n" for letter in body):
        raise Rejected("message: its text has a control character in it")
    return body
