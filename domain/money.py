"""Money: an integer count of a currency's minor units. Floats never enter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

# Number of decimals of each currency that has not two, from ISO 4217's list one.
_EXPONENTS = {
    **dict.fromkeys("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split(), 0),
    **dict.fromkeys("BHD IQD JOD KWD LYD OMR TND".split(), 3),
    **dict.fromkeys("CLF UYW".split(), 4),
}

# Currencies in use (ISO 4217 list one, funds codes left out), then withdrawn ones that old statements still carry.
_CURRENCIES = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLF CLP
    CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF
    IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD
    MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB
    RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD
    UYI UYU UYW UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
    ANG ATS BEF BGN BYR CYP DEM EEK ESP FIM FRF GRD HRK IEP ITL LTL LUF LVL MTL NLG PTE ROL SIT SKK SLL ZWL
    """.split()
)

# Decimal() alone would also take 1e3, 1_000, NaN and digits of other scripts.
_PLAIN = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_MAX_TEXT = 60

_LIMIT = 10**18
"""Amounts stay below this many minor units, so that they fit 64-bit columns and Decimal's 28 digits."""


class MoneyError(ValueError):
    """An amount or a currency that can't be money; its text says why, in a sentence for the user."""


def exponent(currency: str) -> int:
    """Return how many decimals a currency's minor unit has.

    Raises MoneyError for a code that ISO 4217 doesn't know.
    """
    if currency not in _CURRENCIES:
        raise MoneyError(f"“{currency}” is not an ISO 4217 currency code; write three capital letters, such as EUR")
    return _EXPONENTS.get(currency, 2)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of one currency, in its minor units (cents, haléře); negative when money leaves."""

    minor: int
    currency: str

    def __post_init__(self) -> None:
        """Refuse what is no integer, what is too large to keep, and currencies that don't exist: at the only door."""
        if type(self.minor) is not int:
            raise MoneyError(f"“{self.minor!s:.40}” is not a whole number of minor units")
        exponent(self.currency)
        if abs(self.minor) >= _LIMIT:
            raise MoneyError(f"{_LIMIT:.0e} minor units of {self.currency} or more is not an amount of money")

    @classmethod
    def parse(cls, text: str, currency: str) -> Money:
        """Read a decimal amount in major units, such as “1042.50”, with a dot.

        Raises MoneyError for anything that is no plain decimal number, or is finer than the minor unit.
        """
        plain = text.strip()
        if len(plain) > _MAX_TEXT or not _PLAIN.fullmatch(plain):
            raise MoneyError(f"“{plain:.40}” is not an amount; write digits with a dot, such as 450.00")
        return cls.from_decimal(Decimal(plain), currency)

    @classmethod
    def from_decimal(cls, amount: Decimal, currency: str) -> Money:
        """Turn a decimal number of major units into money; raises MoneyError as parse does."""
        if type(amount) is not Decimal:
            raise MoneyError(f"“{amount!s:.40}” is not a decimal number of major units")
        if not amount.is_finite() or amount.adjusted() > 18:
            raise MoneyError(f"{amount!s:.40} is not an amount of money")
        places = exponent(currency)
        # Comparing is exact at any length, where scaling first would round what is beyond 28 digits.
        rounded = amount.quantize(Decimal(1).scaleb(-places))
        if rounded != amount:
            raise MoneyError(f"{amount!s:.40} {currency} is finer than the smallest unit of {currency}")
        return cls(int(rounded.scaleb(places)), currency)

    @classmethod
    def zero(cls, currency: str) -> Money:
        """Return nothing, in a currency."""
        return cls(0, currency)

    @property
    def decimal(self) -> Decimal:
        """The amount in major units."""
        return Decimal(self.minor).scaleb(-exponent(self.currency))

    @property
    def amount(self) -> str:
        """The amount in major units as a plain decimal string, such as “-450.00”."""
        return f"{self.decimal:.{exponent(self.currency)}f}"

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"

    def _same(self, other: Money) -> None:
        if self.currency != other.currency:
            raise MoneyError(f"{self} and {other} are of different currencies and can't be added or compared")

    def __add__(self, other: Money) -> Money:
        self._same(other)
        return Money(self.minor + other.minor, self.currency)

    def __sub__(self, other: Money) -> Money:
        self._same(other)
        return Money(self.minor - other.minor, self.currency)

    def __neg__(self) -> Money:
        return Money(-self.minor, self.currency)

    def __abs__(self) -> Money:
        return Money(abs(self.minor), self.currency)

    def __lt__(self, other: Money) -> bool:
        self._same(other)
        return self.minor < other.minor

    def __le__(self, other: Money) -> bool:
        self._same(other)
        return self.minor <= other.minor

    def __bool__(self) -> bool:
        return self.minor != 0


def said_of(minor: int, currency: str) -> str:
    """Return a sum for people; amounts that were each money can come to more than money can be."""
    try:
        return str(Money(minor, currency))
    except MoneyError:
        return "more than an amount of money can be"
