"""How a command reaches Prefect: the server of `kvit up` when it runs, else a temporary one that Prefect starts."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

_ANSWERS_WITHIN_S = 2.0


def _answers(url: str) -> bool:
    """Say whether a Prefect API is healthy there."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return False
    made = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = made(parts.hostname, parts.port, timeout=_ANSWERS_WITHIN_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _running(home: Path) -> str | None:
    """Return the API of the `kvit up` that runs in a folder, or None: a run.json can outlive its process."""
    with suppress(OSError, ValueError):
        known = cast("object", json.loads((home / "run.json").read_text(encoding="utf-8")))
        url = cast("dict[str, object]", known).get("prefect_api_url") if isinstance(known, dict) else None
        if isinstance(url, str) and _answers(url):
            return url
    return None


def point_at_prefect(home: Path, *, verbose: bool = False) -> None:
    """Set the environment that Prefect reads when it is imported, so call this before; what is set stays as it is.

    The log in Prefect is always whole; verbose shows it on standard error too.
    """
    wanted = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if verbose else "WARNING",
        "PREFECT_CLI_PROMPT": "false",
    }
    if "PREFECT_API_URL" not in os.environ and (url := _running(home)):
        wanted["PREFECT_API_URL"] = url
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
