"""Payment notices by e-mail: letters read as files, and a mailbox read over IMAP from a real mail server, Dovecot."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors import load
from connectors.errors import Misconfigured, OutsideError, Rejected, Transient
from connectors.letters import MAX_BYTES, MAX_TEXT, read_letter, signing_domains
from connectors.notices import Notices, NoticesConfig, Reading
from connectors.roles import Announces, BadSignature, Checked, Hint, Page, PaymentSource, WebhookReader
from deployments.cli import app
from deployments.command import Wrong
from deployments.sandbox.mailbox import MailServer, NoDovecot
from domain.money import Money
from domain.payments import IncomingPayment, Method

LETTERS = Path(__file__).parent / "letters"
PAID = {
    "name": "paid",
    "subject": "успішна оплата",
    "patterns": [
        r"Замовлення:?\s*(?P<order>[A-Z]{2}\d{4,8})",
        r"^Сума:?\s*(?P<amount>[\d ,.]{1,20}\d)\s*(?P<currency>\w{1,4})",
        r"^Дата:?\s*(?P<date>\d\d\.\d\d\.\d{4})",
        r"^Номер платежу:?\s*(?P<payment>[\d-]{4,20})",
    ],
    "optional": ["payment"],
}
RULES: list[dict[str, Any]] = [
    PAID,
    {
        "name": "romanian",
        "subject": "^Plată reușită",
        "patterns": [
            r"comanda (?:nr\. )?(?P<order>RO-\d{1,8})",
            r"Suma: (?P<amount>[\d.,]{1,15}) (?P<currency>\w{3})",
        ],
    },
    {
        "name": "czech",
        "subject": "byla zaplacena$",
        "patterns": [
            r"Objednávka č\. (?P<order>\d{1,8})",
            r"Částka: (?P<amount>[\d ]{1,12}(?:,(?:\d\d|-))?) (?P<currency>Kč|EUR)",
            r"Zaplaceno (?P<date>\d{1,2}\. \d{1,2}\. \d{4})",
        ],
        "date_format": "%d. %m. %Y",
    },
    {
        "name": "in the subject",
        "subject": "^Order",
        "patterns": [r"^Order (?P<order>\d{1,9}) paid: (?P<currency>EUR) (?P<amount>[\d.,]{1,15})$"],
    },
]


def config(server: MailServer | None = None, /, **changed: Any) -> NoticesConfig:
    fields: dict[str, Any] = {
        "name": "mails",
        "home": Path(),
        "host": server.host if server else "127.0.0.1",
        "port": server.port if server else 9,
        "security": "none",
        "username": server.username if server else "payments",
        "password": server.password if server else "secret-of-a-test",
        "senders": ["Notify@pay.example"],
        "authserv_id": "mx.shop.example",
        "recipients": ["pay@shop.example"],
        "ignore": ["^Новини"],
        "rules": RULES,
    }
    return NoticesConfig.model_validate(fields | changed)


def saved(name: str) -> bytes:
    return (LETTERS / f"{name}.eml").read_bytes()


def read(name: str, **changed: Any) -> Reading:
    return Notices(config(**changed)).examine(saved(name))


def values(reading: Reading) -> dict[str, str | None]:
    return {one.field: one.value for one in reading.fields}


def written(text: str, **headers: str) -> bytes:
    """Return a letter that is ours and vouched for, with a text of its own."""
    told = {
        "Authentication-Results": "mx.shop.example; dkim=pass header.d=pay.example",
        "Date": "Tue, 10 Mar 2026 09:00:00 +0100",
        "From": "notify@pay.example",
        "To": "pay@shop.example",
        "Message-ID": "<1@pay.example>",
        "Subject": "Payment",
        "Content-Type": "text/plain; charset=utf-8",
    }
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    return "".join(f"{name}: {value}\r\n" for name, value in told.items() if value).encode() + b"\r\n" + text.encode()


def reading_of(text: str, *patterns: str, rule: dict[str, Any] | None = None, **changed: Any) -> Reading:
    told: dict[str, Any] = {"name": "a rule", "patterns": list(patterns)} | (rule or {})
    return Notices(config(rules=[told], **changed)).examine(written(text))


# Roles and settings


def test_it_plays_its_roles_and_is_found_by_its_type() -> None:
    settings = config().model_dump(mode="json", exclude={"home"}) | {"type": "notices", "password": "secret"}
    made = load(settings, home=Path(), where="kvit.yaml")
    assert isinstance(made, Notices)
    for role in (WebhookReader, PaymentSource, Announces, Checked):
        assert isinstance(made, role)


def test_a_password_does_not_show() -> None:
    assert "secret-of-a-test" not in repr(config())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"host": "mail.shop.example"}, "not sent unencrypted"),
        ({"authserv_id": None}, "authserv_id is missing"),
        ({"recipients": []}, "recipients is missing"),
        ({"senders": ["pay.example"]}, "not an address"),
        ({"senders": []}, "at least 1 item"),
        ({"password": ""}, "empty"),
        ({"username": "a\r\nb"}, "line break"),
        ({"folder": "a\nb"}, "line break"),
        ({"flag": r"\Deleted"}, "pattern"),
        ({"currency": "EURO"}, "ISO 4217"),
        ({"currencies": {"$": "DOLLAR"}}, "ISO 4217"),
        ({"rules": [{"name": "x", "patterns": ["(?P<order>a)"]}]}, "“x”: no pattern has a group named amount"),
        ({"rules": [{"name": "x", "patterns": ["(?P<amount>a)"]}]}, "no pattern has a group named currency"),
        (
            {"currency": "EUR", "rules": [{"name": "x", "patterns": ["(?P<amount>a)"], "optional": ["amount"]}]},
            "amount can't be optional",
        ),
        ({"gateway": "pay", "rules": [{"name": "x", "patterns": ["(?P<amount>a)"]}]}, "a group named order"),
        ({"rules": [PAID | {"date_format": "%d.%m."}]}, "day, month and year"),
        ({"rules": [PAID | {"patterns": ["(?P<sum>a)"]}]}, "its groups must be named"),
        ({"rules": [PAID | {"patterns": ["no group"]}]}, "its groups must be named"),
    ],
)
def test_settings_that_cannot_work_or_are_not_safe_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        config(**changed)


def test_where_the_gateway_has_the_last_word_a_rule_needs_the_reference_alone() -> None:
    rules = [{"name": "x", "patterns": [r"№(?P<order>\d{1,9})"]}]
    assert config(gateway="pay", recipients=[], rules=rules).gateway == "pay"


@pytest.mark.parametrize("body", [b"", b"{}", written("Order 1")])
def test_no_webhook_is_ever_taken(body: bytes) -> None:
    with pytest.raises(BadSignature, match="takes no webhooks"):
        Notices(config()).verify({"authorization": "Basic x"}, body, now=datetime.now(UTC))


def test_the_example_of_the_page_reads_the_letter_that_it_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAP_PASSWORD", "secret-of-a-test")
    page = (Path(__file__).parents[2] / "docs" / "notices.md").read_text(encoding="utf-8")
    (stanza,) = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])["connectors"]
    made = load(stanza, home=Path(), where="docs/notices.md")
    assert values(made.examine(saved("html-base64"))) == DH
    assert made.examine(saved("html-base64")).told is not None


# Patterns

ENDLESS = ["a*", "a+", "(?:a|b)+", "[a-z]*", r"\d+", ".*", "a{2,}", r"(?:\s)*", "a{1,201}"]


@pytest.mark.parametrize("pattern", ENDLESS)
def test_a_repetition_without_a_near_end_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValidationError, match="end"):
        config(ignore=[pattern])


@pytest.mark.parametrize(
    "pattern", ["(?:a{1,40}){1,40}b", "(?:a?){40}a{40}", "(?:a|a){1,20}b", r".{0,60}x.{0,60}y.{0,60}z"]
)
def test_a_pattern_that_can_fit_in_too_many_ways_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match="too many ways"):
        config(ignore=[pattern])


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "(", "a)", "[a", "[[a]", "a{x}", "a++", "^*", "\\", "[z-a]", "a" * 301, "(" * 30 + "a" + ")" * 30),
        *(r"(a)\1", "(?=a)", "(?<!a)b", "(?i)a", "(?P=a)", "(?#x)", r"\Z", "(?P<a>x)(?P<a>y)"),
    ],
)
def test_what_is_outside_the_known_part_of_regular_expressions_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError):
        config(ignore=[pattern])


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"Total:?\s*(?P<order>\w{1,9})", "Total:\r\n\r\n   A1", "A1"),
        (r"№\s+(?P<order>\d{1,9})", "№ \u2003 17", "17"),
        (r"(?P<order>[A-Z]{2}-?\d{2,4}?)$", "x CZ-104", "CZ-104"),
        (r"^(?:No\.|#) (?P<order>[^\s,;]{1,9})", "Say\n# a/b, c", "a/b"),
        (r"\bnr (?P<order>[\d\]-]{1,9})", "nr 1-]", "1-]"),
        (r"Order\t(?P<order>\d{1,9})", "Order\t \t7", "7"),
    ],
)
def test_the_usual_expressions_are_known(pattern: str, text: str, found: str) -> None:
    assert values(reading_of(text, pattern, gateway="pay"))["order"] == found


# Letters as files

DH = {"currency": "UAH", "amount": "1547.36", "date": "2014-11-07", "order": "DH783023", "payment": "541963-08"}


@pytest.mark.parametrize(
    "name",
    ["html-base64", "html-charset-in-markup", "windows-1251", "koi8-u", "utf-16", "utf-8-bom", "all-forms"],
)
def test_a_letter_is_read_in_whatever_charset_coding_and_form_it_comes(name: str) -> None:
    reading = read(name)
    assert (reading.rule, reading.problems, values(reading)) == ("paid", (), DH)
    assert reading.told == IncomingPayment(
        source="notices:mails",
        external_id="541963-08",
        method=Method.CARD,
        amount=Money(154736, "UAH"),
        booked_on=date(2014, 11, 7),
        provider_reference="541963-08",
        order_reference="DH783023",
    )


@pytest.mark.parametrize(
    ("name", "amount", "order", "booked_on"),
    [
        ("romanian", Money(154736, "RON"), "RO-2041", date(2014, 11, 7)),
        ("czech", Money(104200, "CZK"), "1042", date(2026, 3, 9)),
        ("order-in-subject", Money(104250, "EUR"), "1042", date(2014, 11, 7)),
    ],
)
def test_each_rule_reads_the_letters_whose_subject_it_is_of(
    name: str, amount: Money, order: str, booked_on: date
) -> None:
    told = read(name, account="cards", method="bank_transfer").told
    assert isinstance(told, IncomingPayment)
    assert (told.amount, told.order_reference, told.booked_on) == (amount, order, booked_on)
    assert (told.account, told.method, told.provider_reference) == ("cards", Method.BANK_TRANSFER, None)


def test_what_only_looks_like_text_is_not_read() -> None:
    text = read("html-base64").text
    assert "Оплата 1 грн" not in text
    assert "9 999" not in text
    assert "Сума 1,00" not in text
    assert "Сума\t1 547,36 грн" in text.splitlines()
    assert "2,00" not in read("all-forms").text
    assert "XX1" not in read("all-forms").text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dkim-failed", "doesn't say dkim=pass for its sender's domain"),
        ("forged-results", "doesn't say dkim=pass for its sender's domain"),
        ("results-of-another-server", "isn't our mail server's"),
        ("no-results", "there is no Authentication-Results"),
        ("two-senders", "exactly one sender"),
        ("to-somebody-else", "addressed to none of our recipients"),
        ("customers-own-words", "amount: the letter says it several times, and not always the same (rule “paid”)"),
        ("no-order-number", "order: it is not in the letter (rule “paid”)"),
        ("unknown-currency", "currency: it is no currency that is known here"),
        ("another-subject", "no rule fits its subject"),
    ],
)
async def test_a_letter_of_ours_that_is_not_believed_or_not_understood_waits_for_a_person(name: str, said: str) -> None:
    with pytest.raises(Rejected) as raised:
        await Notices(config()).truth(saved(name))
    assert said in str(raised.value)
    assert not re.search("DH783023|1 547|541963|notify|evil|99 999|тугр", str(raised.value))


@pytest.mark.parametrize("name", ["newsletter", "other-sender"])
async def test_letters_that_are_no_concern_of_ours_mean_nothing(name: str) -> None:
    assert await Notices(config()).truth(saved(name)) == []


def test_an_optional_field_may_be_missing_and_the_letter_itself_then_identifies_the_payment() -> None:
    reading = read("no-payment-number")
    assert isinstance(reading.told, IncomingPayment)
    assert (reading.told.external_id, reading.told.provider_reference) == (reading.external_id, None)


@pytest.mark.parametrize("name", ["dkim-failed", "forged-results", "results-of-another-server", "no-results"])
def test_unsigned_letters_can_be_trusted_by_choice(name: str) -> None:
    assert values(read(name, trust_unsigned=True, authserv_id=None)) == DH
    assert read(name, trust_unsigned=True, authserv_id=None).told is not None


def test_a_repeated_letter_about_one_payment_is_the_same_payment() -> None:
    notices = Notices(config())
    text = "Замовлення: DH783023\nСума: 10,00 грн\nДата: 07.11.2014\nНомер платежу: 541963-08"
    first, second = (
        notices.examine(written(text + end, Subject="Успішна оплата", Message_ID=f"<{end}@pay.example>"))
        for end in "ab"
    )
    assert first.external_id != second.external_id
    assert isinstance(first.told, IncomingPayment)
    assert first.told == second.told


# With a gateway


def test_with_a_gateway_a_letter_is_a_hint_and_no_payment() -> None:
    reading = read("html-base64", gateway="wayforpay")
    assert reading.told == Hint(connector="wayforpay", reference="DH783023", external_id=reading.external_id)


def test_the_gateway_can_be_asked_about_the_payment_instead() -> None:
    told = read("html-base64", gateway="pay", reference="payment", rules=[PAID | {"optional": []}]).told
    assert isinstance(told, Hint)
    assert told.reference == "541963-08"


def test_a_hint_needs_nothing_but_its_reference() -> None:
    assert isinstance(read("customers-own-words", gateway="pay").told, Hint)
    assert isinstance(read("unknown-currency", gateway="pay").told, Hint)
    assert read("no-order-number", gateway="pay").problems == ("order: it is not in the letter (rule “paid”)",)


def test_a_hint_must_be_believed_too() -> None:
    assert read("dkim-failed", gateway="pay").told is None


# What letters say


@pytest.mark.parametrize(
    ("text", "minor"),
    [
        ("1547.36", 154736),
        ("1547,36", 154736),
        ("1 547,36", 154736),
        ("1\u00a0547,36", 154736),
        ("1\u202f547.36", 154736),
        ("1\u2009547\u2009000", 154700000),
        ("1,547.36", 154736),
        ("1.547,36", 154736),
        ("1'547.36", 154736),
        ("1,547", 154700),
        ("1.547.000,5", 154700050),
        ("0,01", 1),
        ("1042,-", 104200),
        ("7", 700),
    ],
)
def test_amounts_are_read_as_they_are_written(text: str, minor: int) -> None:
    told = reading_of(f"Sum: {text}", "Sum: (?P<amount>[^\n]{1,20})", currency="UAH").told
    assert isinstance(told, IncomingPayment)
    assert told.amount == Money(minor, "UAH")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "0,00",
            "-5",
            "1,5473",
            "1 5473",
            "12 34,00",
            "1,547,36",
            "1.547.36",
            "1 547.000 36",
            "1,2.3,4",
            "1 547,36,-",
        ),
        *("٣", "1e3", "five", "0x10", "1_000", ".5", "9" * 18),
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    reading = reading_of(f"Sum: {text}", "Sum: (?P<amount>[^\n]{1,20})", currency="UAH")
    assert reading.told is None
    assert "amount: it is not an amount above zero" in reading.problems[0]


def test_an_amount_that_could_be_two_is_refused_until_the_rule_says_how_it_is_written() -> None:
    pattern = "Sum: (?P<amount>[^\n]{1,20})"
    assert "in two ways" in reading_of("Sum: 1,547", pattern, currency="KWD").problems[0]
    told = reading_of("Sum: 1,547", pattern, currency="KWD", rule={"decimal": ","}).told
    assert isinstance(told, IncomingPayment)
    assert told.amount == Money(1547, "KWD")
    assert reading_of("Sum: 1.547,00", pattern, currency="EUR", rule={"decimal": "."}).told is None


@pytest.mark.parametrize(
    ("text", "currency"),
    [("грн", "UAH"), ("ГРН.", "UAH"), ("₴", "UAH"), ("Kč", "CZK"), ("lei", "RON"), ("uah", "UAH"), ("$", "USD")],
)
def test_currencies_are_known_by_their_names(text: str, currency: str) -> None:
    pattern = r"(?P<amount>\d{1,9}) (?P<currency>[^\s]{1,5})"
    told = reading_of(f"5 {text}", pattern, currencies={"$": "USD"}).told
    assert isinstance(told, IncomingPayment)
    assert told.amount == Money(500, currency)


@pytest.mark.parametrize("text", ["31.02.2026", "2026-03-09", "9.3.26 x"])
def test_a_date_that_is_none_is_refused(text: str) -> None:
    reading = reading_of(f"5 EUR on {text}", r"(?P<amount>\d) (?P<currency>EUR) on (?P<date>[^\n]{1,20})")
    assert reading.problems == ("date: it is not a date written as %d.%m.%Y (rule “a rule”)",)


def test_a_letter_without_any_date_is_refused() -> None:
    notices = Notices(config(rules=[{"name": "x", "patterns": [r"(?P<amount>\d) (?P<currency>EUR)"]}]))
    assert "date: neither" in notices.examine(written("5 EUR", Date="")).problems[0]
    assert "date: neither" in notices.examine(written("5 EUR", Date="yesterday")).problems[0]


def test_a_value_that_is_too_long_is_refused() -> None:
    reading = reading_of("5 EUR " + "a" * 100, r"(?P<amount>\d) (?P<currency>EUR) (?P<order>a{1,100})")
    assert reading.problems == ("order: it is longer than 80 characters (rule “a rule”)",)


def test_no_two_spaces_or_breaks_ever_follow_each_other() -> None:
    html = "<p> a &nbsp; b <br><br> \u200b c<table><tr><td> </td><td>d </td></tr><tr></tr></table>\t\te"
    for kind, text in (("plain", html), ("html", html), ("plain", " a \t \t\xa0b\r\n\r\n \x0b\u2028 c\x1fd\x85\x00e ")):
        letter = read_letter(written(text, Content_Type=f"text/{kind}; charset=utf-8"))
        assert letter.plain or letter.html
        for shown in (letter.plain, letter.html):
            assert not re.search(r"\s\s|\A\s|\s\Z|[\u200b\0]", shown), shown


@settings(deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=200), kind=st.sampled_from(["plain", "html"]))
def test_that_holds_for_every_text(text: str, kind: str) -> None:
    letter = read_letter(written(text, Content_Type=f"text/{kind}; charset=utf-8"))
    assert not re.search(r"\s\s|\A\s|\s\Z", letter.plain or letter.html)


def test_a_text_without_end_is_read_up_to_its_bound() -> None:
    assert len(read_letter(written("a " * 100_000)).plain) == MAX_TEXT


# Who vouches


@pytest.mark.parametrize(
    ("header", "domains"),
    [
        ("mx.shop.example; dkim=pass header.d=pay.example", {"pay.example"}),
        ("MX.shop.example 1; DKIM=PASS (good) header.D=Pay.Example.", {"pay.example"}),
        ("mx.shop.example (rspamd; x) ; dkim = pass header.i = x@pay.example", {"pay.example"}),
        (
            "mx.shop.example; spf=pass; dkim/1=pass header.d=a.example; dkim=pass header.d=b.example",
            {"a.example", "b.example"},
        ),
        ('mx.shop.example; dkim=pass reason="2048-bit; good" header.d=pay.example', {"pay.example"}),
        ("mx.shop.example; none", set[str]()),
        ("mx.shop.example; dkim=fail header.d=pay.example", set[str]()),
        ("mx.shop.example; dkim=passed header.d=pay.example", set[str]()),
        ("mx.shop.example; spf=pass header.d=pay.example", set[str]()),
        ("mx.shop.example; x-dkim=pass header.d=pay.example", set[str]()),
        ("mx.shop.example; dkim=fail (no; dkim=pass header.d=pay.example)", set[str]()),
        ('mx.shop.example; spf=pass smtp.mailfrom="; dkim=pass header.d=pay.example"@a.example', set[str]()),
        ("mx.shop.example; dkim=pass header.d=a.example header.d=pay.example", set[str]()),
        ('mx.shop.example; spf=pass smtp.mailfrom="("@a.example; dkim=pass header.d=pay.example', {"pay.example"}),
        ('mx.shop.example; dkim=fail (a " b) header.d=pay.example; spf=pass (")', set[str]()),
        ("mx.shop.example", set[str]()),
        ("mx.shop.example.evil.example; dkim=pass header.d=pay.example", None),
        ("evil.example (mx.shop.example); dkim=pass header.d=pay.example", None),
        ("dkim=pass header.d=pay.example", None),
        ("mx.shop.example; dkim=pass header.d=pay.example (", None),
        ('mx.shop.example; dkim=pass header.d=pay.example; x="', None),
        ("mx.shop.example; dkim=pass header.d=pay.example; what is this", None),
        ("", None),
    ],
)
def test_authentication_results_are_read_as_they_are_meant(header: str, domains: set[str] | None) -> None:
    assert signing_domains(header, "mx.shop.example") == domains


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80))
def test_nothing_a_sender_brings_into_the_results_vouches_for_him(text: str) -> None:
    quoted = re.sub(r'(["\\])', r"\\\1", text)
    comment = re.sub(r"([()\\])", r"\\\1", text)
    for put in (f"(reason: {comment})", f'reason="{quoted}"', f'smtp.mailfrom="{quoted}"@evil.example'):
        header = f"mx.shop.example; dkim=fail {put} header.d=pay.example; spf=pass {put}"
        assert not signing_domains(header, "mx.shop.example")


@pytest.mark.parametrize(
    ("sender", "signer", "believed"),
    [
        ("notify@pay.example", "pay.example", True),
        ("notify@mail.pay.example", "pay.example", True),
        ("notify@pay.example", "mail.pay.example", False),
        ("notify@pay.example", "evilpay.example", False),
        ("notify@pay.example", "example", False),
        ("notify@pay.example", "sender.example", False),
    ],
)
def test_a_signature_counts_for_the_senders_domain(sender: str, signer: str, believed: bool) -> None:
    notices = Notices(config(senders=["@pay.example", "@mail.pay.example"], gateway="pay"))
    results = f"mx.shop.example; dkim=pass header.d={signer}"
    letter = written("Замовлення DH783023", Subject="Успішна оплата", From=sender, Authentication_Results=results)
    assert (notices.examine(letter).told is not None) is believed


def test_other_signers_count_where_they_are_named_and_then_they_alone() -> None:
    notices = Notices(config(signers=["sender.example"], gateway="pay"))
    for signer, believed in (("sender.example", True), ("pay.example", False), ("x.sender.example", False)):
        results = f"mx.shop.example; dkim=pass header.d={signer}"
        letter = written("Замовлення DH783023", Subject="Успішна оплата", Authentication_Results=results)
        assert (notices.examine(letter).told is not None) is believed


@pytest.mark.parametrize(
    "added", ["To: pay@shop.example", "Cc: pay@shop.example", "To: x@y.example, <pay@shop.example>"]
)
async def test_a_true_letter_to_somebody_else_is_not_made_ours_by_what_is_added_to_it(added: str) -> None:
    letter = written("Замовлення DH783023\nСума 5 грн\nДата 07.11.2014", Subject="Успішна оплата", To="x@evil.example")
    results, rest = letter.split(b"\r\n", 1)
    with pytest.raises(Rejected):
        await Notices(config()).truth(b"\r\n".join((results, added.encode(), rest)))


@pytest.mark.parametrize("name", ["To", "Subject", "Date", "Message-ID", "Content-Type", "Content-Transfer-Encoding"])
def test_a_header_that_was_added_a_second_time_makes_a_letter_doubtful(name: str) -> None:
    letter = saved("windows-1251")
    results, rest = letter.split(b"\nReceived", 1)
    value = re.search(rb"\n%b: (.*)" % name.encode(), letter)
    assert value
    reading = Notices(config()).examine(b"%b\n%b: %b\nReceived%b" % (results, name.encode(), value[1], rest))
    assert any(f"{name} is there more than once" in said for said in reading.problems)


@pytest.mark.parametrize(
    ("header", "sender"),
    [
        ("notify@pay.example", "notify@pay.example"),
        ("<NOTIFY@Pay.Example>", "notify@pay.example"),
        ("Pay, Ltd <notify@pay.example>", None),
        ('"Pay, Ltd" <notify@pay.example>', "notify@pay.example"),
        ("notify@pay.example (Pay)", "notify@pay.example"),
        ('"notify@pay.example" <x@evil.example>', "x@evil.example"),
        ("notify@pay.example <x@evil.example>", "x@evil.example"),
        ("=?utf-8?q?=D0=9E?=\r\n <notify@pay.example>", "notify@pay.example"),
        ("notify@pay.example, x@evil.example", None),
        ("<notify@pay.example> <x@evil.example>", None),
        ("Pay: notify@pay.example;", None),
        ("Оплата <notify@pay.example>", "notify@pay.example"),
        ("", None),
    ],
)
def test_the_sender_is_the_one_address_of_the_header(header: str, sender: str | None) -> None:
    letter = read_letter(written("", From=header))
    assert letter.sender == sender
    assert sender is None or letter.named_senders == (sender,)


DIFFERENT = [Notices(config()), Notices(config(trust_unsigned=True)), Notices(config(gateway="pay"))]


@settings(deadline=None)
@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda data: written("") + data))
def test_no_letter_whatever_is_in_it_breaks_the_reader(data: bytes) -> None:
    reading = DIFFERENT[0].examine(data)
    assert len(reading.external_id) == 40
    assert reading.told is None


PIECES = rb"""
From: notify@pay.example|Subject: =?x?b?////?=|Subject: =?utf-8?q?=|--b|--b--|begin 644 a|====
Content-Type: multipart/mixed; boundary=b|Content-Type: message/rfc822|Content-Type: text/html; charset=punycode
Content-Type: text/plain; charset=idna|Content-Type: text/html; charset*0*=utf-8''%; charset*1=
Content-Disposition: inline; =|Content-Transfer-Encoding: base64|Content-Transfer-Encoding: x-uuencode
<td>|<![CDATA[|<a |&#0;|<meta charset=hex>"""
pieces = st.sampled_from([b"\n", b"\n\n", b"\r", b"\xff\xfe", *(one + b"\n" for one in re.split(rb"[|\n]", PIECES))])


@settings(deadline=None)
@given(st.lists(pieces | st.binary(max_size=8), max_size=30).map(b"".join))
def test_no_letter_made_of_likely_pieces_breaks_the_reader(data: bytes) -> None:
    for notices in DIFFERENT:
        reading = notices.examine(data)
        assert reading.told is None
        assert reading.nothing or reading.problems


def test_parts_nested_without_end_are_refused_or_left() -> None:
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(2_000))
    assert Notices(config()).examine(b"From: notify@pay.example\n" + deep).problems


# The mailbox


@contextmanager
def running(**options: Any) -> Generator[MailServer]:
    """Start a mail server, or skip the test, saying so, where there is none."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(MailServer(**options))
        except NoDovecot as error:
            pytest.skip(f"the mailbox is NOT TESTED here: {error}")
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[MailServer]:
    with running() as found:
        yield found


numbers = count(1)
NOW = datetime.now(UTC)


@pytest.fixture
def folder(server: MailServer) -> str:
    """Make a folder that no other test looks into."""
    name = f"Payments-{next(numbers)}"
    server.create(name)
    return name


def numbered(number: object, **headers: str) -> bytes:
    return written(f"Order {number}", Message_ID=f"<{number}@pay.example>", **headers)


async def polled(notices: Notices, cursor: str | None = None, *, now: datetime = NOW) -> tuple[list[Page], str]:
    """Poll until there is no more."""
    pages = [await notices.fetch(cursor, now=now)]
    while pages[-1].more:
        pages.append(await notices.fetch(pages[-1].cursor, now=now))
    return pages, pages[-1].cursor


def events(pages: list[Page]) -> list[tuple[str, bytes]]:
    return [event for page in pages for event in page.events]


def orders(pages: list[Page]) -> list[str]:
    return [body.rpartition(b"Order ")[2].decode().strip() for _, body in events(pages)]


async def test_letters_of_our_senders_come_page_by_page_each_once_and_no_others(
    server: MailServer, folder: str
) -> None:
    notices = Notices(config(server, folder=folder))
    for number in range(25):
        server.deliver(numbered(number), folder=folder)
        server.deliver(numbered("of others", From="someone@else.example"), folder=folder)
    pages, cursor = await polled(notices)
    assert orders(pages) == [str(number) for number in range(25)]
    assert [len(page.events) for page in pages] == [20, 5]
    assert len({id_ for id_, _ in events(pages)}) == 25
    again, cursor = await polled(notices, cursor)
    assert events(again) == []
    server.deliver(numbered(25), folder=folder)
    assert orders((await polled(notices, cursor))[0]) == ["25"]


async def test_what_was_fetched_is_the_letter_as_it_lies_there(server: MailServer, folder: str) -> None:
    for name in ("html-base64", "koi8-u", "all-forms"):
        server.deliver(saved(name), folder=folder)
    notices = Notices(config(server, folder=folder))
    pages, _ = await polled(notices)
    for (external_id, body), name in zip(events(pages), ("html-base64", "koi8-u", "all-forms"), strict=True):
        assert body.replace(b"\r\n", b"\n") == saved(name)
        assert notices.examine(saved(name)).external_id == external_id
        assert await notices.truth(body) == [notices.examine(saved(name)).told]


async def test_the_first_poll_looks_back_as_far_as_configured(server: MailServer, folder: str) -> None:
    server.deliver(numbered("old"), folder=folder, at=NOW - timedelta(days=9))
    server.deliver(numbered("new"), folder=folder, at=NOW - timedelta(days=1))
    pages, cursor = await polled(Notices(config(server, folder=folder, days=4)))
    assert orders(pages) == ["new"]
    assert orders((await polled(Notices(config(server, folder=folder, days=20))))[0]) == ["old", "new"]
    assert orders((await polled(Notices(config(server, folder=folder)), cursor))[0]) == []


async def test_an_old_mailbox_is_not_read_from_its_beginning(server: MailServer, folder: str) -> None:
    server.deliver(numbered("old"), folder=folder, at=NOW - timedelta(days=9))
    notices = Notices(config(server, folder=folder))
    pages, cursor = await polled(notices)
    assert orders(pages) == []
    server.deliver(numbered("new"), folder=folder)
    assert orders((await polled(notices, cursor))[0]) == ["new"]


async def test_a_folder_made_anew_is_read_anew_and_its_letters_have_the_ids_they_had(
    server: MailServer, folder: str
) -> None:
    notices = Notices(config(server, folder=folder))
    for number in range(3):
        server.deliver(numbered(number), folder=folder)
    before, cursor = await polled(notices)
    server.delete(folder)
    server.create(folder)
    for number in (2, 7, 1):
        server.deliver(numbered(number), folder=folder)
    after, changed = await polled(notices, cursor)
    assert cursor.partition(":")[0] != changed.partition(":")[0]
    assert orders(after) == ["2", "7", "1"]
    assert {id_ for id_, _ in events(after)} & {id_ for id_, _ in events(before)} == {
        id_ for id_, body in events(before) if not body.endswith(b"Order 0")
    }


async def test_other_settings_of_the_mailbox_or_its_senders_start_over(server: MailServer, folder: str) -> None:
    server.deliver(numbered(1, From="billing@pay.example"), folder=folder)
    pages, cursor = await polled(Notices(config(server, folder=folder)))
    assert orders(pages) == []
    added = Notices(config(server, folder=folder, senders=["notify@pay.example", "billing@pay.example"]))
    assert orders((await polled(added, cursor))[0]) == ["1"]


@pytest.mark.parametrize("cursor", ["", "1", "1:2", "x:y:z", "1:99999999:000000000000", "1:2:3:4"])
async def test_a_cursor_that_is_none_of_ours_starts_over(server: MailServer, folder: str, cursor: str) -> None:
    server.deliver(numbered(1), folder=folder)
    assert orders((await polled(Notices(config(server, folder=folder)), cursor))[0]) == ["1"]


async def test_that_somebody_has_seen_a_letter_makes_no_difference_and_reading_leaves_no_trace(
    server: MailServer, folder: str
) -> None:
    server.deliver(numbered(1), folder=folder)
    server.deliver(numbered(2), folder=folder)
    server.set_flag(r"\Seen", folder=folder)
    server.deliver(numbered(3), folder=folder)
    assert orders((await polled(Notices(config(server, folder=folder))))[0]) == ["1", "2", "3"]
    # For the first program that opens the folder to change it, the last letter is still a recent one.
    assert [flags.split() for flags in server.flags(folder=folder)] == [[r"\Seen"], [r"\Seen"], [r"\Recent"]]


async def test_letters_that_were_read_are_flagged_where_that_is_wanted(server: MailServer, folder: str) -> None:
    server.deliver(numbered(1), folder=folder)
    server.deliver(numbered(2, From="someone@else.example"), folder=folder)
    assert orders((await polled(Notices(config(server, folder=folder, flag="Kvit"))))[0]) == ["1"]
    assert ["Kvit" in flags for flags in server.flags(folder=folder)] == [True, False]


async def test_letters_deleted_or_moved_by_others_are_missed_by_nobody(server: MailServer, folder: str) -> None:
    notices = Notices(config(server, folder=folder))
    for number in range(4):
        server.deliver(numbered(number), folder=folder)
    server.remove(2, folder=folder)
    pages, cursor = await polled(notices)
    assert orders(pages) == ["0", "2", "3"]
    server.create(f"{folder}-done")
    server.move(f"{folder}-done", folder=folder)
    server.deliver(numbered(9), folder=folder)
    later, cursor = await polled(notices, cursor)
    assert orders(later) == ["9"]
    server.move(folder, folder=f"{folder}-done")
    back, _ = await polled(notices, cursor)
    assert events(back) == events(pages)


async def test_a_message_id_that_is_missing_or_used_twice_hides_no_letter(server: MailServer, folder: str) -> None:
    for number, id_ in enumerate(("<same@pay.example>", "<same@pay.example>", "", "")):
        server.deliver(written(f"Order {number}", Message_ID=id_), folder=folder)
    server.deliver(written("Order 3", Message_ID="", Date="Tue, 10 Mar 2026 09:00:01 +0100"), folder=folder)
    server.deliver(written("", Message_ID="", Subject="Order 5"), folder=folder)
    server.deliver(written("", Message_ID="", Subject="Order 6"), folder=folder)
    pages, _ = await polled(Notices(config(server, folder=folder)))
    assert len({id_ for id_, _ in events(pages)}) == 7


async def test_a_letter_delivered_twice_is_one_event(server: MailServer, folder: str) -> None:
    for hop in ("a", "b"):
        server.deliver(f"Received: from {hop}.example\r\n".encode() + numbered(1), folder=folder)
    server.deliver(numbered(1).replace(b"Message-ID: ", b"Message-ID:\r\n "), folder=folder)
    pages, _ = await polled(Notices(config(server, folder=folder)))
    assert len(events(pages)) == 3
    assert len({id_ for id_, _ in events(pages)}) == 1


async def test_of_a_huge_letter_the_beginning_is_taken_which_says_it_all(server: MailServer, folder: str) -> None:
    whole = saved("all-forms").replace(b"\n--outer--", b"\n--outer\n\n" + b"x" * 3_000_000 + b"\n--outer--")
    server.deliver(whole, folder=folder)
    notices = Notices(config(server, folder=folder))
    ((_, body),) = events((await polled(notices))[0])
    assert len(body) == MAX_BYTES
    assert values(notices.examine(body)) == DH


async def test_a_page_of_huge_letters_is_a_short_one(server: MailServer, folder: str) -> None:
    for number in range(9):
        server.deliver(numbered(number) + b"\r\n" + b"x" * MAX_BYTES, folder=folder)
    pages, _ = await polled(Notices(config(server, folder=folder)))
    assert [len(page.events) for page in pages] == [8, 1]


async def test_a_header_without_end_holds_nothing_up(server: MailServer, folder: str) -> None:
    endless = "".join(f"a{number}@else.example,\r\n " for number in range(5_000))
    for number in range(3):
        server.deliver(numbered("x", From=endless + "notify@pay.example"), folder=folder)
        server.deliver(numbered(number), folder=folder)
    assert orders((await polled(Notices(config(server, folder=folder))))[0]) == ["0", "1", "2"]


async def test_a_folders_name_may_have_any_letters(server: MailServer) -> None:
    server.create("&U,BTFw- &- &ZeVnLIqe-")  # RFC 3501, 5.1.3
    assert "accepts the login" in await Notices(config(server, folder="台北 & 日本語")).check()


# News


async def waiting_for(server: MailServer, sessions: int) -> None:
    """Wait until so many sessions are open."""
    async with asyncio.timeout(120):
        while len(server.sessions()) != sessions:  # noqa: ASYNC110 - another process can't set an event
            await asyncio.sleep(0.02)


async def begun(notices: Notices, server: MailServer) -> asyncio.Task[None]:
    """Begin to wait for news, with nothing new there."""
    await polled(notices)
    await waiting_for(server, 0)
    waiting = asyncio.create_task(notices.news())
    await waiting_for(server, 1)
    return waiting


async def test_a_new_letter_ends_the_wait(server: MailServer, folder: str) -> None:
    notices = Notices(config(server, folder=folder))
    for number in range(2):
        waiting = await begun(notices, server)
        server.deliver(numbered(number), folder=folder)
        async with asyncio.timeout(120):
            await waiting


async def test_what_arrived_since_the_last_poll_ends_the_wait_before_it_begins(server: MailServer, folder: str) -> None:
    notices = Notices(config(server, folder=folder))
    async with asyncio.timeout(120):
        await notices.news()  # nothing was polled yet
        await polled(notices)
        server.deliver(numbered(1), folder=folder)
        await notices.news()


async def test_a_wait_that_is_renewed_many_times_still_ends(server: MailServer, folder: str) -> None:
    notices = Notices(config(server, folder=folder, idle_renewal=0.05))
    waiting = await begun(notices, server)
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done
    server.deliver(numbered(1), folder=folder)
    async with asyncio.timeout(120):
        await waiting


async def test_a_server_that_does_not_tell_by_itself_is_asked() -> None:
    with running(capabilities="IMAP4rev1 LITERAL+ UIDPLUS") as server:
        notices = Notices(config(server, ask_every=0.05))
        assert "has to be asked" in await notices.check()
        waiting = await begun(notices, server)
        server.deliver(numbered(1))
        async with asyncio.timeout(120):
            await waiting


async def test_a_wait_that_is_given_up_leaves_no_session_behind(server: MailServer, folder: str) -> None:
    waiting = await begun(Notices(config(server, folder=folder)), server)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await waiting_for(server, 0)


async def test_a_connection_cut_during_the_wait_is_told_and_the_next_poll_works(
    server: MailServer, folder: str
) -> None:
    notices = Notices(config(server, folder=folder))
    waiting = await begun(notices, server)
    server.cut()
    with pytest.raises(Transient, match="cut"):
        await waiting
    server.deliver(numbered(1), folder=folder)
    assert orders((await polled(notices))[0]) == ["1"]


# What goes wrong


async def fails(notices: Notices) -> OutsideError:
    """Return the one error that all of the connector's ways to the mailbox fail with."""
    found: list[OutsideError] = []
    for asked in (notices.check(), notices.fetch(None, now=NOW), notices.news()):
        with pytest.raises(OutsideError) as raised:
            await asked
        found.append(raised.value)
    assert len({(type(error), str(error)) for error in found}) == 1
    return found[0]


async def test_a_wrong_password_is_a_misconfiguration(server: MailServer) -> None:
    error = await fails(Notices(config(server, password="not-the-password")))
    assert isinstance(error, Misconfigured)
    assert "not-the-password" not in str(error)


async def test_a_folder_that_is_not_there_is_a_misconfiguration(server: MailServer) -> None:
    error = await fails(Notices(config(server, folder="Nowhere")))
    assert isinstance(error, Misconfigured)
    assert "folder" in str(error)


async def test_a_server_that_is_down_may_come_back() -> None:
    assert isinstance(await fails(Notices(config(port=1))), Transient)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for 127.0.0.1 that only itself vouches for; the file has the key too."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.example")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "mail.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(made.public_bytes(pem) + secret)
    return file


async def test_tls_is_spoken_with_servers_that_somebody_known_vouches_for(certificate: Path) -> None:
    with running(certificate=certificate) as server:
        secure = {"security": "tls", "home": certificate.parent}
        notices = Notices(config(server, ca_file=certificate.name, **secure))
        server.deliver(numbered(1))
        assert orders((await polled(notices))[0]) == ["1"]
        error = await fails(Notices(config(server, **secure)))
        assert isinstance(error, Misconfigured)
        assert "certificate was not accepted" in str(error)


async def test_a_port_without_tls_and_a_certificate_file_that_is_none_are_named(
    server: MailServer, tmp_path: Path
) -> None:
    error = await fails(Notices(config(server, security="tls")))
    assert isinstance(error, Misconfigured)
    assert "doesn't speak TLS" in str(error)
    error = await fails(Notices(config(server, security="tls", ca_file="nothing.pem", home=tmp_path)))
    assert isinstance(error, Misconfigured)
    assert "ca_file" in str(error)


# Servers of another make, which say what a test lets them say.

Lines = Callable[[str], bytes | None]


@asynccontextmanager
async def scripted(answer: Lines, greeting: bytes = b"* OK hello\r\n") -> AsyncGenerator[tuple[int, list[str]]]:
    """Serve what a function answers to each command without its tag; None ends the connection."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(greeting)
            tag = ""
            while line := (await reader.readline()).decode().rstrip("\r\n"):
                # DONE alone has no tag; what it ends has one.
                tag, command = line.split(" ", 1) if " " in line else (tag, line)
                asked.append(command)
                said = answer(command)
                if said is None:
                    break
                writer.write(said.replace(b"TAG", tag.encode()))
                await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1], asked
    finally:
        listening.close()


def simple(line: str) -> bytes:
    """Answer as a small server does that knows neither IDLE nor AUTHENTICATE, and says no UIDNEXT."""
    if line.startswith("CAPABILITY"):
        return b"* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"
    if line.startswith("EXAMINE"):
        return b"* 1 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* FLAGS (\\Seen)\r\nTAG OK [READ-ONLY]\r\n"
    if line == "LOGOUT":
        return b"* BYE\r\nTAG OK\r\n"
    if line.startswith("UID SEARCH"):
        return b"* SEARCH 4\r\n* search 5\r\nTAG OK\r\n"
    if "HEADER" in line:
        header = b'BODY[HEADER.FIELDS ("FROM")]<0> "From: notify@pay.example\\" x"'
        return b"* 1 FETCH (FLAGS (\\Seen (x)) %b UID 4)\r\n* 2 FETCH (UID 5 BODY[X]<0> NIL)\r\nTAG OK\r\n" % header
    if "BODY.PEEK[]" in line:
        return b"* 3 EXISTS\r\n* 1 FETCH (UID 4 BODY[]<0> {6}\r\na) {9} FLAGS ())\r\nTAG OK\r\n"
    return b"TAG OK\r\n"


async def test_a_small_server_is_understood_too() -> None:
    async with scripted(simple) as (port, asked):
        page = await Notices(config(port=port, password='a"b\\c')).fetch(None, now=NOW)
    assert [body for _, body in page.events] == [b"a) {9}"]
    assert page.cursor.startswith("7:5:")
    assert all("<0." in command for command in asked if "BODY" in command)  # never more than a bounded beginning
    assert r'LOGIN "payments" "a\"b\\c"' in asked
    assert 'EXAMINE "INBOX"' in asked


async def test_more_than_can_be_kept_is_not_even_read() -> None:
    said = b"* 1 FETCH (UID 4 BODY[]<0> {9999999999}\r\n"
    async with scripted(lambda line: said if line.startswith("UID FETCH") else simple(line)) as (port, _):
        with pytest.raises(Transient, match="more than can be read"):
            await Notices(config(port=port)).fetch(None, now=NOW)


async def test_a_flag_that_cannot_be_set_keeps_no_letter_back() -> None:
    def answer(line: str) -> bytes | None:
        return None if line.startswith("UID STORE") else simple(line.replace("SELECT", "EXAMINE"))

    async with scripted(answer) as (port, asked):
        page = await Notices(config(port=port, flag="Kvit")).fetch(None, now=NOW)
    assert len(page.events) == 1
    assert "UID STORE 4 +FLAGS.SILENT (Kvit)" in asked


@pytest.mark.parametrize(
    ("command", "said", "kind"),
    [
        ("CAPABILITY", b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nTAG OK\r\n", Misconfigured),
        ("LOGIN", b"TAG NO [UNAVAILABLE] try later\r\n", Transient),
        ("LOGIN", b"TAG NO wrong\r\n", Misconfigured),
        ("LOGIN", b"TAG BAD what\r\n", Misconfigured),
        ("EXAMINE", b"TAG NO [INUSE] x\r\n", Transient),
        ("EXAMINE", b"TAG NO x\r\n", Misconfigured),
        ("EXAMINE", b"* BYE see you\r\n", Transient),
        ("EXAMINE", b"TAG OK\r\n", Transient),
        ("EXAMINE", None, Transient),
        ("EXAMINE", b"x" * 5_000_000, Transient),
        ("UID SEARCH", b"TAG NO x\r\n", Transient),
        ("UID SEARCH", b"* SEARCH " + b"9" * 5_000 + b"\r\nTAG OK\r\n", Transient),
        ("UID FETCH", b"TAG NO x\r\n", Transient),
        ("UID FETCH", b'* 1 FETCH (UID 4 BODY[] "never closed)\r\nTAG OK\r\n', Transient),
    ],
)
async def test_what_a_server_says_amiss_is_one_of_our_errors(
    command: str, said: bytes | None, kind: type[OutsideError]
) -> None:
    async with scripted(lambda line: said if line.startswith(command) else simple(line)) as (port, _):
        with pytest.raises(kind):
            await Notices(config(port=port)).fetch(None, now=NOW)


@pytest.mark.parametrize(
    ("idle", "done"),
    [
        (b"TAG BAD\r\n", b""),
        (b"+ go on\r\n* 2 EXISTS\r\n", b"TAG NO\r\n"),
        (b"* BYE\r\n", b""),
        (b"+\r\n* 1 x", None),
    ],
)
async def test_a_wait_that_the_server_will_not_have_is_told(idle: bytes, done: bytes | None) -> None:
    answers = {"CAPABILITY": b"* CAPABILITY IDLE\r\nTAG OK\r\n", "IDLE": idle, "DONE": done}
    async with scripted(lambda line: answers.get(line, simple(line))) as (port, asked):
        notices = Notices(config(port=port, idle_renewal=0.1))
        await notices.news()
        with pytest.raises(Transient):
            await notices.news()
    assert "IDLE" in asked


@pytest.mark.parametrize(
    "said", [b"", b"no line ever ends", b"* 1 FETCH (UID 4 BODY[] {99}\r\ntoo short", b"* OK\r\n" * 9]
)
async def test_an_answer_that_never_comes_is_waited_for_no_longer_than_configured(said: bytes) -> None:
    async with scripted(lambda line: said if line.startswith("UID FETCH") else simple(line)) as (port, _):
        with pytest.raises(Transient, match="TimeoutError"):
            await Notices(config(port=port, timeout=0.4)).fetch(None, now=NOW)


@pytest.mark.parametrize("greeting", [b"* BYE full\r\n", b"* PREAUTH hello\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_greeting_that_is_none_is_an_error(greeting: bytes) -> None:
    async with scripted(simple, greeting) as (port, asked):
        assert isinstance(await fails(Notices(config(port=port))), Transient)
        assert asked == []  # no password was sent


# The command line


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVIT_HOME", str(tmp_path))
    monkeypatch.setenv("IMAP_PASSWORD", "secret-of-a-test")
    return tmp_path


def set_up(home: Path, *stanzas: dict[str, Any]) -> None:
    base = config().model_dump(mode="json", exclude={"home", "password"}) | {"type": "notices"}
    connectors = [base | {"password": "$IMAP_PASSWORD"} | stanza for stanza in stanzas]
    (home / "kvit.yaml").write_text(json.dumps({"connectors": connectors}), encoding="utf-8")


def tried(*arguments: str) -> int:
    return cast(
        "int",
        app(["notices", "try", *arguments], exit_on_error=False, print_error=False, result_action="return_value"),
    )


def letter_file(name: str) -> str:
    return str(LETTERS / f"{name}.eml")


def test_a_saved_letter_is_tried_field_by_field(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(home, {})
    assert tried(letter_file("html-base64")) == 0
    shown = capsys.readouterr().out
    for said in ("paid", "amount", "1547.36", "UAH", "DH783023", "2014-11-07", "makes a payment"):
        assert said in shown
    assert list(home.iterdir()) == [home / "kvit.yaml"]


def test_why_a_letter_is_refused_is_said_with_what_was_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(home, {})
    assert tried(letter_file("no-order-number")) == 1
    shown = capsys.readouterr().out
    assert "order: it is not in the letter" in shown
    assert "1547.36" in shown


@pytest.mark.parametrize(
    ("name", "outcome", "code"),
    [
        ("html-base64", "payment", 0),
        ("dkim-failed", "refused", 1),
        ("newsletter", "nothing", 1),
        ("other-sender", "nothing", 1),
    ],
)
def test_scripts_are_told_in_json(
    home: Path, capsys: pytest.CaptureFixture[str], name: str, outcome: str, code: int
) -> None:
    set_up(home, {})
    assert tried(letter_file(name), "--json") == code
    said = json.loads(capsys.readouterr().out)
    assert said["outcome"] == outcome
    assert bool(said["reasons"]) is (code == 1)
    assert "text" not in said


def test_a_hint_says_who_would_be_asked_about_what(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(home, {"name": "one"}, {"name": "two", "gateway": "wayforpay"})
    assert tried(letter_file("html-base64"), "--connector", "two", "--text", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["connector"], said["outcome"]) == ("two", "hint")
    assert said["gateway"] == {"connector": "wayforpay", "reference": "DH783023"}
    assert "Замовлення\tDH783023" in said["text"]


def test_wrong_use_is_said(home: Path, tmp_path: Path) -> None:
    with pytest.raises(Wrong, match="no connector of type notices"):
        tried(letter_file("html-base64"))
    set_up(home, {"name": "one"}, {"name": "two"})
    with pytest.raises(Wrong, match="--connector: one, two"):
        tried(letter_file("html-base64"))
    with pytest.raises(Wrong, match="there is one, two"):
        tried(letter_file("html-base64"), "--connector", "camt")
    with pytest.raises(Wrong, match="no such file"):
        tried(str(tmp_path / "none.eml"), "--connector", "one")
    (tmp_path / "empty.eml").write_bytes(b"\n")
    with pytest.raises(Wrong, match="empty"):
        tried(str(tmp_path / "empty.eml"), "--connector", "one")
