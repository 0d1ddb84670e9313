"""What every reader of webhooks must do: take what the provider signed, and refuse all else in one way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.roles import BadSignature, WebhookReader
from connectors.stripe import Stripe, StripeConfig
from connectors.wayforpay import WayForPay, WayForPayConfig
from deployments.sandbox.stripe import StripeStandIn
from deployments.sandbox.wayforpay import WayForPayStandIn, written

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = "whsec_contract"


Sent = tuple[dict[str, str], bytes]
"""The headers of a webhook and its body."""


@dataclass(frozen=True)
class Case:
    """One reader, a webhook's body without its signature, its event's id, and how its provider signs.

    sign makes the signature: (body, secret, time). put puts one, or none, where the provider has it: (body, signature).
    covered are the parts of the body that the signature covers, where that is not all of it; timed says that it covers
    the time, too.
    """

    reader: WebhookReader
    body: bytes
    external_id: str
    sign: Callable[[bytes, str, datetime], str]
    put: Callable[[bytes, str | None], Sent]
    covered: tuple[bytes, ...] = ()
    timed: bool = True

    def sent(self, body: bytes, secret: str = SECRET) -> Sent:
        return self.put(body, self.sign(body, secret, NOW))

    def places(self, sent: bytes) -> list[range]:
        """Return where in a body stands what the signature covers."""
        starts = [(sent.index(part), len(part)) for part in self.covered] or [(0, len(sent))]
        return [range(start, start + length) for start, length in starts]


def stripe() -> Case:
    def sign(body: bytes, secret: str, now: datetime) -> str:
        return StripeStandIn(webhook_secret=secret).sign(body, now)["stripe-signature"]

    def put(body: bytes, signature: str | None) -> Sent:
        headers = {"content-type": "application/json"}
        return headers | ({} if signature is None else {"stripe-signature": signature}), body

    account = StripeStandIn(webhook_secret=SECRET)
    event = account.pay("CZ1042", 104250, now=NOW)
    _, body = account.signed(event, NOW)
    config = StripeConfig.model_validate(
        {"name": "stripe", "home": Path(), "api_key": "sk_test", "webhook_secret": SECRET}
    )
    return Case(Stripe(config), body, event["id"], sign, put)


def wayforpay() -> Case:
    names = "merchantAccount orderReference amount currency authCode cardPan transactionStatus reasonCode".split()

    def sign(body: bytes, secret: str, _: datetime) -> str:
        try:
            fields = json.loads(body, parse_int=str, parse_float=str)
            values = [str(fields.get(name, "")) for name in names]
        except (ValueError, RecursionError, AttributeError):
            values = [body.decode("latin-1")]
        return WayForPayStandIn(key=secret).sign(*values)

    def put(body: bytes, signature: str | None) -> Sent:
        if signature is None or not body.endswith(b"}"):
            return {}, body
        comma = b"" if body == b"{}" else b","
        return {}, body[:-1] + comma + b'"merchantSignature":' + json.dumps(signature).encode() + b"}"

    gateway = WayForPayStandIn(key=SECRET)
    callback = gateway.pay("CZ1042", "1042.50", "UAH", now=NOW)
    body = written({name: value for name, value in callback.items() if name != "merchantSignature"})
    config = WayForPayConfig.model_validate(
        {"name": "wayforpay", "home": Path(), "merchant_account": gateway.account, "secret_key": SECRET}
    )
    covered = (b"test_merch_n1", b"CZ1042", b"1042.50", b"UAH", b"541963", b"41****8217", b"Approved", b"1100")
    return Case(WayForPay(config), body, "CZ1042:Approved:1100:1042.5", sign, put, covered=covered, timed=False)


CASES = [pytest.param(stripe(), id="stripe"), pytest.param(wayforpay(), id="wayforpay")]
every_reader = pytest.mark.parametrize("case", CASES)


@every_reader
def test_a_reader_plays_the_role(case: Case) -> None:
    assert isinstance(case.reader, WebhookReader)


@every_reader
def test_what_the_provider_signed_is_taken_with_its_id_and_kind(case: Case) -> None:
    event = case.reader.verify(*case.sent(case.body), now=NOW)
    assert event.external_id == case.external_id
    assert event.kind


@every_reader
def test_other_headers_do_not_matter(case: Case) -> None:
    headers, sent = case.sent(case.body)
    event = case.reader.verify({"user-agent": "x", **headers, "accept": "*/*"}, sent, now=NOW)
    assert event.external_id == case.external_id


@every_reader
@given(data=st.data())
def test_a_changed_body_is_refused(case: Case, data: st.DataObject) -> None:
    headers, sent = case.sent(case.body)
    place = data.draw(st.sampled_from(data.draw(st.sampled_from(case.places(sent)))))
    changed = sent[:place] + bytes([sent[place] ^ data.draw(st.integers(1, 255))]) + sent[place + 1 :]
    with pytest.raises(BadSignature):
        case.reader.verify(headers, changed, now=NOW)


@every_reader
@pytest.mark.parametrize("added", [b" ", b"\n", b"\x00"])
def test_a_body_with_something_added_is_refused(case: Case, added: bytes) -> None:
    headers, sent = case.sent(case.body)
    for changed in (sent + added, added + sent, sent[:-1]):
        if case.covered and changed.strip() == sent:
            assert case.reader.verify(headers, changed, now=NOW).external_id == case.external_id
        else:
            with pytest.raises(BadSignature):
                case.reader.verify(headers, changed, now=NOW)


@every_reader
@pytest.mark.parametrize("secret", ["whsec_other", SECRET.upper(), SECRET + " "])
def test_another_secret_is_refused(case: Case, secret: str) -> None:
    with pytest.raises(BadSignature):
        case.reader.verify(*case.sent(case.body, secret), now=NOW)


@every_reader
@pytest.mark.parametrize("later", [timedelta(days=1), timedelta(days=-1)])
def test_a_time_far_from_ours_is_refused_where_it_is_signed_and_else_the_same_again(
    case: Case, later: timedelta
) -> None:
    if case.timed:
        with pytest.raises(BadSignature):
            case.reader.verify(*case.sent(case.body), now=NOW + later)
    else:
        assert case.reader.verify(*case.sent(case.body), now=NOW + later).external_id == case.external_id


@every_reader
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_signature_is_refused(case: Case, value: str | None) -> None:
    with pytest.raises(BadSignature):
        case.reader.verify(*case.put(case.body, value), now=NOW)


@every_reader
def test_an_empty_body_is_refused_signed_or_not(case: Case) -> None:
    for headers, _ in (case.sent(case.body), case.sent(b""), case.put(b"", None)):
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
        case.reader.verify(*case.sent(body), now=NOW)


pieces = st.sampled_from(["t=", "v1=", "v0=", ",", "=", "1772366400", "a" * 64, "²", " ", "\x00", "sha256="])


@every_reader
@given(value=st.text() | st.lists(pieces | st.text(max_size=8)).map("".join), body=st.binary(max_size=64))
def test_no_signature_whatever_it_says_gets_through_or_breaks_the_reader(case: Case, value: str, body: bytes) -> None:
    for content in (body, case.body):
        with pytest.raises(BadSignature):
            case.reader.verify(*case.put(content, value), now=NOW)


@every_reader
def test_a_very_long_signature_is_refused(case: Case) -> None:
    signature = case.sign(case.body, SECRET, NOW) + ",v1=" + "a" * 1_000_000
    with pytest.raises(BadSignature):
        case.reader.verify(*case.put(case.body, signature), now=NOW)


@every_reader
def test_a_refusal_says_nothing_secret(case: Case) -> None:
    headers, sent = case.sent(case.body)
    place = case.places(sent)[0][0]
    changed = sent[:place] + bytes([sent[place] ^ 1]) + sent[place + 1 :]
    with pytest.raises(BadSignature) as raised:
        case.reader.verify(headers, changed, now=NOW)
    said = str(raised.value)
    assert len(said) > 20
    assert SECRET not in said
    assert case.sign(case.body, SECRET, NOW)[-64:] not in said
