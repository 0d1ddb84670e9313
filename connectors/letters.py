"""Letters (RFC 5322) as they were delivered: who sent them, who vouches for that, and the text that they show."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.policy import Compat32
from email.utils import parsedate_to_datetime
from typing import Any, cast

# lxml comes without types.
from lxml import etree as _etree  # pyright: ignore[reportMissingTypeStubs, reportAttributeAccessIssue, reportUnknownVariableType]

etree = cast("Any", _etree)

MAX_BYTES = 1024 * 1024
"""What is taken of a letter; the rest of a longer one, which is attachments as a rule, is left."""
MAX_TEXT = 32_768
"""Characters that are read of what a letter shows."""

_MAX_HEADER = 8_192
_MAX_SUBJECT = 500
_MAX_PARTS = 100
_MAX_MARKUP = 512 * 1024

# RFC 5322, 3.6, and RFC 2045, 3. Of several, DKIM signs the last, and a reader may go by another.
_AT_MOST_ONE = ("From", "To", "Subject", "Date", "Message-ID", "Content-Type", "Content-Transfer-Encoding")

# Codecs of Python's that no letter is written in, and that take long or do something else than decode.
_NO_CHARSETS = frozenset({"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem"})

_WORD = r"[^\s<>()\[\],;:\\\"@]"
_ADDRESS = re.compile(rf"{_WORD}{{1,64}}@{_WORD}{{1,255}}")
_ONE_MAILBOX = re.compile(
    rf'(?:"(?:[^"\\]|\\.)*"|[^<>",;:])*<\s*(?P<angled>{_ADDRESS.pattern})\s*>'
    rf"|(?P<bare>{_ADDRESS.pattern})(?:\s+\([^()]*\))?"
)


class Unreadable(ValueError):
    """What can't be read as a letter; its text says why, in a sentence that quotes nothing."""


class _AsItCame(Compat32):
    """Header values as they were sent, up to a bound; decoding them is left to those who know what they are."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        del name
        return value[:_MAX_HEADER]


_POLICY = _AsItCame()


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A letter. Addresses are in lower case.

    identity is made of what the letter is, not of where it lies: a copy, or the same letter delivered twice, has the
    same. sender is None where it isn't exactly one; named_senders are then all that the header could mean. repeated are
    headers that are there more than once, though a letter has one at most. plain and html are what it shows, in the
    forms in which it shows it.
    """

    identity: str
    sender: str | None
    named_senders: tuple[str, ...]
    recipients: tuple[str, ...]
    repeated: tuple[str, ...]
    subject: str
    sent_on: date | None
    plain: str
    html: str
    authentication: str | None
    """The topmost Authentication-Results: headers further down may be the sender's own."""


def read_letter(data: bytes) -> Letter:
    """Read a letter from its bytes. Raises Unreadable."""
    data = data[:MAX_BYTES]
    try:
        message = message_from_bytes(data, policy=_POLICY)
        plain, html = _shown(message)
    except RecursionError:
        raise Unreadable("its parts are nested too deep") from None
    senders = _headers(message, "From")
    sender, named = _sender(senders)
    return Letter(
        identity=identity_of(data),
        sender=sender,
        named_senders=named,
        # A signature covers what was there when it was made, so whoever passes a letter on could add a Cc.
        recipients=tuple(found for value in _headers(message, "To") for found in _recipients(value)),
        repeated=tuple(name for name in _AT_MOST_ONE if len(message.get_all(name, [])) > 1),
        subject=one_line(_decoded(next(iter(_headers(message, "Subject")), "")))[:_MAX_SUBJECT],
        sent_on=_day(next(iter(_headers(message, "Date")), "")),
        plain=plain,
        html=html,
        authentication=next(iter(_headers(message, "Authentication-Results")), None),
    )


def senders_of(header: bytes) -> tuple[str, ...]:
    """Return every address that a letter's From header could mean, of its header section or a part of it."""
    return _sender(_headers(message_from_bytes(header[:MAX_BYTES], policy=_POLICY), "From"))[1]


def _headers(message: Message[Any, Any], name: str) -> list[str]:
    """Return the values of a header, unfolded; what is not ASCII in them is UTF-8, as a rule."""
    found: list[str] = []
    for value in message.get_all(name, []):
        raw = str(value).encode("ascii", "surrogateescape")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        found.append(re.sub(r"[\r\n]+(?=[ \t])", "", text).strip())
    return found


def _sender(values: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the one sender, if there is exactly one, and all addresses that the headers could mean."""
    named = tuple(dict.fromkeys(found.lower() for value in values for found in _ADDRESS.findall(value)))
    match = _ONE_MAILBOX.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        return None, named
    one = str(match["angled"] or match["bare"]).lower()
    # A name can be written like an address; only what the header means counts, once that is clear.
    return one, (one,)


def _recipients(value: str) -> Iterator[str]:
    """Yield the addresses of a header; a name may be anybody's choice, so an address in one doesn't count."""
    for one in re.sub(r'"(?:[^"\\]|\\.)*"', " ", value).split(","):
        if match := _ONE_MAILBOX.fullmatch(one.strip()):
            yield str(match["angled"] or match["bare"]).lower()


def identity_of(data: bytes) -> str:
    """Return a digest of what the sender wrote, by which a letter is known again; never raises.

    Message-IDs may be missing, and some senders repeat them; the headers of transport differ from copy to copy.
    """
    header, *body = re.split(rb"\r?\n\r?\n", data[:MAX_BYTES], maxsplit=1)
    message = message_from_bytes(header, policy=_POLICY)
    parts = [" ".join(_headers(message, name)) for name in ("Message-ID", "Date", "From", "Subject")]
    told = [" ".join(part.split()).encode() for part in parts]
    told.append(b"\n".join(b"".join(body).splitlines()).strip())
    return hashlib.sha256(b"".join(b"%d:%b," % (len(part), part) for part in told)).hexdigest()[:40]


def _day(value: str) -> date | None:
    """Return the day that a Date header says, where it was sent."""
    try:
        return parsedate_to_datetime(value).date()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _decoded(value: str) -> str:
    """Decode a header of RFC 2047."""
    try:
        pieces = decode_header(value)
    except (HeaderParseError, ValueError):
        return value
    return "".join(
        _text(piece, charset) if isinstance(piece, bytes) and charset else _plainly(piece) for piece, charset in pieces
    )


def _plainly(piece: str | bytes) -> str:
    # What stands between encoded words is given as bytes of Latin-1, or with \u escapes for what isn't in it.
    return piece if isinstance(piece, str) else piece.decode("raw_unicode_escape", "replace")


def _text(data: bytes, charset: str | None) -> str:
    """Decode text; without a charset that is known it is read as UTF-8."""
    try:
        known = codecs.lookup(charset or "utf-8").name.replace("-", "_")
        if known in _NO_CHARSETS:
            known = "utf-8"
        # ASCII is what is said of letters whose sender thought no further; UTF-8 holds it.
        return data.decode("utf-8" if known == "ascii" else known, "replace")
    except (LookupError, ValueError, TypeError):
        return data.decode("utf-8", "replace")


# What a letter shows


def one_line(text: str) -> str:
    """Return a text with each run of spaces and breaks made one space, without what takes no room."""
    return " ".join(_without_unseen(text).split())


def _without_unseen(text: str) -> str:
    """Leave out controls, marks of direction, soft hyphens, joiners and byte order marks; keep what breaks lines."""
    return "".join(ch for ch in text if ch.isprintable() or ch.isspace())


def _lines(text: str) -> str:
    """Return the lines of a text that say something, each with its spaces, of whatever kind, made one.

    Between the cells of a table stays one tab. So no two spaces, tabs or breaks ever follow each other.
    """
    lines = re.split(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+", _without_unseen(text))
    cells = ([" ".join(cell.split()) for cell in line.split("\t")] for line in lines)
    written = ("\t".join(filter(None, line)) for line in cells)
    return "\n".join(filter(None, written))[:MAX_TEXT]


def _shown(message: Message[Any, Any]) -> tuple[str, str]:
    """Return what a letter shows as plain text and as HTML, each empty where it has no such part."""
    plain: list[str] = []
    html: list[str] = []
    for part in _parts(message):
        kind = part.get_content_type()
        if kind not in ("text/plain", "text/html") or part.get_content_disposition() == "attachment":
            continue
        payload = part.get_payload(decode=True)
        data = payload if isinstance(payload, bytes) else b""
        if kind == "text/plain":
            plain.append(_text(data[: 4 * MAX_TEXT], _charset(part)))
        else:
            html.append(_of_markup(_text(data[:_MAX_MARKUP], _charset(part) or _declared(data))))
    return _lines("\n".join(plain)), _lines("\n".join(html))


def _charset(part: Message[Any, Any]) -> str | None:
    try:
        return part.get_content_charset()
    except (LookupError, ValueError, TypeError):
        return None


def _declared(data: bytes) -> str | None:
    """Return the charset that markup says of itself, where the letter says none."""
    match = re.search(rb"<meta[^>]{1,200}charset\s*=\s*[\"']?([\w.:-]{1,40})", data[:2_048], re.IGNORECASE)
    return match[1].decode("ascii", "replace") if match else None


def _parts(message: Message[Any, Any]) -> Iterator[Message[Any, Any]]:
    """Yield the parts of a letter that are its own; a letter within a letter is somebody else's."""
    waiting = [message]
    for _ in range(_MAX_PARTS):
        if not waiting:
            return
        part = waiting.pop()
        if part.get_content_maintype() == "message":
            continue
        if part.is_multipart():
            waiting += reversed(cast("list[Message[Any, Any]]", part.get_payload()))
        else:
            yield part


_UNSHOWN = frozenset({"script", "style", "head", "title", "template", "noscript", "textarea"})
_WITHIN_LINES = frozenset(
    "a abbr b bdi bdo big cite code del dfn em font i img ins kbd mark q s samp small span strike strong sub sup time "
    "tt u var wbr".split()
)


class _Shown:
    """Takes the pieces of HTML as they are found, and puts together what is seen of it."""

    def __init__(self) -> None:
        self._seen: list[str] = []
        self._hidden = 0

    def start(self, tag: str, attributes: object) -> None:
        del attributes
        self._hidden += tag in _UNSHOWN
        self._edge(tag)

    def end(self, tag: str) -> None:
        self._edge(tag)
        self._hidden -= tag in _UNSHOWN

    def data(self, data: str) -> None:
        if not self._hidden:
            # A line break in the source of HTML is a space.
            self._seen.append(re.sub(r"\s+", " ", data))

    def close(self) -> str:
        return "".join(self._seen)

    def _edge(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._seen.append("\t")
        elif tag not in _WITHIN_LINES:
            self._seen.append("\n")


def _of_markup(markup: str) -> str:
    """Return what HTML shows: blocks and rows on lines of their own, cells with a tab between.

    libxml2 reads it, because the standard library's parser takes quadratic time on tags that never end.
    """
    # Half a character can't be handed over.
    text = markup.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    if not text.strip():
        return ""
    parser = etree.HTMLParser(target=_Shown(), no_network=True)
    try:
        parser.feed(text)
        return str(parser.close())
    except (etree.LxmlError, ValueError):
        raise Unreadable("its HTML can't be read") from None


# Who vouches for the sender

_PAIR = re.compile(
    r"\s*([A-Z0-9._-]+)(?:\s*/\s*[0-9]+)?\s*=\s*((?:\"(?:[^\"\\]|\\.)*\"|[^\s;\"])+)\s*", re.IGNORECASE | re.ASCII
)
_NOTHING_MORE = re.compile(r"\s*(?:none\s*)?(?:;|\Z)", re.IGNORECASE)
_SERVER = re.compile(r"\s*([A-Z0-9._-]+)(?:\s+[0-9]+)?\s*(?:;|\Z)", re.IGNORECASE | re.ASCII)


def signing_domains(header: str, authserv_id: str) -> frozenset[str] | None:
    """Return the domains whose DKIM signature a server found good, from the Authentication-Results (RFC 8601) it added.

    None where the header is another server's, or isn't written as it must be.
    """
    uncommented = _without_comments(header)
    server = _SERVER.match(uncommented) if uncommented is not None else None
    if uncommented is None or server is None or server[1].lower() != authserv_id.lower():
        return None
    found: set[str] = set()
    at = server.end()
    while at < len(uncommented):
        method, at = _method(uncommented, at)
        if method is None:
            return None
        names = [name for name, _ in method]
        told = dict(method)
        if method and method[0] == ("dkim", "pass") and len(set(names)) == len(names):
            domain = told.get("header.d") or told.get("header.i", "").rpartition("@")[2]
            if domain:
                found.add(domain.rstrip("."))
    return frozenset(found)


def _method(text: str, at: int) -> tuple[list[tuple[str, str]] | None, int]:
    """Read what one method found, up to its semicolon: `dkim=pass`, then properties. None for what is no such thing."""
    pairs: list[tuple[str, str]] = []
    while match := _PAIR.match(text, at):
        pairs.append((match[1].lower(), match[2].lower()))
        at = match.end()
    rest = _NOTHING_MORE.match(text, at)
    return (pairs, rest.end()) if rest else (None, at)


def _without_comments(header: str) -> str | None:
    """Return a header without its comments, which may be nested; None where one isn't closed, or a quote isn't."""
    kept: list[str] = []
    depth = 0
    quoted = escaped = False
    for letter in header:
        if not depth:
            kept.append(letter)
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = bool(depth or quoted)
        elif quoted:
            quoted = letter != '"'
        elif letter == '"' and not depth:
            quoted = True
        elif letter == "(":
            if not depth:
                kept[-1] = " "
            depth += 1
        elif letter == ")" and depth:
            depth -= 1
    return None if depth or quoted else "".join(kept)
