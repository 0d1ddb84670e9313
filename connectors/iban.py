"""IBANs: checked where an installation is told of an account, so that customers are never sent a mistyped one."""

from __future__ import annotations

import re

from schwifty import IBAN
from schwifty.exceptions import SchwiftyException

from domain.rules import ChannelRules

_LOOKS_LIKE_ONE = re.compile(r"[A-Z]{2}[0-9]{2}[0-9A-Z]{8,}")


def _wrong(field: str, account: str) -> str | None:
    plain = re.sub(r"\s", "", account).upper()
    if not _LOOKS_LIKE_ONE.fullmatch(plain):
        return None  # a domestic number, which has no check digits that hold everywhere
    try:
        IBAN(plain)
    except SchwiftyException as error:
        return f"{field}: {plain} is not an IBAN: {error}"
    return None


def wrong_ibans(rules: ChannelRules) -> list[str]:
    """Return a sentence for each IBAN in a channel's document whose length or check digits can't be right."""
    accounts = [(f"accounts.{place}", account) for place, account in enumerate(rules.accounts)]
    if rules.seller.iban:
        accounts.append(("seller.iban", rules.seller.iban))
    return [said for field, account in accounts if (said := _wrong(field, account))]
