"""Messages through an SMTP server (RFC 5321), as a mail client submits them.

A server can't be asked whether it took a message, so one whose answer got lost stays in doubt.
"""

from __future__ import annotations

import re
import ssl
from asyncio import Semaphore
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import aiosmtplib
from pydantic import Field, SecretStr, field_validator, model_validator

from connectors import Config
from connectors.errors import Misconfigured, OutsideError, Rejected, Transient
from connectors.mail import address, build
from connectors.observed import Call
from connectors.pacing import its_turn, turn
from connectors.roles import OutgoingMessage

# RFC 4954, 6: credentials are wanted, too weak, wrong, or need encryption.
_CREDENTIALS = frozenset({530, 534, 535, 538})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# RFC 3463: the part of an answer that never has an address in it.
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")


class SmtpConfig(Config):
    """A mail server and the account on it."""

    host: str
    port: int = Field(default=587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="starttls is usual on port 587, tls on 465, none only for this machine"
    )
    username: str | None = None
    password: SecretStr | None = None
    timeout: float = Field(default=20.0, gt=0, le=40, description="Seconds to wait for each answer")
    sender: str | None = Field(
        default=None, description="Address to send from instead of the shop's, to which replies still go"
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates of a private authority, PEM, relative to KVIT_HOME"
    )
    concurrent: int = Field(default=4, ge=1, le=100, description="Connections at once")

    @field_validator("sender")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        try:
            return value and address("sender", value).addr_spec
        except Rejected:
            raise ValueError("is not one e-mail address") from None

    @model_validator(mode="after")
    def _credentials_are_safe(self) -> SmtpConfig:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together; give both or neither")
        if self.username is not None and self.security == "none" and self.host not in _LOOPBACK:
            raise ValueError("a password is not sent unencrypted to another machine; set security to starttls or tls")
        return self


class Smtp:
    """Sends each message over a connection of its own; a reference is the message's Message-ID."""

    can_look_up = False

    def __init__(self, config: SmtpConfig) -> None:
        self._config = config
        self._slots = Semaphore(config.concurrent)
        self._own_name: str | None = None

    async def send(self, message: OutgoingMessage) -> str:
        """Hand a message to the server.

        Raises Transient (in doubt when the text was sent and no answer came), Rejected or Misconfigured.
        """
        sender = self._config.sender
        built = build(replace(message, sender=sender) if sender else message)
        if sender:
            built["Reply-To"] = address("sender's address", message.sender)
        recipient = address("recipient's address", message.recipient).addr_spec
        async with self._session() as client:
            with self._translated(Rejected):
                await client.mail(address("sender's address", sender or message.sender).addr_spec)
                await client.rcpt(recipient)
            with self._translated(Rejected, in_doubt=True):
                await client.data(built.as_bytes())
        return message.message_id

    async def find(self, message_id: str) -> str | None:
        """Refuse to answer: SMTP has no way to ask for a message that was sent."""
        raise NotImplementedError(f"{self._config.name}: an SMTP server can't be asked for a message")

    async def check(self) -> str:
        """Log in and say hello."""
        async with self._session() as client:
            with self._translated(Misconfigured):
                await client.noop()
        login = "and accepted the login" if self._config.username else "without a login"
        return f"{self._config.name}: {self._config.host}:{self._config.port} answered {login}"

    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[aiosmtplib.SMTP]:
        config = self._config
        await turn(config.name)
        async with its_turn(config.name, self._slots), Call(config.name):
            client = aiosmtplib.SMTP(
                hostname=config.host,
                port=config.port,
                timeout=config.timeout,
                use_tls=config.security == "tls",
                start_tls=config.security == "starttls",
                tls_context=None if config.security == "none" else self._tls,
                local_hostname=self._own_name,
            )
            try:
                with self._translated(Misconfigured):
                    await client.connect()
                    # Asking the resolver for this machine's name can be slow, so it is asked once.
                    self._own_name = client.local_hostname
                    if config.username is not None and config.password is not None:
                        await client.login(config.username, config.password.get_secret_value())
                yield client
                # What was taken is taken, whether the server says goodbye or not.
                with suppress(aiosmtplib.SMTPException, OSError):
                    await client.quit()
            finally:
                client.close()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._config.ca_file is not None:
            try:
                context.load_verify_locations(self._config.home / self._config.ca_file)
            except (OSError, ssl.SSLError):
                raise Misconfigured(f"{self._config.name}: ca_file can't be read, or has no PEM certificate") from None
        return context

    @contextmanager
    def _translated(self, refused: type[OutsideError], *, in_doubt: bool = False) -> Generator[None]:
        """Turn SMTP's failures into our errors; refused is what a 5xx means at this point of the conversation.

        The server's own words are left out, and not chained either: they repeat addresses.
        """
        name = self._config.name
        try:
            yield
        except aiosmtplib.SMTPConnectResponseError as error:
            raise Transient(f"{name}: the server is not at work, it answered {error.code}") from None
        except aiosmtplib.SMTPResponseException as error:
            raise _answered(name, error, refused, in_doubt=in_doubt) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            if refused is Misconfigured and (wrong := _wrong_security(error)):
                raise Misconfigured(f"{name}: {wrong}") from None
            said = "no answer" if in_doubt else "no connection, or it was cut"
            raise Transient(f"{name}: {said} ({type(error).__name__})", in_doubt=in_doubt) from None


def _wrong_security(error: Exception) -> str | None:
    """Say what is wrong with the encryption or the login that was asked for, if that is why no session came about."""
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return "its TLS certificate was not accepted, or it doesn't speak TLS on this port"
    if isinstance(error, OSError):
        return None
    return "it doesn't offer STARTTLS, or no login this way; look at port, security and username"


def _answered(
    name: str, error: aiosmtplib.SMTPResponseException, refused: type[OutsideError], *, in_doubt: bool
) -> OutsideError:
    code = error.code
    detail = _ENHANCED.match(str(error.message))
    said = f"{name}: answered {code}" + (f" {detail[0]}" if detail else "")
    if code in _CREDENTIALS:
        return Misconfigured(f"{said}; are the username and password right?")
    if 500 <= code < 600:
        return refused(said)
    # Anything but a clear 4xx is no answer that says what became of the message.
    # A 4xx other than 421 is about one message or one mailbox (greylisting, a full one): the server is at work.
    clear = 400 <= code < 500
    return Transient(said, in_doubt=in_doubt and not clear, busy=clear and code != 421)


CONFIG = SmtpConfig
CONNECTOR = Smtp
