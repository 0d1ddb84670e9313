"""A mailbox over IMAP (RFC 3501): as much of it as reading letters takes, bounded in size and time.

It is spoken here over asyncio, so that a wait for news (IDLE, RFC 2177) takes no thread and ends at once when it is
cancelled.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from connectors.errors import Misconfigured, OutsideError, Transient

_MAX_LINE_BYTES = 4 * 1024 * 1024
_MAX_ANSWER_BYTES = 32 * 1024 * 1024

_LITERAL = re.compile(rb"\{([0-9]{1,10})\+?\}\r\n\Z")
_COUNT = re.compile(rb"\* ([0-9]{1,10}) (EXISTS|EXPUNGE)\b", re.IGNORECASE)
_CODE = re.compile(rb"\[([A-Z-]+)(?: ([0-9]+))?", re.IGNORECASE)
# An atom may end in a section, which has spaces and parentheses of its own: BODY[HEADER.FIELDS (FROM)]<0>.
_TOKEN = re.compile(rb'\s*(?:([()])|"((?:[^"\\]|\\.)*)"|([^\s()"\[]*(?:\[[^\]]*\])?(?:[^\s()"]*)))')

# RFC 5530: what says that the server, not the login or the name of the folder, is the reason.
_NOT_NOW = frozenset({b"UNAVAILABLE", b"INUSE", b"LIMIT", b"SERVERBUG"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where a mailbox is and how it is entered; system is what error texts call it, timeout the seconds per answer."""

    system: str
    host: str
    port: int
    tls: ssl.SSLContext | None
    username: str
    password: str = field(repr=False)
    timeout: float


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that was opened. validity changes when its numbers (UIDs) mean other letters than before.

    next_uid is above every number that was given so far, 0 where the server doesn't say.
    """

    validity: int
    next_uid: int


class _Literal(bytes):
    """Bytes that came with their length in front."""

    __slots__ = ()


_Answer = list[bytes]
"""A line, as the pieces before, between and after its literals, with these."""


class _Refused(Exception):
    """The server answered NO or BAD; code is the one of RFC 5530, if it gave one."""

    def __init__(self, code: bytes) -> None:
        super().__init__()
        self.code = code


class Mailbox:
    """A session with the server; made by `session`."""

    def __init__(self, account: Account, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._account = account
        self._reader, self._writer = reader, writer
        self._tags = 0
        self._capabilities: frozenset[bytes] = frozenset()
        self._count = 0
        self._arrived = False

    @property
    def has_idle(self) -> bool:
        """Whether the server tells by itself what arrives."""
        return b"IDLE" in self._capabilities

    async def enter(self) -> None:
        """Greet the server and log in."""
        async with asyncio.timeout(self._account.timeout):
            greeting = (await self._answer())[0].upper()
        if not greeting.startswith(b"* OK"):
            raise Transient(f"{self._account.system}: the server is not at work")
        await self._ask_capabilities()
        try:
            await self._log_in()
        except _Refused as refused:
            if refused.code in _NOT_NOW:
                raise self._not_now() from None
            raise Misconfigured(
                f"{self._account.system}: the login was refused; are the username and password right?"
            ) from None
        await self._ask_capabilities()

    async def open(self, folder: str, *, to_write: bool = False) -> Folder:
        """Open a folder, by default such that nothing in it can change."""
        command = b"SELECT " if to_write else b"EXAMINE "
        self._count = 0
        try:
            answers = await self._command(command + _quoted(_utf7(folder)))
        except _Refused as refused:
            if refused.code in _NOT_NOW:
                raise self._not_now() from None
            raise Misconfigured(f"{self._account.system}: the folder can't be opened; is its name right?") from None
        self._arrived = False
        codes = {match[1].upper(): int(match[2] or 0) for one in answers if (match := _CODE.search(one[0]))}
        if b"UIDVALIDITY" not in codes:
            raise Transient(f"{self._account.system}: it says no UIDVALIDITY of the folder")
        return Folder(codes[b"UIDVALIDITY"], codes.get(b"UIDNEXT", 0))

    async def search(self, criteria: str) -> list[int]:
        """Return the numbers of the letters that fit, in ascending order."""
        found: set[int] = set()
        for answer in await self._asked(b"UID SEARCH " + criteria.encode("ascii")):
            words = b"".join(answer).split()
            if [word.upper() for word in words[:2]] == [b"*", b"SEARCH"]:
                found.update(int(word) for word in words[2:] if word.isdigit())
        return sorted(found)

    async def fetch(self, uids: Sequence[int], item: str) -> dict[int, bytes]:
        """Return one BODY item of each letter that is still there, by number."""
        found: dict[int, bytes] = {}
        if not uids:
            return found
        for answer in await self._asked(b"UID FETCH %b (UID %b)" % (_set(uids), item.encode("ascii"))):
            told = _items(answer)
            body = next((value for name, value in told.items() if name.startswith(b"BODY[")), None)
            if body is not None and (uid := told.get(b"UID", b"")).isdigit():
                found[int(uid)] = body
        return found

    async def flag(self, uids: Sequence[int], flag: str) -> None:
        """Set a flag on letters."""
        if uids:
            await self._asked(b"UID STORE %b +FLAGS.SILENT (%b)" % (_set(uids), flag.encode("ascii")))

    async def wait(self, *, renewal: float, interval: float) -> None:
        """Return when a letter has arrived in the open folder.

        Where the server doesn't tell by itself, it is asked each interval; where it does, the wait is renewed in time:
        a server may end a session in which nothing was said for 29 minutes.
        """
        while not self._arrived:
            if self.has_idle:
                await self._idle(renewal)
            else:
                await asyncio.sleep(interval)
                await self._asked(b"NOOP")

    async def leave(self) -> None:
        """Say goodbye."""
        async with asyncio.timeout(1):
            await self._send(b"LOGOUT")
            while not (await self._reader.readuntil(b"\r\n")).upper().startswith(b"* BYE"):
                pass

    async def _idle(self, seconds: float) -> None:
        async with asyncio.timeout(self._account.timeout):
            tag = await self._send(b"IDLE")
            while not (answer := await self._answer())[0].startswith(b"+"):
                if answer[0].startswith(tag):
                    raise Transient(f"{self._account.system}: it refused to tell of new letters", busy=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._arrived:
                    await self._answer()
        async with asyncio.timeout(self._account.timeout):
            self._writer.write(b"DONE\r\n")
            await self._writer.drain()
            await self._until(tag)

    async def _log_in(self) -> None:
        account = self._account
        if b"AUTH=PLAIN" in self._capabilities:
            secret = base64.b64encode(f"\0{account.username}\0{account.password}".encode())
            async with asyncio.timeout(account.timeout):
                tag = await self._send(b"AUTHENTICATE PLAIN")
                while not (answer := await self._answer())[0].startswith(b"+"):
                    if answer[0].startswith(tag):
                        raise _Refused(_code_of(answer[0]))
                self._writer.write(secret + b"\r\n")
                await self._writer.drain()
                await self._until(tag)
            return
        if b"LOGINDISABLED" in self._capabilities or not (account.username + account.password).isascii():
            raise Misconfigured(f"{account.system}: the server takes no password in a way that is known here")
        await self._command(
            b"LOGIN %b %b" % (_quoted(account.username.encode("ascii")), _quoted(account.password.encode("ascii")))
        )

    async def _ask_capabilities(self) -> None:
        told: set[bytes] = set()
        for answer in await self._asked(b"CAPABILITY"):
            words = answer[0].upper().split()
            if words[:2] == [b"*", b"CAPABILITY"]:
                told.update(words[2:])
        self._capabilities = frozenset(told)

    async def _asked(self, command: bytes) -> list[_Answer]:
        try:
            return await self._command(command)
        except _Refused:
            raise self._not_now() from None

    def _not_now(self) -> Transient:
        return Transient(f"{self._account.system}: the server refused, and may do it later", busy=True)

    async def _command(self, command: bytes) -> list[_Answer]:
        async with asyncio.timeout(self._account.timeout):
            return await self._until(await self._send(command))

    async def _send(self, command: bytes) -> bytes:
        self._tags += 1
        tag = b"K%d " % self._tags
        self._writer.write(tag + command + b"\r\n")
        await self._writer.drain()
        return tag

    async def _until(self, tag: bytes) -> list[_Answer]:
        """Return what is answered before the line that ends a command; raise _Refused if that says NO or BAD."""
        answers: list[_Answer] = []
        size = 0
        while True:
            answer = await self._answer()
            if answer[0].startswith(tag):
                if answer[0][len(tag) :].upper().startswith(b"OK"):
                    return answers
                raise _Refused(_code_of(answer[0]))
            size += sum(map(len, answer))
            if size > _MAX_ANSWER_BYTES:
                raise self._too_much()
            answers.append(answer)

    async def _answer(self) -> _Answer:
        """Read one line with its literals, and note what it tells by the way."""
        pieces = [await self._reader.readuntil(b"\r\n")]
        size = len(pieces[0])
        while match := _LITERAL.search(pieces[-1]):
            size += int(match[1])
            if size > _MAX_ANSWER_BYTES:
                raise self._too_much()
            pieces[-1] = pieces[-1][: match.start()]
            pieces += [_Literal(await self._reader.readexactly(int(match[1]))), await self._reader.readuntil(b"\r\n")]
            size += len(pieces[-1])
        if pieces[0][:5].upper() == b"* BYE":
            raise Transient(f"{self._account.system}: the server ended the session")
        if counted := _COUNT.match(pieces[0]):
            if counted[2].upper() == b"EXPUNGE":
                self._count -= 1
            else:
                self._arrived = self._arrived or int(counted[1]) > self._count
                self._count = int(counted[1])
        return pieces

    def _too_much(self) -> Transient:
        return Transient(f"{self._account.system}: it answers with more than can be read")


@asynccontextmanager
async def session(account: Account) -> AsyncGenerator[Mailbox]:
    """Log in to a mailbox for as long as it is used.

    Whatever fails in it, here or within, is raised as Transient or Misconfigured, without the server's own words.
    """
    with _translated(account.system):
        async with asyncio.timeout(account.timeout):
            reader, writer = await asyncio.open_connection(
                account.host, account.port, ssl=account.tls, limit=_MAX_LINE_BYTES
            )
        try:
            mailbox = Mailbox(account, reader, writer)
            await mailbox.enter()
            yield mailbox
            # What was read is read, whether the server says goodbye or not.
            with suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                await mailbox.leave()
        finally:
            writer.transport.abort()


@contextmanager
def _translated(system: str) -> Generator[None]:
    try:
        yield
    except OutsideError:
        raise
    except _Refused:
        raise Transient(f"{system}: the server refused, and may do it later", busy=True) from None
    except ssl.SSLCertVerificationError:
        raise Misconfigured(f"{system}: its TLS certificate was not accepted") from None
    except ssl.SSLError:
        raise Misconfigured(f"{system}: it doesn't speak TLS on this port") from None
    except (OSError, EOFError) as error:
        # TimeoutError is an OSError, IncompleteReadError an EOFError.
        raise Transient(f"{system}: no connection, or it was cut ({type(error).__name__})") from None
    except (asyncio.LimitOverrunError, ValueError) as error:
        raise Transient(f"{system}: no usable answer ({type(error).__name__})") from None


def _code_of(line: bytes) -> bytes:
    match = _CODE.search(line)
    return match[1].upper() if match else b""


def _set(uids: Iterable[int]) -> bytes:
    return b",".join(b"%d" % uid for uid in uids)


def _quoted(text: bytes) -> bytes:
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", text) + b'"'


def _utf7(folder: str) -> bytes:
    """Return a folder's name as IMAP writes it (RFC 3501, 5.1.3): what isn't ASCII is UTF-16 in a base64 of its own."""

    def written(match: re.Match[str]) -> str:
        coded = base64.b64encode(match[0].encode("utf-16-be"), b"+,").decode("ascii")
        return f"&{coded.rstrip('=')}-"

    return re.sub("[^ -~]+", written, folder.replace("&", "&-")).encode("ascii")


def _items(answer: _Answer) -> dict[bytes, bytes]:
    """Return the items of a line such as `* 3 FETCH (UID 7 BODY[] {5}…)` by name; lists among them are left out."""
    if not re.match(rb"\* [0-9]+ FETCH \(", answer[0], re.IGNORECASE):
        return {}
    names: list[bytes] = []
    values: list[bytes] = []
    depth = 0
    for token in _tokens(answer):
        if token == b"(" and not isinstance(token, _Literal):
            depth += 1
            if depth == 2:
                values.append(b"")
        elif token == b")" and not isinstance(token, _Literal):
            depth -= 1
        elif depth == 1:
            (names if len(names) == len(values) else values).append(token)
    return {name.upper(): value for name, value in zip(names, values, strict=False)}


def _tokens(answer: _Answer) -> Generator[bytes]:
    for piece in answer:
        if isinstance(piece, _Literal):
            yield piece
            continue
        at = 0
        while at < len(piece.rstrip()):
            match = _TOKEN.match(piece, at)
            if match is None or match.end() == at:
                raise ValueError("no token of IMAP's")
            at = match.end()
            if match[2] is not None:
                yield _Literal(re.sub(rb"\\(.)", rb"\1", match[2]))
            else:
                word = match[1] or match[3]
                yield b"" if word.upper() == b"NIL" else word
