"""IBANs in a channel's document: mistyped ones are found before a customer is sent one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from connectors.iban import wrong_ibans
from domain.rules import ChannelRules, parse_rules

RULES = Path(__file__).parents[2] / "deployments" / "rules"


def cz(*, iban: str | None = None, accounts: list[str] | None = None) -> ChannelRules:
    document = yaml.safe_load((RULES / "cz.yaml").read_text(encoding="utf-8"))
    if iban is not None:
        document["seller"]["iban"] = iban
    if accounts is not None:
        document["accounts"] = accounts
    return parse_rules(document)


@pytest.mark.parametrize("file", sorted(RULES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_sample_channels_have_right_ibans(file: Path) -> None:
    assert wrong_ibans(parse_rules(yaml.safe_load(file.read_text(encoding="utf-8")))) == []


def test_two_digits_exchanged_are_found_and_the_field_is_named() -> None:
    (said,) = wrong_ibans(cz(iban="CZ05 9910 0000 1900 0026 0111"))
    assert said.startswith("seller.iban: CZ0599100000190000260111 is not an IBAN: ")


def test_a_missing_digit_is_found_in_the_list_of_accounts() -> None:
    (said,) = wrong_ibans(cz(accounts=["CZ5099100000190000260111", "CZ509910000019000026011"]))
    assert said.startswith("accounts.1: CZ509910000019000026011 is not an IBAN: ")


def test_a_domestic_number_is_left_alone() -> None:
    assert wrong_ibans(cz(iban="", accounts=["19-2600111/9910", "cod:courier"])) == []
