"""Payment notices by e-mail: letters in a mailbox that say that somebody has paid, read by rules of the shop's own.

A letter is ours when its sender is one of `senders`. It is believed when our own mail server vouches for it: the
topmost `Authentication-Results` header (RFC 8601) must be `authserv_id`'s and say that the sender's domain signed the
letter (`dkim=pass`). That server must remove headers of its own name from what comes in, as section 5 there asks.
Letters of other senders mean nothing. One of ours that nobody vouches for, or that the rules can't read, waits for a
person.

Even a true letter is only a hint. With `gateway` the connector of that name is asked what is so; without it the letter
itself makes the payment, so it must be addressed to one of `recipients`: else a letter about a payment to somebody
else could be passed on to us.

The mailbox is read over IMAP with TLS from the first byte (RFC 8314), and nothing in it is changed, unless `flag` says
so. Which letters are new is known by their numbers, not by their being seen, so other people and programs may use the
mailbox too. Login is by username and password; OAuth 2 is not spoken.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal, Self
from warnings import catch_warnings, simplefilter

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from connectors import Config
from connectors.errors import Misconfigured, OutsideError, Rejected
from connectors.imap import Account, Folder, Mailbox, session
from connectors.letters import (
    MAX_BYTES,
    Letter,
    Unreadable,
    identity_of,
    one_line,
    read_letter,
    senders_of,
    signing_domains,
)
from connectors.mail import address
from connectors.roles import Hint, NoWebhooks, Page
from domain.money import Money, MoneyError, exponent
from domain.payments import IncomingPayment, Method

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

# A page of a poll: letters whose sender is looked at, letters that are taken, and their bytes.
_LOOKED_AT = 200
_TAKEN = 20
_TAKEN_BYTES = 8 * 1024 * 1024

# Bounded, since a header can be as long as its sender likes.
_FROM = "BODY.PEEK[HEADER.FIELDS (FROM)]<0.16384>"

_FIELDS = ("currency", "amount", "date", "order", "payment")
_FieldName = Literal["amount", "currency", "order", "date", "payment"]
_MAX_VALUE = {"amount": 40, "currency": 10, "order": 80, "date": 60, "payment": 120}
_MAX_VALUES = 50
_ABSENT = "it is not in the letter"
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_CURSOR = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([0-9a-f]{12})")

_CURRENCIES = {
    "грн": "UAH",
    "₴": "UAH",
    "руб": "RUB",
    "₽": "RUB",
    "kč": "CZK",
    "€": "EUR",
    "lei": "RON",
    "leu": "RON",
    "zł": "PLN",
    "ft": "HUF",
    "£": "GBP",
}


# Patterns

_MAX_PATTERN = 300
_MAX_WAYS = 2_000
_MAX_TIMES = 200
_MAX_DEPTH = 20
_NAMED = re.compile(r"\?P<(\w{1,20})>")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\\[]|\\.)*\]")
_ESCAPED = re.compile(r"\\(?:[dDwWsStn]|[^A-Za-z0-9])")
_EDGE = re.compile(r"\\[bB]|[\^$]")
_TIMES = re.compile(r"\{(?=[0-9,])([0-9]*)(,?)([0-9]*)\}")


class _PatternReader:
    r"""Reads the part of regular expressions that can never take long, and counts in how many ways it can fit.

    Looking for a pattern tries at most all of its ways from each place of a text, so their number, times the bound of
    the text, bounds the time. No clock does: what a letter means must not hang on how busy the machine is. A text never
    has two spaces or breaks in a row, so \s* is \s? there, and \s+ is \s.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0
        self.names: list[str] = []

    def ways(self) -> int:
        """Read the whole pattern; raises ValueError, in a sentence, for what could take long or isn't known here."""
        ways = self._alternatives()
        if self._at < len(self._pattern):
            raise self._refused()
        return ways

    def _alternatives(self) -> int:
        ways = self._row()
        while self._take("|"):
            ways += self._row()
        return ways

    def _row(self) -> int:
        ways = 1
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            if edge := _EDGE.match(self._pattern, self._at):
                self._at = edge.end()
                continue
            begin = self._at
            one = self._one()
            space = self._pattern[begin : self._at] == r"\s"
            ways = min(ways * self._repeated(one, space=space), _MAX_WAYS + 1)
        return ways

    def _one(self) -> int:
        if self._take("("):
            if named := _NAMED.match(self._pattern, self._at):
                self.names.append(named[1])
                self._at = named.end()
            else:
                self._take("?:")
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise ValueError(f"“{self._pattern}”: its groups are nested too deep")
            ways = self._alternatives()
            self._depth -= 1
            if not self._take(")"):
                raise self._refused()
            return ways
        for single in (_CLASS, _ESCAPED):
            if found := single.match(self._pattern, self._at):
                self._at = found.end()
                return 1
        if self._pattern[self._at] in "\\*+?{}[]()":
            raise self._refused()
        self._at += 1
        return 1

    def _repeated(self, one: int, *, space: bool) -> int:
        if self._take("?") or (space and (self._take("*") or self._take("+"))):
            least, most = 0, 1
        elif found := _TIMES.match(self._pattern, self._at):
            self._at = found.end()
            least = int(found[1] or 0)
            most = int(found[3] or _MAX_TIMES + 1) if found[2] else least
            if most > _MAX_TIMES:
                raise ValueError(
                    f"“{self._pattern}”: a repetition needs an end of at most {_MAX_TIMES}, as in {{1,20}}"
                )
        else:
            return one
        self._take("?")  # as few as possible: the same ways in another order
        return sum(min(one**times, _MAX_WAYS + 1) for times in range(least, most + 1))

    def _take(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _refused(self) -> ValueError:
        what = self._pattern[self._at : self._at + 1] or "the end"
        if what in "*+":
            return ValueError(
                f"“{self._pattern}”: “{what}” has no end; write such as {{0,20}}, or \\s{what} for spaces"
            )
        return ValueError(
            f"“{self._pattern}”: “{what}” can't be used here; write letters, digits, \\d \\w \\s, . for any letter, "
            "[classes], (groups), (?P<amount>named groups), |, ?, {4} and {1,20}, and a \\ before a sign that is meant "
            "as such"
        )


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE)


def _names_in(pattern: str) -> list[str]:
    """Check a pattern and return the names of its groups. Raises ValueError."""
    if not 0 < len(pattern) <= _MAX_PATTERN:
        raise ValueError(f"a pattern has 1 to {_MAX_PATTERN} characters")
    reader = _PatternReader(pattern)
    ways = reader.ways()
    try:
        with catch_warnings():
            simplefilter("error")  # what Python warns of may mean something else one day
            _compiled(pattern)
    except (re.error, OverflowError, Warning) as error:
        raise ValueError(f"“{pattern}” is not a regular expression: {error}") from None
    if ways > _MAX_WAYS:
        raise ValueError(f"“{pattern}” can fit a text in too many ways; write it with fewer or shorter repetitions")
    return reader.names


# Settings


class Rule(BaseModel):
    """How the notices of one kind are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=60, description="What error texts call the rule")
    subject: str = Field(
        default="", description="Pattern looked for in the subject: of what letters the rule is; empty: of all"
    )
    patterns: tuple[str, ...] = Field(
        min_length=1,
        max_length=20,
        description="Patterns looked for in the subject and the text, with groups named amount, currency, order, date "
        r"and payment, such as `Total:\s*(?P<amount>[\d ,]{1,15})\s*(?P<currency>\w{1,3})`",
    )
    optional: frozenset[_FieldName] = Field(
        default=frozenset(), description="Fields that a letter need not have, though there is a pattern for them"
    )
    decimal: Literal["auto", ".", ","] = Field(
        default="auto", description="Decimal separator of amounts; auto takes what can be read in one way only"
    )
    date_format: str = Field(default="%d.%m.%Y", description="As in strptime: %Y-%m-%d, %d.%m.%Y, …")

    @field_validator("subject")
    @classmethod
    def _is_a_pattern(cls, value: str) -> str:
        if value:
            _names_in(value)
        return value

    @field_validator("patterns")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            names = _names_in(pattern)
            if not names or set(names) - set(_FIELDS):
                raise ValueError(f"“{pattern}”: its groups must be named {', '.join(_FIELDS)}, as in (?P<amount>…)")
        return value

    @field_validator("date_format")
    @classmethod
    def _whole(cls, value: str) -> str:
        day = date(2024, 12, 31)
        try:
            whole = _day(day.strftime(value), value) == day
        except ValueError:
            whole = False
        if not whole:
            raise ValueError("it doesn't give day, month and year, as %d.%m.%Y does")
        return value

    @cached_property
    def fields(self) -> frozenset[str]:
        """What there are patterns for."""
        return frozenset(name for pattern in self.patterns for name in _names_in(pattern))


class NoticesConfig(Config):
    """A mailbox that payment notices arrive in, and how they are read."""

    host: str = Field(min_length=1, max_length=253, description="Name of the mail server")
    port: int = Field(default=993, ge=1, le=65535, description="Its port for IMAP")
    security: Literal["tls", "none"] = Field(default="tls", description="none is for a server on this machine only")
    ca_file: Path | None = Field(
        default=None, description="Certificates of a private authority, PEM, relative to KVIT_HOME"
    )
    username: str = Field(min_length=1, max_length=254, description="The mailbox's account")
    password: SecretStr = Field(
        description="Its password, or one made for this program alone where the server has such"
    )
    folder: str = Field(default="INBOX", min_length=1, max_length=200, description="Folder that is read")
    days: int = Field(default=3, ge=1, le=90, description="Days that the first poll looks back")
    flag: str | None = Field(
        default=None,
        pattern=r"^(\\Seen|\\Flagged|[A-Za-z0-9$_-]{1,40})$",
        description=r"Flag set on letters that were read, such as `\Seen`; a sign for people only",
    )
    idle_renewal: float = Field(
        default=540.0,
        gt=0,
        le=1680,
        description="Seconds after which the wait for news is renewed; less than the 29 minutes after which a server "
        "may end it, and than routers on the way forget it",
    )
    ask_every: float = Field(
        default=60.0, gt=0, le=1680, description="Seconds between two questions to a server that doesn't tell by itself"
    )
    timeout: float = Field(default=20.0, gt=0, le=40, description="Seconds to wait for each answer")
    senders: tuple[str, ...] = Field(
        min_length=1,
        max_length=20,
        description="Addresses that notices come from; `@pay.example` is every address of that domain",
    )
    authserv_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,253}$",
        description="The name by which our mail server begins its Authentication-Results headers",
    )
    signers: tuple[str, ...] = Field(
        default=(), max_length=20, description="Domains whose DKIM signature counts; the sender's own when left out"
    )
    trust_unsigned: bool = Field(
        default=False,
        description="Believe letters that nobody vouches for; then anybody can write one, so set `gateway` as well",
    )
    recipients: tuple[str, ...] = Field(
        default=(), max_length=20, description="Our addresses that notices are sent to (To); needed without `gateway`"
    )
    rules: tuple[Rule, ...] = Field(
        min_length=1, max_length=20, description="How letters are read; the first rule counts whose subject fits"
    )
    ignore: tuple[str, ...] = Field(
        default=(), max_length=50, description="Patterns of subjects of the senders' other letters, which mean nothing"
    )
    gateway: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
        description="Name of the connector that is asked what is so; a letter is then only a hint to it",
    )
    reference: Literal["order", "payment"] = Field(
        default="order", description="Which field is the reference that the gateway is asked about"
    )
    method: Method = Field(default=Method.CARD, description="How the money came, where the letter makes the payment")
    account: str | None = Field(default=None, description="What to call the account that the money arrives on")
    currency: str | None = Field(default=None, description="Currency of amounts where the letter says none")
    currencies: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="Further names of currencies, such as `$: USD`; `грн`, `Kč`, `lei`, `руб` and the like are known",
    )

    @field_validator("senders", "recipients")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_address(one) for one in value)

    @field_validator("signers")
    @classmethod
    def _are_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_address(f"@{one}")[1:] for one in value)

    @field_validator("ignore")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            _names_in(pattern)
        return value

    @field_validator("currencies")
    @classmethod
    def _are_currencies(cls, value: dict[str, str]) -> dict[str, str]:
        for code in value.values():
            exponent(code)
        return {_currency_word(word): code for word, code in value.items()}

    @field_validator("username", "password", "folder")
    @classmethod
    def _on_one_line(cls, value: str | SecretStr) -> str | SecretStr:
        text = value if isinstance(value, str) else value.get_secret_value()
        if not text or any(ord(letter) < 32 or letter == "\x7f" for letter in text):
            raise ValueError("it is empty, or there is a line break or another control character in it")
        return value

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.security == "none" and self.host not in _LOOPBACK:
            raise ValueError("a password is not sent unencrypted to another machine; set security to tls")
        if self.authserv_id is None and not self.trust_unsigned:
            raise ValueError("authserv_id is missing: without it there is no telling who has written a letter")
        if not (self.gateway or self.recipients or self.trust_unsigned):
            raise ValueError("recipients is missing: without a gateway, it tells our payments from other people's")
        return self

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.currency is not None:
            exponent(self.currency)
        for rule in self.rules:
            needed = {self.reference} if self.gateway else {"amount"}
            if not (self.gateway or self.currency):
                needed.add("currency")
            if missing := sorted(needed - rule.fields):
                raise ValueError(f"rule “{rule.name}”: no pattern has a group named {' or '.join(missing)}")
            if needed & rule.optional:
                raise ValueError(
                    f"rule “{rule.name}”: {' and '.join(sorted(needed & rule.optional))} can't be optional"
                )
        return self


def _address(value: str) -> str:
    """Return an address, or a domain with its at sign, as it is compared. Raises ValueError."""
    try:
        found = address("address", f"any{value}" if value.startswith("@") else value)
    except Rejected:
        raise ValueError(
            f"“{value}” is not an address such as notify@pay.example, nor a domain such as @pay.example"
        ) from None
    return ("" if value.startswith("@") else found.username.lower()) + f"@{found.domain.lower()}"


# What a letter says


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A field that a rule looks for: its value, as it is used, or what is wrong."""

    field: str
    value: str | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a letter came to.

    told is the payment or the hint that it makes. Where there is none, nothing says why the letter is no concern of
    ours, or problems why it is refused, in sentences that quote nothing of it.
    """

    external_id: str
    rule: str | None = None
    fields: tuple[Found, ...] = ()
    nothing: str = ""
    problems: tuple[str, ...] = ()
    told: IncomingPayment | Hint | None = None
    text: str = ""


class Notices(NoWebhooks):
    """A mailbox with payment notices, as a source that is polled."""

    no_webhooks = "this connector reads letters from its mailbox; it takes no webhooks"

    def __init__(self, config: NoticesConfig) -> None:
        self._config = config
        self._ignored = [_compiled(pattern) for pattern in config.ignore]
        self._rules = [(_compiled(rule.subject), rule) for rule in config.rules]
        self._patterns = {pattern: _compiled(pattern) for rule in config.rules for pattern in rule.patterns}
        # Another mailbox, or other senders, make another series: its letters were not looked at before.
        series = [config.host.lower(), config.username, config.folder, *sorted(config.senders)]
        self._series = hashlib.sha256("\n".join(series).encode()).hexdigest()[:12]
        self._looked_at: Folder | None = None

    async def check(self) -> str:
        """Log in and open the folder; raises Transient or Misconfigured."""
        async with self._session() as mailbox:
            await self._open(mailbox)
            idle = "tells by itself what arrives" if mailbox.has_idle else "has to be asked what has arrived"
        return f"{self._config.name}: the mailbox answers and accepts the login; its server {idle}"

    async def truth(self, body: bytes) -> list[IncomingPayment | Hint]:
        """Return what a stored letter means: a payment, a hint to the gateway, or nothing.

        Raises Rejected for a letter of ours that can't be believed, or in which something is missing.
        """
        # Taking a large letter apart takes a while.
        reading = await asyncio.to_thread(self.examine, body)
        if reading.problems:
            raise Rejected(f"{self._config.name}: {'; '.join(reading.problems)}")
        return [reading.told] if reading.told is not None else []

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return up to 20 letters of our senders after a cursor, the oldest first.

        The cursor is `<UIDVALIDITY>:<UID>:<series>` of the last letter looked at. Where the folder was made anew, or
        the settings name another one, it starts over, as many days back as configured; a letter that was taken before
        has the same id again, which is made of the letter itself. Raises Transient or Misconfigured.
        """
        async with self._session() as mailbox:
            folder = await self._open(mailbox)
            last = self._last(cursor, folder)
            if last is None:
                since = now - timedelta(days=self._config.days)
                waiting = await mailbox.search(f"SINCE {since.day}-{_MONTHS[since.month - 1]}-{since.year}")
                last = max(folder.next_uid - 1, 0) or max(await mailbox.search("UID *"), default=0)
            else:
                # A range that ends in * always has the last letter in it, even one before its beginning.
                waiting = [uid for uid in await mailbox.search(f"UID {last + 1}:*") if uid > last]
            looked_at = waiting[:_LOOKED_AT]
            headers = await mailbox.fetch(looked_at, _FROM)
            events: list[tuple[str, bytes]] = []
            taken: list[int] = []
            size = 0
            more = len(waiting) > len(looked_at)
            for place, uid in enumerate(looked_at):
                if len(taken) >= _TAKEN or size >= _TAKEN_BYTES:
                    looked_at, more = looked_at[:place], True
                    break
                if uid in headers and any(_fits(one, self._config.senders) for one in senders_of(headers[uid])):
                    for body in (await mailbox.fetch([uid], f"BODY.PEEK[]<0.{MAX_BYTES}>")).values():
                        events.append((identity_of(body), body))
                        size += len(body)
                        taken.append(uid)
            if self._config.flag:
                # What was read is read, whether the sign for people can be set or not.
                with suppress(OutsideError, OSError, EOFError):
                    await mailbox.flag(taken, self._config.flag)
            if not more:
                self._looked_at = folder
        last = looked_at[-1] if more else max([last, *waiting])
        return Page(tuple(events), f"{folder.validity}:{last}:{self._series}", more)

    async def news(self) -> None:
        """Return when a letter may have arrived since the last poll; raises Transient or Misconfigured."""
        async with self._session() as mailbox:
            folder = await self._open(mailbox)
            # What arrived before the wait began is never announced by the server.
            if folder != self._looked_at:
                self._looked_at = folder
                return
            await mailbox.wait(renewal=self._config.idle_renewal, interval=self._config.ask_every)

    def examine(self, body: bytes) -> Reading:
        """Read a letter by the rules, whoever wrote it, and say what it comes to; never raises for what it says."""
        try:
            letter = read_letter(body)
        except Unreadable as error:
            return Reading(external_id=identity_of(body), problems=(f"the letter can't be read: {error}",))
        problems = self._doubts(letter)
        nothing = ""
        if not any(_fits(one, self._config.senders) for one in letter.named_senders):
            nothing = "its sender is none of those configured"
        elif any(pattern.search(letter.subject) for pattern in self._ignored):
            nothing = "its subject is one of those ignored"
        rule = next((rule for subject, rule in self._rules if subject.search(letter.subject)), None)
        told: IncomingPayment | Hint | None = None
        found: dict[str, Found] = {}
        if rule is None:
            problems.append("no rule fits its subject; add one, or a pattern to ignore such letters by")
        else:
            found = self._fields(letter, rule)
            told, missing = self._told(letter, rule, found)
            problems += missing
        return Reading(
            external_id=letter.identity,
            rule=rule.name if rule else None,
            fields=tuple(found.values()),
            nothing=nothing,
            problems=() if nothing else tuple(problems),
            told=None if nothing or problems else told,
            text="\n\n".join(_texts(letter)),
        )

    def _doubts(self, letter: Letter) -> list[str]:
        """Return why a letter that claims to be of our sender can't be believed."""
        config = self._config
        if letter.sender is None:
            return ["its From header doesn't name exactly one sender"]
        doubts = [
            f"its header {name} is there more than once, so one of them may be forged" for name in letter.repeated
        ]
        if not config.trust_unsigned:
            domain = letter.sender.rpartition("@")[2]
            told = letter.authentication
            signers = signing_domains(told, config.authserv_id or "") if told else None
            if told is None:
                doubts.append("no mail server says whether its sender signed it (there is no Authentication-Results)")
            elif signers is None:
                doubts.append(
                    "its topmost Authentication-Results header isn't our mail server's (authserv_id), or is broken"
                )
            elif not (signers & set(config.signers) if config.signers else _signed_for(domain, signers)):
                doubts.append("our mail server doesn't say dkim=pass for its sender's domain, so it may be forged")
        if config.recipients and not any(_fits(one, config.recipients) for one in letter.recipients):
            doubts.append("it is addressed to none of our recipients, so it may be about somebody else's payment")
        return doubts

    def _fields(self, letter: Letter, rule: Rule) -> dict[str, Found]:
        """Return what the rule looks for, each field by name."""
        raw: dict[str, dict[str, None]] = {name: {} for name in _FIELDS if name in rule.fields}
        for text in _texts(letter):
            for pattern in rule.patterns:
                for match in self._patterns[pattern].finditer(text):
                    for name, value in match.groupdict().items():
                        if value and value.strip() and len(raw[name]) < _MAX_VALUES:
                            raw[name][one_line(value)] = None
        found: dict[str, Found] = {}
        for name, values in raw.items():
            currency = found["currency"].value if "currency" in found else None
            found[name] = self._one(name, values, rule, currency or self._config.currency)
        return found

    def _one(self, name: str, values: Iterable[str], rule: Rule, currency: str | None) -> Found:
        """Return the one value that a field has: however often a letter says it, it must always be the same.

        What a customer wrote may be in the letter too, so a second value could be his.
        """
        try:
            read = {self._value(name, value, rule, currency) for value in values}
        except ValueError as error:
            return Found(field=name, problem=str(error))
        if len(read) > 1:
            return Found(field=name, problem="the letter says it several times, and not always the same")
        return Found(field=name, value=next(iter(read), None), problem="" if read else _ABSENT)

    def _value(self, name: str, text: str, rule: Rule, currency: str | None) -> str:
        """Return a value as it is used. Raises ValueError, in a sentence that doesn't quote it."""
        if len(text) > _MAX_VALUE[name]:
            raise ValueError(f"it is longer than {_MAX_VALUE[name]} characters")
        match name:
            case "amount":
                return _amount(text, rule.decimal, currency)
            case "currency":
                return _currency(text, _CURRENCIES | self._config.currencies)
            case "date":
                try:
                    return _day(text, rule.date_format).isoformat()
                except ValueError:
                    raise ValueError(f"it is not a date written as {rule.date_format}") from None
            case _:
                return text

    async def _open(self, mailbox: Mailbox) -> Folder:
        return await mailbox.open(self._config.folder, to_write=self._config.flag is not None)

    def _session(self) -> AbstractAsyncContextManager[Mailbox]:
        config = self._config
        return session(
            Account(
                system=config.name,
                host=config.host,
                port=config.port,
                tls=self._tls if config.security == "tls" else None,
                username=config.username,
                password=config.password.get_secret_value(),
                timeout=config.timeout,
            )
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._config.ca_file is not None:
            try:
                context.load_verify_locations(self._config.home / self._config.ca_file)
            except (OSError, ssl.SSLError):
                raise Misconfigured(f"{self._config.name}: ca_file can't be read, or has no PEM certificate") from None
        return context

    def _last(self, cursor: str | None, folder: Folder) -> int | None:
        """Return the number that a cursor holds, if it is of this folder and of these senders."""
        match = _CURSOR.fullmatch(cursor or "")
        if match is None or (int(match[1]), match[3]) != (folder.validity, self._series):
            return None
        return int(match[2])

    def _told(
        self, letter: Letter, rule: Rule, found: Mapping[str, Found]
    ) -> tuple[IncomingPayment | Hint | None, list[str]]:
        """Return what a letter makes, or what is missing for that."""
        config = self._config
        needed = {config.reference} if config.gateway else set(found) - rule.optional
        missing = [
            f"{one.field}: {one.problem} (rule “{rule.name}”)"
            for one in found.values()
            if one.problem and (one.field in needed or (not config.gateway and one.problem != _ABSENT))
        ]
        values = {name: one.value for name, one in found.items() if one.value is not None}
        if missing:
            return None, missing
        if config.gateway:
            return Hint(connector=config.gateway, reference=values[config.reference], external_id=letter.identity), []
        amount = Money.parse(values["amount"], values.get("currency") or config.currency or "")
        booked_on = date.fromisoformat(values["date"]) if "date" in values else letter.sent_on
        if booked_on is None:
            return None, [f"date: neither the text nor the letter's own Date says it (rule “{rule.name}”)"]
        return IncomingPayment(
            source=f"notices:{config.name}",
            external_id=values.get("payment", letter.identity),
            method=config.method,
            amount=amount,
            booked_on=booked_on,
            account=config.account,
            provider_reference=values.get("payment"),
            order_reference=values.get("order"),
        ), []


def _fits(found: str, wanted: Iterable[str]) -> bool:
    """Say whether an address is one of some, of which those that begin with an at sign are whole domains."""
    return any(found == one or (one.startswith("@") and found.endswith(one)) for one in wanted)


def _signed_for(domain: str, signers: Iterable[str]) -> bool:
    """Say whether a domain, or one that it is a part of, has signed."""
    return any(domain == one or ("." in one and domain.endswith(f".{one}")) for one in signers)


def _texts(letter: Letter) -> list[str]:
    """Return what patterns are looked for in: the subject and what the letter shows, once for each of its forms."""
    return [f"{letter.subject}\n{text}" for text in (letter.plain, letter.html) if text] or [letter.subject]


def _day(text: str, form: str) -> date:
    return date(*time.strptime(text, form)[:3])


def _currency_word(text: str) -> str:
    return text.casefold().strip(" .")


def _currency(text: str, known: Mapping[str, str]) -> str:
    word = _currency_word(text)
    code = known.get(word, word.upper())
    try:
        exponent(code)
    except MoneyError:
        raise ValueError("it is no currency that is known here; add it to currencies") from None
    return code


def _number(decimal: str) -> re.Pattern[str]:
    other = "," if decimal == "." else "."
    grouped = rf"[0-9]{{1,3}}(?P<gap>[ '’{other}])[0-9]{{3}}(?:(?P=gap)[0-9]{{3}}){{0,4}}"
    # Czech amounts may end in a dash where there are no hellers.
    return re.compile(rf"(?P<whole>{grouped}|[0-9]{{1,15}})(?:\{decimal}(?:(?P<fraction>[0-9]{{1,4}})|[-–—]{{1,2}}))?")


_NUMBERS = {decimal: _number(decimal) for decimal in (".", ",")}


def _amount(text: str, decimal: str, currency: str | None) -> str:
    """Return an amount in major units with a dot. Raises ValueError for what is none, or could be two."""
    if currency is None:
        raise ValueError("its currency isn't known")
    read: set[Money] = set()
    for sign in ".," if decimal == "auto" else decimal:
        if match := _NUMBERS[sign].fullmatch(text):
            whole = re.sub("[^0-9]", "", match["whole"])
            # What is finer than the currency's smallest unit was not meant so.
            with suppress(MoneyError):
                read.add(Money.parse(f"{whole}.{match['fraction'] or '0'}", currency))
    if len(read) > 1:
        raise ValueError("it can be read in two ways; set the rule's decimal")
    if not read or not any(read):
        raise ValueError("it is not an amount above zero, written as 1 547,36 or 1547.36")
    return read.pop().amount


CONFIG = NoticesConfig
CONNECTOR = Notices
