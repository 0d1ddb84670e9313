"""How a command reaches Prefect: the server of `kvit up` when it runs, else a temporary one that Prefect starts."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from connectors.environment import SECRET_LENGTH_MIN, secret_setting
from connectors.errors import Misconfigured

KEEP_LOG_DAYS = 90
_KEEP_LOG_DAYS_MAX = 3_660
_ANSWERS_WITHIN_S = 2.0


def login_of(settings: Mapping[str, Any]) -> str | None:
    """Return what Prefect's UI and API ask for, `user:password`, or None when kvit.yaml has no ui_login.

    Raises Misconfigured for one that can't be used.
    """
    login = secret_setting(settings, "ui_login")
    if login is None:
        return None
    user, _, password = login.partition(":")
    # Prefect compares, and browsers encode, no other characters.
    if not user or len(password) < SECRET_LENGTH_MIN or not (login.isascii() and login.isprintable()):
        raise Misconfigured(
            "kvit.yaml, ui_login: it must be user:password, in ASCII characters, "
            f"with a password of at least {SECRET_LENGTH_MIN} of them, made at random"
        )
    return login


def log_kept(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what tells Prefect's server how long to keep runs with their logs, by kvit.yaml's keep_log_days.

    Its events are kept for two days: they take the most room, and nobody looks at them but Prefect's own pages. Raises
    Misconfigured for a number of days that is none.
    """
    days: object = settings.get("keep_log_days", KEEP_LOG_DAYS)
    if type(days) is not int or not 1 <= days <= _KEEP_LOG_DAYS_MAX:
        raise Misconfigured(f"kvit.yaml, keep_log_days: it must be a number of days from 1 to {_KEEP_LOG_DAYS_MAX}")
    return {
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs,orphans",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(days * 86_400),
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P2D",
    }


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


def point_at_prefect(home: Path, *, login: str | None = None, verbose: bool = False) -> None:
    """Set the environment that Prefect reads when it is imported, so call this before; what is set stays as it is.

    login is what the server of `kvit up` asks for. The log in Prefect is always whole; verbose shows it on standard
    error too.
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
    if "PREFECT_API_URL" not in os.environ:
        if url := _running(home):
            wanted["PREFECT_API_URL"] = url
        else:
            # The temporary server is for this process alone, so its login is made up here.
            login = f"kvit:{secrets.token_urlsafe(32)}"
            # It writes to this command's standard error, also of what it tries again and gets done then.
            wanted["PREFECT_SERVER_LOGGING_LEVEL"] = "WARNING" if verbose else "CRITICAL"
            os.environ["PREFECT_SERVER_API_AUTH_STRING"] = os.environ["PREFECT_API_AUTH_STRING"] = login
    # Where there is a key, it is for a server that is not ours and takes no login.
    if login and "PREFECT_API_KEY" not in os.environ:
        wanted["PREFECT_API_AUTH_STRING"] = login
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
