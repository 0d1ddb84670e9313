"""The exchange that 1C calls at `/1c/<connector>`: it fetches orders, says that it took them, and sends files back.

1C gives `type=sale` and a mode in the query. `checkauth` with HTTP Basic begins a session, whose cookie comes with
every later request; `init` tells how files are to be sent; `query` gives the orders that it has not taken yet;
`success` says that it took those, and only then they count as taken. `file` brings a file or a piece of one and
`import` ends it: it is stored, once, before it is answered, and worked off later. Answers are plain text of a few
lines, as 1C expects them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from typing import Any, Literal
from urllib.parse import parse_qsl

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from connectors.commerceml import CommerceML, Given, exchange_xml, fingerprint, is_whole, order_document
from connectors.roles import WebhookEvent
from connectors.statements import Unreadable
from domain.orders import Order
from store import exports, inbox, orders, payments
from tasks.installation import Installation
from tasks.intake import take_webhook
from web.limits import Room

PATH = "/1c/"
COOKIE = "kvit-1c"
SESSION_HOURS = 2
FILE_BYTES_MAX = 32 * 1024 * 1024
"""A whole file, of all its pieces."""

_ROOM_BYTES = 32 * 1024 * 1024
_KEPT_BYTES = 64 * 1024 * 1024
"""What is kept of files that are not whole yet, of all sessions together."""
_KEPT_FILES = 32
_AT_ONCE = 100
_QUERY_MAX, _FIELDS_MAX, _NAME_MAX = 2_000, 20, 200
_TOKEN = re.compile(r"([0-9]{1,12})-([0-9a-f]{16})-([0-9a-f]{64})")

_log = logging.getLogger("kvit.web")

Taken = Literal["stored", "known", "refused"]


class _Failed(Exception):
    """What 1C asks for can't be done; its text is shown to who runs 1C."""


@dataclass(frozen=True, slots=True)
class _Session:
    id: str
    until: datetime


@dataclass(slots=True)
class _Sent:
    """What a session has sent: pieces of files that are not whole yet, by their names, and whether one was taken."""

    until: datetime
    pieces: dict[str, bytearray] = field(default_factory=dict[str, bytearray])
    taken: bool = False

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces.values()))


class Exchange:
    """The exchange with each 1C that is set up.

    wake is called after something was stored, count with a connector's name and what became of a file. The pieces of a
    file are kept in this process until it is whole.
    """

    def __init__(
        self,
        opened: Installation,
        *,
        database: Callable[[], AbstractAsyncContextManager[None]],
        wake: Callable[[], None],
        count: Callable[[str, Taken], None],
        body_seconds: float,
    ) -> None:
        self._opened = opened
        self._connectors = opened.playing(CommerceML)
        self._database = database
        self._wake = wake
        self._count = count
        self._body_seconds = body_seconds
        self._room = Room(_ROOM_BYTES)
        self._sent: dict[tuple[str, str], _Sent] = {}

    async def page(self, connector: str, request: Request) -> Response:
        """Answer one request of a 1C."""
        system = self._connectors.get(connector)
        if system is None:
            raise HTTPException(
                404, "no connector of type commerceml has this name; kvit.yaml says what they are called"
            )
        # Read before anything is refused: a sender that is still sending may not see an answer.
        limit = system.config.file_limit
        async with self._room.body(request, at_most=limit, within=self._body_seconds) as body:
            try:
                return await self._page(system, request, body)
            except _Failed as error:
                return _said(system, "failure", str(error))

    async def _page(self, system: CommerceML, request: Request, body: bytes) -> Response:
        asked = _asked(request)
        mode = asked.get("mode", "")
        if asked.get("type") != "sale":
            raise _Failed("only orders are exchanged here: type=sale")
        if mode == "checkauth":
            return self._begin(system, request.headers.get("authorization"))
        session = self._session(system, request.cookies.get(COOKIE))
        if session is None:
            return _said(
                system, "failure", "the session is over or was never begun; begin with mode=checkauth", code=401
            )
        match mode:
            case "init":
                packed = "yes" if system.config.zip else "no"
                return _said(system, f"zip={packed}", f"file_limit={system.config.file_limit}")
            case "query":
                return await self._query(system, session)
            case "success":
                async with self._database(), self._opened.store.write() as connection:
                    await exports.confirm(connection, system.name, session.id, now=self._opened.clock())
                return _said(system, "success")
            case "file":
                await self._file(system, session, asked.get("filename", "")[:_NAME_MAX], body)
                return _said(system, "success")
            case "import":
                await self._import(system, session)
                return _said(system, "success")
            case _:
                raise _Failed("the mode is none of checkauth, init, query, success, file and import")

    # Sessions

    def _begin(self, system: CommerceML, authorization: str | None) -> Response:
        if not system.admits(authorization):
            self._count(system.name, "refused")
            _log.warning("1C was not let in to %s: user name or password is wrong", system.name)
            answer = _said(system, "failure", "the user name or the password is wrong", code=401)
            answer.headers["WWW-Authenticate"] = 'Basic realm="Kvit"'
            return answer
        until = int((self._opened.clock() + timedelta(hours=SESSION_HOURS)).timestamp())
        begun = f"{until}-{secrets.token_hex(8)}"
        return _said(system, "success", COOKIE, f"{begun}-{system.sign(begun)}")

    def _session(self, system: CommerceML, token: str | None) -> _Session | None:
        match = _TOKEN.fullmatch((token or "")[:_NAME_MAX])
        if match is None or not compare_digest(system.sign(f"{match[1]}-{match[2]}").encode(), match[3].encode()):
            return None
        until = datetime.fromtimestamp(int(match[1]), UTC)
        return _Session(match[2], until) if self._opened.clock() < until else None

    # Orders

    async def _query(self, system: CommerceML, session: _Session) -> Response:
        async with self._database(), self._opened.store.write() as connection:
            await exports.begin(connection, system.name, session.id)
            documents = await self._choose(connection, system, session)
        body = exchange_xml(documents, system.config, now=self._opened.clock())
        return Response(body, media_type=f"application/xml; charset={system.config.encoding}")

    async def _choose(self, connection: AsyncConnection, system: CommerceML, session: _Session) -> list[Any]:
        """Return the documents of the orders that 1C has not taken as they are now, and note that it is given them."""
        config, documents, after = system.config, list[Any](), 0
        while (left := config.orders_at_once - len(documents)) > 0:
            found = await exports.candidates(
                connection,
                system.name,
                channels=config.channels,
                statuses=config.statuses,
                since=self._opened.clock() - timedelta(days=config.days),
                after=after,
                limit=min(left, _AT_ONCE),
            )
            if not found:
                break
            after = found[-1].order_id
            loaded = await orders.load(connection, [one.order_id for one in found])
            made = [(one, order_document(await _given(connection, loaded[one.order_id]), config)) for one in found]
            hashed = [(one, document, fingerprint(document)) for one, document in made]
            await exports.seen(connection, system.name, [one for one, _, hash_ in hashed if hash_ == one.exported])
            changed = [each for each in hashed if each[2] != each[0].exported]
            await exports.offer(connection, system.name, session.id, [(one, hash_) for one, _, hash_ in changed])
            documents += [document for _, document, _ in changed]
        return documents

    # Files

    async def _file(self, system: CommerceML, session: _Session, name: str, body: bytes) -> None:
        """Put a piece to those that came before it, and take the file in once it is whole."""
        if not body:
            raise _Failed("the file is empty")
        self._forget()
        sent = self._sent.setdefault((system.name, session.id), _Sent(session.until))
        if sent.taken and name not in sent.pieces and not body.strip():
            return  # what stands behind the end of a file that was taken
        pieces = sent.pieces.get(name, bytearray())
        kept = sum(one.size for one in self._sent.values())
        files = sum(len(one.pieces) for one in self._sent.values())
        if len(pieces) + len(body) > FILE_BYTES_MAX:
            sent.pieces.pop(name, None)
            raise _Failed(f"the file is over {FILE_BYTES_MAX >> 20} MiB; send less at once")
        if kept + len(body) > _KEPT_BYTES or (name not in sent.pieces and files >= _KEPT_FILES):
            raise _Failed("too much is being sent at once; send it again later")
        pieces += body
        # Some versions of 1C never send import, so a file is taken as soon as it is whole.
        if is_whole(data := bytes(pieces)):
            sent.pieces.pop(name, None)
            await self._take(system, data)
            sent.taken = True
        else:
            sent.pieces[name] = pieces

    async def _import(self, system: CommerceML, session: _Session) -> None:
        """Take in what is left of a session's files; the name is that of a file in an archive, so it says nothing."""
        sent = self._sent.get((system.name, session.id))
        if sent is None or not (sent.taken or sent.pieces):
            raise _Failed("no file was sent in this session; send it with mode=file first")
        pieces, sent.pieces = sent.pieces, {}
        for data in pieces.values():
            await self._take(system, bytes(data))
            sent.taken = True

    async def _take(self, system: CommerceML, data: bytes) -> None:
        """Store a file, and what of it can't be used as letters to a person."""
        try:
            unusable = await asyncio.to_thread(system.unusable, data)
        except Unreadable as error:
            self._count(system.name, "refused")
            _log.warning("a file of 1C for %s was refused: %s", system.name, error)
            raise _Failed(str(error)) from None
        event = WebhookEvent(external_id=f"sha256:{hashlib.sha256(data).hexdigest()}", kind="exchange file")
        async with self._database():
            for document, reason in unusable:
                await self._park(system, document, reason)
            new = await take_webhook(self._opened, system.name, event, data)
        self._count(system.name, "stored" if new else "known")
        self._wake()

    async def _park(self, system: CommerceML, document: bytes, reason: str) -> None:
        now = self._opened.clock()
        async with self._opened.store.write() as connection:
            letter_id = await inbox.put(
                connection,
                source=system.name,
                external_id=f"document:sha256:{hashlib.sha256(document).hexdigest()}",
                kind="exchange document",
                body=document,
                now=now,
                due_at=now,
            )
            if letter_id is not None:
                await inbox.put_off(connection, letter_id, due_at=None, problem=reason)

    def _forget(self) -> None:
        """Forget what sessions sent that are over."""
        now = self._opened.clock()
        for key in [key for key, sent in self._sent.items() if sent.until <= now]:
            del self._sent[key]


async def _given(connection: AsyncConnection, order: Order) -> Given:
    """Return an order with its last payment."""
    came = await payments.incomes(connection, order.id) if order.settled else []
    last = next((income for income in reversed(came) if income["amount"].minor > 0), None)
    if last is None:
        return Given(order=order)
    return Given(
        order=order,
        paid_on=last["booked_on"],
        payment_number=last["provider_reference"] or last["reference"],
    )


def _asked(request: Request) -> dict[str, str]:
    """Return what the query asks for, which the app has kept for this path alone."""
    query: bytes = getattr(request.state, "exchange_query", b"")[:_QUERY_MAX]
    try:
        return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_FIELDS_MAX))
    except ValueError:
        raise _Failed("the query can't be read") from None


def _said(system: CommerceML, *lines: str, code: int = 200) -> Response:
    encoding = system.config.encoding
    body = "\n".join(lines).encode(encoding, errors="replace")
    return Response(body, code, media_type=f"text/plain; charset={encoding}")
