"""Messages into a Maildir in the installation's folder: read with any mail client, nothing leaves the machine.

A message's file is named after its Message-ID, so that the same message is written once. It is found again as long as
it stays in the Maildir: a client may mark it as read (which moves it from new to cur), but not delete it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256

from connectors import Config
from connectors.errors import Misconfigured, Transient
from connectors.files import write_whole
from connectors.mail import build
from connectors.roles import OutgoingMessage

_NOT_NOW = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EAGAIN})


class MaildirConfig(Config):
    """A Maildir has no settings of its own: it is the folder maildir of the installation."""


class Maildir:
    """Sends by writing into the folder maildir; a reference is the file's path relative to KVIT_HOME."""

    can_look_up = True

    def __init__(self, config: MaildirConfig) -> None:
        self._home = config.home
        self._folder = config.home / "maildir"

    async def send(self, message: OutgoingMessage) -> str:
        """Write a message into new and return its path; one that is already there is left as it is."""
        data = build(message)
        # A Maildir's files have the line ends of the system, not those of the wire.
        content = data.as_bytes(policy=data.policy.clone(linesep="\n"))
        with _translated():
            return await asyncio.to_thread(self._write, _file_name(message.message_id), content)

    async def find(self, message_id: str) -> str | None:
        """Return the path of a message that was written, read or unread, or None."""
        with _translated():
            return await asyncio.to_thread(self._find, _file_name(message_id))

    async def check(self) -> str:
        """Say that the folder can be written; it is made if it isn't there."""
        with _translated():
            await asyncio.to_thread(self._try)
        return "maildir: messages are written to maildir/new"

    def _make_folders(self) -> None:
        for name in ("tmp", "new", "cur"):
            (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    def _try(self) -> None:
        self._make_folders()
        with tempfile.TemporaryFile(dir=self._folder / "tmp"):
            pass

    def _find(self, name: str) -> str | None:
        if (self._folder / "new" / name).exists():
            return f"maildir/new/{name}"
        if not (self._folder / "cur").is_dir():
            return None
        with os.scandir(self._folder / "cur") as entries:
            # What a client adds to a name are flags after a colon, or after “;” or “!” where colons can't be.
            found = (entry.name for entry in entries if entry.name == name or entry.name.startswith(_flagged(name)))
            return next((f"maildir/cur/{entry}" for entry in found), None)

    def _write(self, name: str, content: bytes) -> str:
        self._make_folders()
        if known := self._find(name):
            return known
        write_whole(self._folder / "new" / name, content, through=self._folder / "tmp")
        return f"maildir/new/{name}"


def _file_name(message_id: str) -> str:
    return f"{sha256(message_id.encode()).hexdigest()[:40]}.kvit"


def _flagged(name: str) -> tuple[str, ...]:
    return tuple(f"{name}{mark}" for mark in ":;!,")


@contextmanager
def _translated() -> Generator[None]:
    """Turn what the file system refuses into our errors. Writing again is safe, so nothing is ever in doubt."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        if error.errno in _NOT_NOW:
            raise Transient(f"maildir: can't be written now ({reason})") from None
        raise Misconfigured(f"maildir: the folder maildir in KVIT_HOME can't be used ({reason})") from None


CONFIG = MaildirConfig
CONNECTOR = Maildir
