"""Kept token: a refresh token that its provider replaces at each use, kept where all processes of an installation look.

It lies in a file in KVIT_HOME that its owner alone can read. Who is to renew it first takes the lock beside it, which
the system lets go when a process dies, and reads it then: so nobody renews with one that another has used meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TypeGuard

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from connectors.errors import Misconfigured, Transient
from connectors.files import sync_folder

_TRIES = 3
_LOOK_S = 0.02
_WAIT_S = 30.0
_NOT_NOW = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE})


class Token(BaseModel):
    """An access token and until when it holds, and what the next one is got with."""

    model_config = ConfigDict(hide_input_in_errors=True)

    access: str
    until: AwareDatetime
    refresh: str
    origin: str
    """A digest of the refresh token that was configured when all began."""

    def __repr__(self) -> str:
        """Show nothing of it."""
        return "Token()"

    __str__ = __repr__

    def holds(self, now: datetime) -> bool:
        """Say whether the access token may still be used."""
        return now < self.until


def digest(refresh: str) -> str:
    """Return by what a configured refresh token is known without being told."""
    return hashlib.sha256(refresh.encode()).hexdigest()


class KeptToken:
    """The token of one connector. What can't be written is kept in memory, and written before anything else is done."""

    def __init__(self, name: str, folder: Path, origin: str) -> None:
        """Keep it in a folder; one that began with another configured token counts for none."""
        self.name = name
        self._folder = folder
        self._origin = origin
        self._unwritten: Token | None = None

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Let only one at a time in, of all processes that share the folder. Raises Transient after half a minute."""
        with self._translated():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            await self._take(handle)
            yield
        finally:
            os.close(handle)  # which lets go of the lock

    async def _take(self, handle: int) -> None:
        end = time.monotonic() + _WAIT_S
        while True:
            with suppress(BlockingIOError), self._translated():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() > end:
                raise Transient(f"{self.name}: another process is still getting a token", busy=True)
            await asyncio.sleep(_LOOK_S)

    async def read(self) -> Token | None:
        """Return the newest token, or None where there is none yet. Raises Transient or Misconfigured."""
        with self._translated():
            token = await asyncio.to_thread(self._read)
        if (mine := self._unwritten) is not None and token != mine and (token is None or token.until <= mine.until):
            await self.write(mine)
            return mine
        return token

    async def write(self, token: Token) -> None:
        """Keep a token, whatever becomes of this process from here on. Raises Transient or Misconfigured."""
        self._unwritten = token
        with self._translated():
            await asyncio.to_thread(self._write, token.model_dump_json().encode())
        self._unwritten = None

    def _read(self) -> Token | None:
        try:
            token = Token.model_validate_json((self._folder / "token.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise Misconfigured(f"{self.name}: token.json in {self._folder} can't be read; remove it") from None
        return token if token.origin == self._origin else None

    def _write(self, written: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new-", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(written)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._folder / "token.json")
        finally:
            Path(temporary).unlink(missing_ok=True)
        sync_folder(self._folder)

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as error:
            said = f"{self.name}: its token in {self._folder} can't be read or written"
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            if error.errno in _NOT_NOW:
                raise Transient(f"{said} now ({reason})") from None
            raise Misconfigured(f"{said} ({reason})") from None


class Access:
    """The access token in use: got once for all who ask at the same time, and anew once it holds no longer."""

    def __init__(
        self, kept: KeptToken, renew: Callable[[Token | None], Awaitable[Token]], clock: Callable[[], datetime]
    ) -> None:
        """Make it of what is kept; renew gets the newest token, or None before the first, and returns the next one."""
        self._kept = kept
        self._renew = renew
        self._clock = clock
        self._token: Token | None = None
        self._going: asyncio.Task[None] | None = None

    async def token(self, *, instead_of: str | None = None) -> str:
        """Return an access token; another one than that which was refused. Raises what renew does."""
        for _ in range(_TRIES):
            if self._serves(self._token, instead_of):
                return self._token.access
            if self._going is None or self._going.done():
                self._going = asyncio.create_task(self._next(instead_of))
            # Who no longer waits for it must not cut it off: the token that was used is worth nothing any more.
            await asyncio.shield(self._going)
        raise Transient(f"{self._kept.name}: each token that is got holds for no time", busy=True)

    async def aclose(self) -> None:
        """Wait until what is being got is kept."""
        if self._going is not None:
            await asyncio.wait([self._going])

    async def _next(self, refused: str | None) -> None:
        async with self._kept.alone():
            token = await self._kept.read()
            if not self._serves(token, refused):
                token = await self._renew(token)
                await self._kept.write(token)
        self._token = token

    def _serves(self, token: Token | None, refused: str | None) -> TypeGuard[Token]:
        return token is not None and token.access != refused and token.holds(self._clock())
