"""The server that Prefect starts for a command while nothing is up: the one of `kvit up`, on a port of its own.

Prefect starts `uvicorn` with its app; on SQLite that refuses whoever is overtaken while writing, and a command then
waits 2 s and more for nearly every run that it makes. See `deployments.prefect_sqlite`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from deployments.processes import HOST


class TemporaryServer(SubprocessASGIServer):
    """A temporary server; who makes the first one without a port makes the one that Prefect's clients start."""

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        """Start it; as Prefect does, without the UI and the services that only a lasting server needs."""
        return subprocess.Popen(
            [sys.executable, "-m", "deployments.guarded_prefect"],
            env={
                **os.environ,
                **get_current_settings().to_environment_variables(exclude_unset=True),
                "PREFECT_UI_ENABLED": "0",
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT_SERVER_API_HOST": HOST,
                "PREFECT_SERVER_API_PORT": str(self.port),
            },
        )
