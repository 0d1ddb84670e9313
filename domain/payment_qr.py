"""Payment QR codes: what a bank's app reads off a proforma or an unpaid invoice."""

from __future__ import annotations

import re
import unicodedata
from datetime import date
from urllib.parse import quote

from domain.documents import Document
from domain.money import Money, exponent
from domain.references import normal_account, normal_rf, normal_variable_symbol
from domain.rules import DocumentKind

# What a QR code stores in its compact alphanumeric mode, less “*” and “%”, which mean something in a SPAYD.
_SPAYD_PLAIN = " $+-./:"
_SPAYD_MESSAGE_MAX = 60
_SPAYD_AMOUNT_MAX = 10
_EPC_NAME_MAX = 70
_EPC_TEXT_MAX = 140
_EPC_BYTES_MAX = 331
_EPC_MINOR_MAX = 99_999_999_999


class PaymentQrError(ValueError):
    """A payment that a QR code can't carry; its text says why, in a sentence for the user."""


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _iban(text: str) -> str:
    """Return an IBAN in its electronic form, its check digits verified (ISO 13616: mod 97 of it rearranged is 1)."""
    iban = normal_account(text)
    if re.fullmatch(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", iban):
        rearranged = iban[4:] + iban[:4]
        if int("".join(str(int(char, 36)) for char in rearranged)) % 97 == 1:
            return iban
    raise PaymentQrError(f"“{text[:40]}” is not an IBAN; check it for a mistyped character")


def _bic(text: str) -> str:
    bic = normal_account(text)
    if bic and not re.fullmatch(r"[A-Z]{6}[A-Z0-9]{2}([A-Z0-9]{3})?", bic):
        raise PaymentQrError(f"“{text[:40]}” is not a BIC; it has 8 or 11 letters and digits")
    return bic


def _rf(text: str) -> str:
    rf = normal_rf(text)
    if rf is None:
        raise PaymentQrError(f"“{text[:40]}” is not an ISO 11649 reference; it begins with RF and two check digits")
    return rf


def _symbol(text: str) -> str:
    symbol = normal_variable_symbol(text)
    if symbol is None:
        raise PaymentQrError(f"“{text[:40]}” is not a variable symbol; it has at most 10 digits")
    return symbol


def _spayd_text(text: str) -> str:
    """Return text as a SPAYD value: accents off, capitals, all else percent-encoded, cut between two characters."""
    bare = "".join(char for char in unicodedata.normalize("NFKD", _one_line(text)) if not unicodedata.combining(char))
    value = ""
    for char in bare.upper():
        encoded = quote(char, safe=_SPAYD_PLAIN)
        if len(value) + len(encoded) > _SPAYD_MESSAGE_MAX:
            break
        value += encoded
    return value.rstrip()


def spayd(
    *,
    iban: str,
    amount: Money,
    bic: str = "",
    variable_symbol: str | None = None,
    message: str = "",
    due_on: date | None = None,
) -> str:
    """Return the text of a Czech payment QR code (SPAYD 1.0, the Czech Banking Association's “QR Platba”).

    The message is cut to the format's 60 characters, counted as encoded.
    Raises PaymentQrError for an account, amount or variable symbol that the format can't carry.
    """
    if amount.minor <= 0 or exponent(amount.currency) > 2 or len(amount.amount) > _SPAYD_AMOUNT_MAX:
        raise PaymentQrError(f"{amount} doesn't fit a QR payment, which takes 0.01 to 9999999.99")
    account = _iban(iban) + (f"+{_bic(bic)}" if bic else "")
    parts = ["SPD", "1.0", f"ACC:{account}", f"AM:{amount.amount}", f"CC:{amount.currency}"]
    if variable_symbol:
        parts.append(f"X-VS:{_symbol(variable_symbol)}")
    if text := _spayd_text(message):
        parts.append(f"MSG:{text}")
    if due_on:
        parts.append(f"DT:{due_on:%Y%m%d}")
    return "*".join(parts)


def epc(*, name: str, iban: str, amount: Money, bic: str = "", rf: str | None = None, text: str = "") -> str:
    """Return the text of a SEPA credit transfer QR code (EPC069-12 version 002, UTF-8).

    It carries an RF reference or a text, not both. Raises PaymentQrError for what the guideline doesn't allow.
    """
    name, text = _one_line(name), _one_line(text)
    if amount.currency != "EUR" or not 0 < amount.minor <= _EPC_MINOR_MAX:
        raise PaymentQrError(f"{amount} doesn't fit a SEPA QR payment, which takes 0.01 to 999999999.99 EUR")
    if not 0 < len(name) <= _EPC_NAME_MAX:
        raise PaymentQrError(f"the payee's name must have 1 to {_EPC_NAME_MAX} characters, not {len(name)}")
    if rf and text:
        raise PaymentQrError("a SEPA QR payment carries an RF reference or a text, not both")
    if len(text) > _EPC_TEXT_MAX:
        raise PaymentQrError(f"the text must have at most {_EPC_TEXT_MAX} characters, not {len(text)}")
    purpose = ""
    reference = _rf(rf) if rf else ""
    lines = ("BCD", "002", "1", "SCT", _bic(bic), name, _iban(iban), f"EUR{amount.amount}", purpose, reference, text)
    content = "\n".join(lines).rstrip("\n")
    if len(content.encode()) > _EPC_BYTES_MAX:
        raise PaymentQrError(f"the payment takes more than the {_EPC_BYTES_MAX} bytes of a SEPA QR code")
    return content


def payment_qr(document: Document) -> str | None:
    """Return the text of the QR code that pays what is left of a document: SPAYD in CZK, EPC in EUR.

    None where there is nothing to pay, no account to pay to, or no QR standard for the currency.
    Raises PaymentQrError as spayd and epc do.
    """
    seller, amount = document.seller, document.to_pay
    if document.kind is DocumentKind.CREDIT_NOTE or not amount or not seller.iban:
        return None
    numbers = list(dict.fromkeys((document.number, document.order_number)))
    if amount.currency == "CZK":
        return spayd(
            iban=seller.iban,
            bic=seller.bic,
            amount=amount,
            variable_symbol=document.variable_symbol,
            message=" ".join(numbers),
            due_on=document.due_on,
        )
    if amount.currency == "EUR":
        # SEPA has no field for a variable symbol; the comma keeps the number after it from being read as more of it.
        symbol = [f"/VS{_symbol(document.variable_symbol)}"] if document.variable_symbol else []
        return epc(
            name=_one_line(seller.name)[:_EPC_NAME_MAX],
            iban=seller.iban,
            bic=seller.bic,
            amount=amount,
            rf=document.rf,
            text="" if document.rf else ", ".join(symbol + numbers)[:_EPC_TEXT_MAX],
        )
    return None
