"""What every reader of webhooks must do: take what the provider signed, and refuse all else in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.roles import BadSignature, WebhookReader
from connectors.stripe import Stripe, StripeConfig
from deployments.sandbox.stripe import StripeStandIn

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = "whsec_contract"


@dataclass(frozen=True)
class Case:
    """One reader, a webhook's body, its event's id, and how its provider signs: (body, secret, time) to headers."""

    reader: WebhookReader
    body: bytes
    external_id: str
    header: str
    sign: Callable[[bytes, str, datetime], dict[str, str]]

    def signed(self, body: bytes) -> dict[str, str]:
        return self.sign(body, SECRET, NOW)


def stripe() -> Case:
    def sign(body: bytes, secret: str, now: datetime) -> dict[str, str]:
        return StripeStandIn(webhook_secret=secret).sign(body, now)

    account = StripeStandIn(webhook_secret=SECRET)
    event = account.pay("CZ1042", 104250, now=NOW)
    _, body = account.signed(event, NOW)
    config = StripeConfig.model_validate(
        {"name": "stripe", "home": Path(), "api_key": "sk_test", "webhook_secret": SECRET}
    )
    return Case(Stripe(config), body, event["id"], "stripe-signature", sign)


CASES = [pytest.param(stripe(), id="stripe")]
every_reader = pytest.mark.parametrize("case", CASES)


@every_reader
def test_a_reader_plays_the_role(case: Case) -> None:
    assert isinstance(case.reader, WebhookReader)


@every_reader
def test_what_the_provider_signed_is_taken_with_its_id_and_kind(case: Case) -> None:
    event = case.reader.verify(case.signed(case.body), case.body, now=NOW)
    assert event.external_id == case.external_id
    assert event.kind


@every_reader
def test_other_headers_do_not_matter(case: Case) -> None:
    headers = {"user-agent": "x", **case.signed(case.body), "accept": "*/*"}
    assert case.reader.verify(headers, case.body, now=NOW).external_id == case.external_id


@every_reader
@given(data=st.data())
def test_a_changed_body_is_refused(case: Case, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(case.body) - 1))
    changed = case.body[:place] + bytes([case.body[place] ^ data.draw(st.integers(1, 255))]) + case.body[place + 1 :]
    with pytest.raises(BadSignature):
        case.reader.verify(case.signed(case.body), changed, now=NOW)


@every_reader
@pytest.mark.parametrize("added", [b" ", b"\n", b"\x00"])
def test_a_body_with_something_added_is_refused(case: Case, added: bytes) -> None:
    for changed in (case.body + added, added + case.body, case.body[:-1]):
        with pytest.raises(BadSignature):
            case.reader.verify(case.signed(case.body), changed, now=NOW)


@every_reader
@pytest.mark.parametrize("secret", ["whsec_other", SECRET.upper(), SECRET + " "])
def test_another_secret_is_refused(case: Case, secret: str) -> None:
    with pytest.raises(BadSignature):
        case.reader.verify(case.sign(case.body, secret, NOW), case.body, now=NOW)


@every_reader
@pytest.mark.parametrize("later", [timedelta(days=1), timedelta(days=-1)])
def test_a_time_far_from_ours_is_refused(case: Case, later: timedelta) -> None:
    with pytest.raises(BadSignature):
        case.reader.verify(case.signed(case.body), case.body, now=NOW + later)


@every_reader
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_signature_is_refused(case: Case, value: str | None) -> None:
    headers = {"content-type": "application/json"} | ({} if value is None else {case.header: value})
    with pytest.raises(BadSignature):
        case.reader.verify(headers, case.body, now=NOW)


@every_reader
def test_an_empty_body_is_refused_signed_or_not(case: Case) -> None:
    for headers in (case.signed(case.body), case.signed(b""), {}):
        with pytest.raises(BadSignature):
            case.reader.verify(headers, b"", now=NOW)


@every_reader
@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b"[]",
        b"{}",
        b"null",
        b'{"id": null}',
        b'{"id": 7}',
        b'{"id": ""}',
        b'{"id": "../secrets"}',
        b'{"id": "evt_1"',
        b"\xff\xfe",
        b"[" * 200_000,
        b"9" * 10_000,
    ],
)
def test_what_is_signed_but_no_event_is_refused(case: Case, body: bytes) -> None:
    with pytest.raises(BadSignature):
        case.reader.verify(case.signed(body), body, now=NOW)


pieces = st.sampled_from(["t=", "v1=", "v0=", ",", "=", "1772366400", "a" * 64, "²", " ", "\x00", "sha256="])


@every_reader
@given(value=st.text() | st.lists(pieces | st.text(max_size=8)).map("".join), body=st.binary(max_size=64))
def test_no_header_whatever_it_says_gets_through_or_breaks_the_reader(case: Case, value: str, body: bytes) -> None:
    for content in (body, case.body):
        with pytest.raises(BadSignature):
            case.reader.verify({case.header: value}, content, now=NOW)


@every_reader
def test_a_very_long_header_is_refused(case: Case) -> None:
    signed = case.signed(case.body)[case.header]
    with pytest.raises(BadSignature):
        case.reader.verify({case.header: signed + ",v1=" + "a" * 1_000_000}, case.body, now=NOW)


@every_reader
def test_a_refusal_says_nothing_secret(case: Case) -> None:
    signature = case.signed(case.body)[case.header]
    with pytest.raises(BadSignature) as raised:
        case.reader.verify({case.header: signature}, case.body + b" ", now=NOW)
    said = str(raised.value)
    assert len(said) > 20
    assert SECRET not in said
    assert signature[-64:] not in said
