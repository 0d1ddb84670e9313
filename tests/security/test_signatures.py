"""Signatures: compared in constant time, and one that another secret made is worth nothing."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors import signatures
from connectors.roles import BadSignature
from connectors.stripe import Stripe, StripeConfig
from deployments.sandbox.stripe import StripeStandIn
from web import signature

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
BODY = b'{"number": "CZ1042"}'


def verify(value: str, *secrets: str) -> None:
    signatures.verify(value, BODY, header="Signature", secrets=secrets, now=NOW, tolerance=300)


@pytest.mark.parametrize("same", [True, False])
def test_the_comparison_in_constant_time_decides_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch, *, same: bool
) -> None:
    compared: list[tuple[str, str]] = []

    def compare(ours: str, theirs: str) -> bool:
        compared.append((ours, theirs))
        return same

    right, wrong = signatures.sign("secret", BODY, NOW), f"t={int(NOW.timestamp())},v1={'0' * 64}"
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for value in (right, wrong):
        if same:
            verify(value, "secret")
        else:
            with pytest.raises(BadSignature, match="doesn't match"):
                verify(value, "secret")
    expected = right.rpartition("=")[2]
    assert compared == [(expected, expected), (expected, "0" * 64)]


@pytest.mark.parametrize("place", [0, 31, 63])
def test_a_signature_that_differs_in_one_digit_is_refused(place: int) -> None:
    right = signatures.sign("secret", BODY, NOW)
    at = len(right) - 64 + place
    verify(right, "secret")
    with pytest.raises(BadSignature):
        verify(right[:at] + ("0" if right[at] != "0" else "1") + right[at + 1 :], "secret")


def test_a_webhook_of_another_account_is_refused_even_with_the_same_content(tmp_path: Path) -> None:
    ours, theirs = StripeStandIn(webhook_secret="whsec_ours"), StripeStandIn(webhook_secret="whsec_theirs")
    reader = Stripe(
        StripeConfig.model_validate(
            {"name": "stripe", "home": tmp_path, "api_key": "sk", "webhook_secret": ours.webhook_secret}
        )
    )
    event = theirs.pay("CZ1042", 104250, "czk", now=NOW)
    for account, taken in ((ours, True), (theirs, False)):
        headers, body = account.signed(event, NOW)
        lower = {name.lower(): value for name, value in headers.items()}
        if taken:
            assert reader.verify(lower, body, now=NOW).external_id == event["id"]
        else:
            with pytest.raises(BadSignature):
                reader.verify(lower, body, now=NOW)


def test_what_is_signed_for_orders_is_no_webhook_and_the_other_way_round(tmp_path: Path) -> None:
    secret, event = "one-secret-for-both-by-mistake", b'{"id": "evt_1", "type": "ping"}'
    reader = Stripe(
        StripeConfig.model_validate({"name": "stripe", "home": tmp_path, "api_key": "sk", "webhook_secret": secret})
    )
    signed = signature.sign(secret, event, NOW)
    with pytest.raises(BadSignature, match="no Stripe-Signature header"):
        reader.verify({"kvit-signature": signed}, event, now=NOW)
    with pytest.raises(BadSignature, match="no Kvit-Signature header"):
        signature.verify(secret, None, event, NOW)
