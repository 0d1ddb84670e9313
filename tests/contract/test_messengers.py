"""What every messenger keeps to, and what a Maildir and an SMTP server each add; SMTP goes over real sockets."""

from __future__ import annotations

import asyncio
import mailbox
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from connectors import load
from connectors.errors import Misconfigured, Rejected, Transient
from connectors.mail import build, message_id
from connectors.maildir import Maildir, MaildirConfig
from connectors.roles import Attachment, Checked, Messenger, OutgoingMessage
from connectors.smtp import Smtp, SmtpConfig

NOW = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
RECIPIENT = "jana.novakova@example.net"
PASSWORD = "correct horse battery"
MESSAGE = OutgoingMessage(
    message_id=message_id("cz/10042/paid", "payment_received", "shop.example"),
    sender="obchod@shop.example",
    sender_name="Čajovna U Lípy",
    recipient=RECIPIENT,
    subject="Platbu za objednávku 10042 jsme přijali — děkujeme, Vaše čajovna U Lípy na náměstí v Českém Krumlově",
    text="Dobrý den,\n\npřijali jsme 1\u00a0042,50 Kč.\n.\nDěkujeme.\n",
    html="<p>Dobrý den, přijali jsme <strong>1&nbsp;042,50 Kč</strong>.</p>",
    language="cs",
    date=NOW,
    attachments=(Attachment(name="faktura č. 1.pdf", content_type="application/pdf", data=b"%PDF-1.7 \x00\xff"),),
)


@dataclass
class Server:
    """A real SMTP server: what it was given, and how it answers next."""

    port: int = 0
    taken: list[bytes] = field(default_factory=list[bytes])
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list[tuple[str, list[str]]])
    recipient_answer: str = "250 OK"
    data_answer: str = "250 OK"
    cut_at_recipient: bool = False
    cut_after_data: bool = False
    silent_for: int = 0
    inside: int = 0
    inside_at_most: int = 0

    async def recipient(
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.cut_at_recipient:
            _cut(server)
        envelope.rcpt_tos.append(address)
        return self.recipient_answer

    async def data(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        self.inside += 1
        self.inside_at_most = max(self.inside, self.inside_at_most)
        try:
            assert isinstance(envelope.content, bytes)
            self.taken.append(envelope.content)
            self.envelopes.append((envelope.mail_from or "", [*envelope.rcpt_tos]))
            if self.cut_after_data:
                _cut(server)
            if len(self.taken) <= self.silent_for:
                await asyncio.Event().wait()
            return self.data_answer
        finally:
            self.inside -= 1


def _cut(server: SMTP) -> None:
    cast("asyncio.WriteTransport", server.transport).abort()


def _authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    del server, session, envelope, mechanism
    assert isinstance(data, LoginPassword)
    return AuthResult(success=data == LoginPassword(b"shop", PASSWORD.encode()), handled=False)


@asynccontextmanager
async def serving(
    *, tls: ssl.SSLContext | None = None, implicit: bool = False, login: bool = False
) -> AsyncGenerator[Server]:
    """Serve on a free port of this machine until the block ends."""
    loop = asyncio.get_running_loop()
    server = Server()

    def connection() -> SMTP:
        return SMTP(
            SimpleNamespace(handle_RCPT=server.recipient, handle_DATA=server.data),
            loop=loop,
            hostname="mail.example",
            tls_context=None if implicit else tls,
            require_starttls=tls is not None and not implicit,
            authenticator=_authenticate if login else None,
            auth_require_tls=not login,
        )

    listening = await loop.create_server(connection, "127.0.0.1", 0, ssl=tls if implicit else None)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await listening.wait_closed()


def smtp(home: Path, port: int, **settings: Any) -> Smtp:
    usual: dict[str, Any] = {"name": "smtp", "home": home, "host": "127.0.0.1", "port": port, "security": "none"}
    return Smtp(SmtpConfig(**usual | settings))


def parsed(content: bytes) -> EmailMessage:
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


@pytest.fixture
async def server() -> AsyncGenerator[Server]:
    async with serving() as running:
        yield running


@dataclass
class Way:
    """A messenger and a look at what arrived through it."""

    messenger: Any
    arrived: Callable[[], list[EmailMessage]]


@pytest.fixture(params=["maildir", "smtp"])
def way(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> Way:
    if request.param == "smtp":
        return Way(smtp(tmp_path, server.port), lambda: [parsed(content) for content in server.taken])
    files = tmp_path / "maildir" / "new"
    return Way(
        Maildir(MaildirConfig(name="maildir", home=tmp_path)),
        lambda: [parsed(file.read_bytes()) for file in files.glob("*")],
    )


# --- every messenger -------------------------------------------------------------------------------------------------


async def test_a_message_arrives_with_text_html_and_attachment(way: Way) -> None:
    await way.messenger.send(MESSAGE)

    (mail,) = way.arrived()
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert text.get_content().replace("\r\n", "\n") == MESSAGE.text
    assert html is not None
    assert html.get_content().strip() == MESSAGE.html
    (attachment,) = mail.iter_attachments()
    assert isinstance(attachment, EmailMessage)
    assert attachment.get_filename() == "faktura č. 1.pdf"
    assert attachment.get_content_type() == "application/pdf"
    assert attachment.get_content() == b"%PDF-1.7 \x00\xff"


async def test_a_message_carries_the_headers_it_was_given(way: Way) -> None:
    await way.messenger.send(MESSAGE)

    (mail,) = way.arrived()
    assert mail["Message-ID"] == MESSAGE.message_id
    assert mail["From"] == "Čajovna U Lípy <obchod@shop.example>"
    assert mail["To"] == RECIPIENT
    assert mail["Subject"] == MESSAGE.subject
    assert mail["Date"].datetime == NOW
    assert mail["Content-Language"] == "cs"
    assert mail["Auto-Submitted"] == "auto-generated"


async def test_a_messenger_returns_a_reference_and_says_that_it_works(way: Way) -> None:
    assert isinstance(way.messenger, Messenger)
    assert isinstance(way.messenger, Checked)
    assert way.messenger.can_look_up is isinstance(way.messenger, Maildir)
    assert await way.messenger.check()
    assert way.arrived() == []
    assert await way.messenger.send(MESSAGE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": "Paid\r\nBcc: everyone@example.net"},
        {"subject": "Paid\nBcc: everyone@example.net"},
        {"subject": "Paid\u2028Bcc: everyone@example.net"},
        {"sender_name": "Shop\r\nBcc: everyone@example.net"},
        {"language": "cs\r\nBcc: everyone@example.net"},
        {"message_id": "<1@shop.example>\r\nBcc: everyone@example.net"},
        {"attachments": (Attachment(name="a\r\nb", content_type="application/pdf", data=b""),)},
        {"attachments": (Attachment(name="a", content_type="application/pdf\r\nX: b", data=b""),)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_a_line_break_in_a_header_is_refused(way: Way, wrong: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as refusal:
        await way.messenger.send(replace(MESSAGE, **wrong))
    assert "everyone" not in str(refusal.value)
    assert way.arrived() == []


@pytest.mark.parametrize("end", [chr(letter) for letter in (*range(32), 0x7F, 0x85, 0x2028, 0x2029)], ids=ascii)
@pytest.mark.parametrize("name", ["subject", "sender_name"])
def test_no_line_end_of_any_script_and_no_control_character_gets_into_a_header(name: str, end: str) -> None:
    with pytest.raises(Rejected, match="a line break or a control character"):
        build(replace(MESSAGE, **{name: f"Paid{end}Bcc: everyone@example.net"}))


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "novakova",
        "novakova@",
        "@example.net",
        "novakova@example.net, other@example.net",
        "novakova@example.net other@example.net",
        "Jana <novakova@example.net>",
        "novakova@example.net\r\nBcc: other@example.net",
        "novakova@example.net>\r\nRCPT TO:<other@example.net",
        "novakova@exa mple.net",
        "novakova@-example.net",
        "nová@example.net",
        f"{'n' * 65}@example.net",
    ],
)
async def test_what_is_not_one_address_is_refused_without_repeating_it(way: Way, recipient: str) -> None:
    with pytest.raises(Rejected, match="recipient's address is not one e-mail address") as refusal:
        await way.messenger.send(replace(MESSAGE, recipient=recipient))
    assert "novakova" not in str(refusal.value)
    assert way.arrived() == []


async def test_a_domain_of_other_letters_is_written_in_ascii(way: Way) -> None:
    await way.messenger.send(replace(MESSAGE, recipient="olena@пошта.укр"))
    (mail,) = way.arrived()
    assert mail["To"] == "olena@xn--80a1acn3a.xn--j1amh"


def test_every_messenger_is_found_by_its_type(tmp_path: Path) -> None:
    made = load({"type": "maildir", "name": "maildir"}, home=tmp_path, where="kvit.yaml")
    assert isinstance(made, Messenger)
    made = load({"type": "smtp", "name": "mail", "host": "mail.example"}, home=tmp_path, where="kvit.yaml")
    assert isinstance(made, Messenger)
    made = load({"type": "smsapi", "name": "texts", "token": "t"}, home=tmp_path, where="kvit.yaml")
    assert isinstance(made, Messenger)
    account = {"account_sid": "AC" + "0" * 32, "auth_token": "t", "sender": "+420790000001"}
    made = load({"type": "twilio", "name": "texts", **account}, home=tmp_path, where="kvit.yaml")
    assert isinstance(made, Messenger)


# --- the message itself ----------------------------------------------------------------------------------------------


def test_a_message_id_is_the_same_for_the_same_order_and_template_and_no_other() -> None:
    assert message_id("cz/1", "proforma", "shop.example") == message_id("cz/1", "proforma", "shop.example")
    others = {
        message_id("cz/1", "proforma", "shop.example"),
        message_id("cz/2", "proforma", "shop.example"),
        message_id("cz/1", "invoice_issued", "shop.example"),
        message_id("cz/1p", "roforma", "shop.example"),
        message_id("cz/1", "proforma", "other.example"),
    }
    assert len(others) == 5


@pytest.mark.parametrize("domain", ["", "shop .example", "shop>.example", "shop.example\r\nX: y"])
def test_a_message_id_wants_a_domain(domain: str) -> None:
    with pytest.raises(Misconfigured):
        message_id("cz/1", "proforma", domain)


def test_a_long_message_id_is_not_broken_by_folding() -> None:
    long = message_id("cz/1", "proforma", f"{'shop-' * 11}a.{'example-' * 7}b.example")
    mail = parsed(build(replace(MESSAGE, message_id=long)).as_bytes())
    assert mail["Message-ID"] == long


def test_a_message_is_seven_bit_and_keeps_to_the_length_of_lines() -> None:
    content = build(MESSAGE).as_bytes()
    assert content.isascii()
    assert max(len(line) for line in content.split(b"\r\n")) <= 998


# --- Maildir ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    return Maildir(MaildirConfig(name="maildir", home=tmp_path))


async def test_the_same_message_written_twice_is_one_file(maildir: Maildir, tmp_path: Path) -> None:
    first = await maildir.send(MESSAGE)
    assert await maildir.send(replace(MESSAGE, subject="Again")) == first
    assert [str(path.relative_to(tmp_path)) for path in (tmp_path / "maildir").rglob("*.kvit")] == [first]


async def test_many_writers_of_the_same_message_leave_one_file(maildir: Maildir, tmp_path: Path) -> None:
    references = await asyncio.gather(*(maildir.send(MESSAGE) for _ in range(20)))
    assert len(set(references)) == 1
    assert len([path for path in (tmp_path / "maildir").rglob("*") if path.is_file()]) == 1


async def test_a_written_message_is_found_also_after_a_client_moved_it(maildir: Maildir, tmp_path: Path) -> None:
    assert await maildir.find(MESSAGE.message_id) is None
    reference = await maildir.send(MESSAGE)
    assert await maildir.find(MESSAGE.message_id) == reference
    assert await maildir.find("<another@shop.example>") is None

    box = mailbox.Maildir(tmp_path / "maildir")
    ((key, mail),) = box.iteritems()
    mail.set_subdir("cur")
    mail.set_flags("SR")
    box[key] = mail

    moved = await maildir.find(MESSAGE.message_id)
    assert moved is not None
    assert moved.startswith("maildir/cur/")
    assert moved.endswith(":2,RS")
    assert (tmp_path / moved).is_file()
    assert await maildir.send(MESSAGE) == moved


async def test_a_maildir_that_cannot_be_made_is_a_misconfiguration(maildir: Maildir, tmp_path: Path) -> None:
    (tmp_path / "maildir").write_text("a file stands in the way")
    for attempt in (maildir.check(), maildir.send(MESSAGE)):
        with pytest.raises(Misconfigured, match="maildir"):
            await attempt


# --- SMTP ------------------------------------------------------------------------------------------------------------


def _is_discreet(error: Exception) -> bool:
    told = "".join(str(part) for part in (error, error.__cause__))
    return not any(secret in told for secret in (RECIPIENT, "novakova", MESSAGE.sender, PASSWORD, "shop.example"))


async def test_the_envelope_names_sender_and_recipient(tmp_path: Path, server: Server) -> None:
    assert await smtp(tmp_path, server.port).send(MESSAGE) == MESSAGE.message_id
    assert server.envelopes == [(MESSAGE.sender, [RECIPIENT])]


async def test_another_sender_keeps_replies_coming_to_the_shop(tmp_path: Path, server: Server) -> None:
    await smtp(tmp_path, server.port, sender="robot@relay.example").send(MESSAGE)
    mail = parsed(server.taken[0])
    assert server.envelopes == [("robot@relay.example", [RECIPIENT])]
    assert mail["From"] == "Čajovna U Lípy <robot@relay.example>"
    assert mail["Reply-To"] == MESSAGE.sender


async def test_what_the_server_defers_is_tried_again(tmp_path: Path, server: Server) -> None:
    server.data_answer = f"451 4.3.0 <{RECIPIENT}> try again later"
    with pytest.raises(Transient, match=r"answered 451 4\.3\.0$") as failure:
        await smtp(tmp_path, server.port).send(MESSAGE)
    # It was about this message, so the server is not taken to be down.
    assert (failure.value.in_doubt, failure.value.busy) == (False, True)
    assert _is_discreet(failure.value)


@pytest.mark.parametrize("phase", ["recipient_answer", "data_answer"])
async def test_what_the_server_refuses_is_rejected(tmp_path: Path, server: Server, phase: str) -> None:
    setattr(server, phase, f"550 5.1.1 <{RECIPIENT}> user unknown")
    with pytest.raises(Rejected, match=r"answered 550 5\.1\.1$") as failure:
        await smtp(tmp_path, server.port).send(MESSAGE)
    assert _is_discreet(failure.value)


async def test_a_connection_cut_after_the_text_was_sent_leaves_it_in_doubt(tmp_path: Path, server: Server) -> None:
    server.cut_after_data = True
    with pytest.raises(Transient) as failure:
        await smtp(tmp_path, server.port).send(MESSAGE)
    assert failure.value.in_doubt
    assert len(server.taken) == 1
    assert _is_discreet(failure.value)


async def test_a_server_silent_after_the_text_leaves_it_in_doubt(tmp_path: Path, server: Server) -> None:
    server.silent_for = 1
    with pytest.raises(Transient) as failure:
        await smtp(tmp_path, server.port, timeout=1.0).send(MESSAGE)
    assert failure.value.in_doubt
    assert len(server.taken) == 1


async def test_a_connection_cut_before_the_text_leaves_nothing_in_doubt(tmp_path: Path, server: Server) -> None:
    server.cut_at_recipient = True
    with pytest.raises(Transient) as failure:
        await smtp(tmp_path, server.port).send(MESSAGE)
    assert not failure.value.in_doubt
    assert server.taken == []
    assert _is_discreet(failure.value)


async def test_no_server_there_is_transient(tmp_path: Path) -> None:
    async with serving() as gone:
        port = gone.port
    with pytest.raises(Transient) as failure:
        await smtp(tmp_path, port).check()
    assert not failure.value.in_doubt


async def test_a_server_that_turns_everyone_away_is_transient(tmp_path: Path) -> None:
    async def turn_away(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"421 4.3.2 closing for the night\r\n")
        writer.close()

    listening = await asyncio.start_server(turn_away, "127.0.0.1", 0)
    async with listening:
        with pytest.raises(Transient, match="answered 421") as failure:
            await smtp(tmp_path, listening.sockets[0].getsockname()[1]).send(MESSAGE)
    assert (failure.value.in_doubt, failure.value.busy) == (False, False)


async def test_the_right_login_is_accepted(tmp_path: Path) -> None:
    async with serving(login=True) as server:
        messenger = smtp(tmp_path, server.port, username="shop", password=PASSWORD)
        assert "accepted the login" in await messenger.check()
        await messenger.send(MESSAGE)
    assert len(server.taken) == 1


async def test_a_wrong_login_is_a_misconfiguration(tmp_path: Path) -> None:
    async with serving(login=True) as server:
        messenger = smtp(tmp_path, server.port, username="shop", password=PASSWORD + "!")
        for attempt in (messenger.check(), messenger.send(MESSAGE)):
            with pytest.raises(Misconfigured, match="answered 535") as failure:
                await attempt
            assert _is_discreet(failure.value)
    assert server.taken == []


async def test_a_missing_login_is_a_misconfiguration(tmp_path: Path, server: Server) -> None:
    server.recipient_answer = "530 5.7.0 Authentication required"
    with pytest.raises(Misconfigured, match=r"answered 530 5\.7\.0"):
        await smtp(tmp_path, server.port).send(MESSAGE)


async def test_a_login_that_the_server_does_not_offer_is_a_misconfiguration(tmp_path: Path, server: Server) -> None:
    with pytest.raises(Misconfigured, match="no login"):
        await smtp(tmp_path, server.port, username="shop", password=PASSWORD).check()


async def test_starttls_that_the_server_does_not_offer_is_a_misconfiguration(tmp_path: Path, server: Server) -> None:
    with pytest.raises(Misconfigured, match="STARTTLS"):
        await smtp(tmp_path, server.port, security="starttls").send(MESSAGE)
    assert server.taken == []


async def test_no_more_connections_are_open_at_once_than_allowed(tmp_path: Path, server: Server) -> None:
    server.silent_for = 2
    messenger = smtp(tmp_path, server.port, concurrent=2, timeout=1.5)
    await asyncio.gather(*(messenger.send(MESSAGE) for _ in range(4)), return_exceptions=True)
    assert len(server.taken) == 4
    assert server.inside_at_most == 2


def test_finding_a_message_by_smtp_is_never_answered_with_no(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError):
        asyncio.run(smtp(tmp_path, 25).find(MESSAGE.message_id))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"username": "shop"}, "go together"),
        ({"password": PASSWORD}, "go together"),
        ({"username": "shop", "password": PASSWORD, "host": "mail.example"}, "unencrypted"),
        ({"sender": "two@shop.example, addresses@shop.example"}, "not one e-mail address"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        smtp(tmp_path, 25, **settings)


# --- SMTP with TLS ---------------------------------------------------------------------------------------------------


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
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "mail.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(made.public_bytes(pem) + secret)
    return file


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_message_and_the_login_go_encrypted(
    tmp_path: Path, certificate: Path, tls: ssl.SSLContext, security: str
) -> None:
    async with serving(tls=tls, implicit=security == "tls", login=True) as server:
        account = {"username": "shop", "password": PASSWORD, "security": security}
        await smtp(tmp_path, server.port, ca_file=certificate, **account).send(MESSAGE)
    assert parsed(server.taken[0])["Message-ID"] == MESSAGE.message_id


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_that_nobody_vouches_for_is_a_misconfiguration(
    tmp_path: Path, tls: ssl.SSLContext, security: str
) -> None:
    async with serving(tls=tls, implicit=security == "tls") as server:
        with pytest.raises(Misconfigured, match="TLS certificate"):
            await smtp(tmp_path, server.port, security=security).send(MESSAGE)
    assert server.taken == []


async def test_a_certificate_file_that_is_none_is_named(tmp_path: Path, server: Server) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for file in ("ca.pem", "missing.pem"):
        with pytest.raises(Misconfigured, match="ca_file"):
            await smtp(tmp_path, server.port, security="tls", ca_file=file).check()
