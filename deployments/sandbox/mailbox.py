"""A real mail server, Dovecot, with one mailbox on this machine: `python -m deployments.sandbox.mailbox --help`.

It needs Debian's package dovecot-imapd (2.3). It runs from a temporary folder, with a configuration of its own, as root
or as any user.
"""

from __future__ import annotations

import argparse
import grp
import imaplib
import itertools
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

_PROGRAMS = "/usr/sbin:/usr/local/sbin:/usr/bin:/bin"
_START_S = 30.0
_FOLDER = re.compile(r"[A-Za-z0-9_-]{1,40}")

_CONFIGURATION = """
base_dir = {root}/run
state_dir = {root}/run
log_path = {root}/dovecot.log
listen = 127.0.0.1
protocols = imap
disable_plaintext_auth = no
auth_failure_delay = 0
default_internal_user = {internal}
default_internal_group = {internal_group}
default_login_user = {login}
mail_location = maildir:{root}/mail
first_valid_uid = 1
first_valid_gid = 0
mailbox_idle_check_interval = 1 secs
mail_max_userip_connections = 100
{more}
passdb {{
  driver = passwd-file
  args = username_format=%u {root}/users
}}
userdb {{
  driver = static
  args = uid={owner} gid={group} home={root}/mail
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {tls_port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""


class NoDovecot(Exception):
    """There is no Dovecot here that can be started; its text says why, and how to come by one."""


class MailServer:
    """`with MailServer() as server:`, then point the connector at `server.host`, `server.port` and its account.

    `deliver` brings letters as a mail server's delivery leaves them; what other clients of the mailbox do has methods
    of its own.
    """

    host = "127.0.0.1"
    username = "payments"

    def __init__(self, *, certificate: Path | None = None, capabilities: str | None = None) -> None:
        """Make a server. With a certificate (PEM, with its key) it speaks TLS from the first byte, else none at all.

        capabilities are those that it tells of, where they aren't to be all.
        """
        self.password = secrets.token_hex(8) + '"\\ é'
        self.port = 0
        self._certificate = certificate
        self._capabilities = capabilities
        self._root = Path()
        self._plain_port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._delivered = itertools.count(1)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    # What happens to the mailbox

    def deliver(self, letter: bytes, *, folder: str = "INBOX", at: datetime | None = None) -> None:
        """Let a letter arrive, now or as if at another time."""
        name = f"{time.time():.6f}.{next(self._delivered)}.sandbox"
        within = self._folder(folder)
        written = within / "tmp" / name
        written.write_bytes(letter.replace(b"\r\n", b"\n"))
        shutil.copystat(within / "new", written)
        written.chmod(0o600)
        self._give_away(written)
        moment = (at or datetime.now(UTC)).timestamp()
        os.utime(written, (moment, moment))
        written.rename(within / "new" / name)

    def create(self, folder: str) -> None:
        """Make a folder."""
        with self.client() as client:
            _done(client.create(f'"{folder}"'))

    def delete(self, folder: str) -> None:
        """Delete a folder; one that is made anew under its name has another UIDVALIDITY."""
        with self.client() as client:
            _done(client.delete(f'"{folder}"'))

    def set_flag(self, flag: str, *, folder: str = "INBOX") -> None:
        """Set a flag on every letter of a folder, as a mail program does with what was seen."""
        with self.client(folder) as client:
            _done(client.store("1:*", "+FLAGS", f"({flag})"))

    def flags(self, *, folder: str = "INBOX") -> list[str]:
        """Return the flags of each letter of a folder, as the server writes them."""
        with self.client(folder) as client:
            _, told = client.fetch("1:*", "(FLAGS)")
        return [
            match[1]
            for one in told
            if isinstance(one, bytes) and (match := re.search(r"FLAGS \((.*?)\)", one.decode()))
        ]

    def move(self, to: str, *, folder: str = "INBOX") -> None:
        """Move every letter of a folder to another one."""
        with self.client(folder) as client:
            _done(client.copy("1:*", to))
            _done(client.store("1:*", "+FLAGS", r"(\Deleted)"))
            _done(client.expunge())

    def remove(self, place: int, *, folder: str = "INBOX") -> None:
        """Delete one letter of a folder, by its place from 1."""
        with self.client(folder) as client:
            _done(client.store(str(place), "+FLAGS", r"(\Deleted)"))
            _done(client.expunge())

    @contextmanager
    def client(self, folder: str | None = None) -> Generator[imaplib.IMAP4]:
        """Log in as another client of the mailbox, and open a folder if one is named."""
        client = imaplib.IMAP4(self.host, self._plain_port, timeout=_START_S)
        secret = f"\0{self.username}\0{self.password}".encode()
        client.authenticate("PLAIN", lambda _: secret)
        try:
            if folder:
                _done(client.select(folder))
            yield client
        finally:
            with suppress(imaplib.IMAP4.error, OSError):
                client.logout()

    def sessions(self) -> list[int]:
        """Return the processes of the sessions that are open."""
        found: list[int] = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                name, _, rest = status.read_text().partition("(")[2].rpartition(")")
                if self._process and (name, int(rest.split()[1])) == ("imap", self._process.pid):
                    found.append(int(status.parent.name))
        return found

    def cut(self) -> None:
        """Cut every session, without a word."""
        for session in self.sessions():
            os.kill(session, signal.SIGKILL)

    # Starting and stopping

    def _start(self) -> None:
        program = shutil.which("dovecot", path=f"{os.environ.get('PATH', '')}:{_PROGRAMS}")
        if program is None:
            raise NoDovecot("Dovecot isn't installed; on Debian: apt-get install dovecot-imapd")
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - found by its name alone
        version = asked.stdout.strip()
        if not version.startswith("2.3."):
            raise NoDovecot(
                f"this is Dovecot {version[:20] or '?'}, whose settings are written otherwise than those of 2.3"
            )
        self._root = Path(tempfile.mkdtemp(prefix="kvit-mailbox-"))
        self._configure()
        self._process = subprocess.Popen(  # noqa: S603 - as above, and nothing from outside is in it
            [program, "-F", "-c", str(self._root / "dovecot.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._await_start(self._process)
        except BaseException:
            self._stop()
            raise

    def _configure(self) -> None:
        as_root = os.geteuid() == 0
        me, mine = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
        internal = ("dovecot", "dovecot", "dovenull") if as_root else (me, mine, me)
        self._owner = ("nobody", "nogroup") if as_root else (me, mine)
        self._plain_port, tls_port = _free_port(), _free_port() if self._certificate else 0
        self.port = tls_port or self._plain_port
        more = ["ssl = no"]
        if self._certificate:
            more = ["ssl = yes", f"ssl_cert = <{self._certificate}", f"ssl_key = <{self._certificate}"]
        if self._capabilities is not None:
            more.append(f"imap_capability = {self._capabilities}")
        settings = _CONFIGURATION.format(
            root=self._root,
            internal=internal[0],
            internal_group=internal[1],
            login=internal[2],
            owner=self._owner[0],
            group=self._owner[1],
            port=self._plain_port,
            tls_port=tls_port,
            more="\n".join(more),
        )
        (self._root / "dovecot.conf").write_text(settings, encoding="utf-8")
        users = self._root / "users"
        users.write_text(f"{self.username}:{{PLAIN}}{self.password}\n", encoding="utf-8")
        users.chmod(0o644)  # whatever this process lets others read: Dovecot's own user must
        (self._root / "mail").mkdir()
        self._give_away(self._root / "mail")
        self._root.chmod(0o755)

    def _await_start(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                with self.client("INBOX"):
                    return
            except (OSError, imaplib.IMAP4.error):
                if process.poll() is not None or time.monotonic() > deadline:
                    log = self._root / "dovecot.log"
                    said = log.read_text(encoding="utf-8", errors="replace")[-500:] if log.exists() else "nothing"
                    raise NoDovecot(f"Dovecot doesn't start; its log says: {said}") from None
                time.sleep(0.05)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_START_S)
        shutil.rmtree(self._root, ignore_errors=True)

    def _folder(self, name: str) -> Path:
        if not _FOLDER.fullmatch(name):
            raise ValueError("a folder's name has ASCII letters, digits, dashes and underscores only")
        return self._root / "mail" / ("" if name == "INBOX" else f".{name}")

    def _give_away(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, *self._owner)


def _done(answer: tuple[str, object]) -> None:
    """See to it that a command was carried out; imaplib doesn't."""
    if answer[0] != "OK":
        raise imaplib.IMAP4.error("the server refused")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main() -> None:
    """Serve a mailbox until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m deployments.sandbox.mailbox", description="A mailbox over IMAP")
    parser.add_argument("letters", nargs="*", type=Path, metavar="FILE.eml", help="letters that are in it")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt), MailServer() as server:
        for letter in given.letters:
            server.deliver(letter.read_bytes())
        account = {"username": server.username, "password": server.password}
        settings = {"host": server.host, "port": server.port, "security": "none", **account}
        sys.stdout.write("".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items()))
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
