"""Logged: each line of the log says in fields which order, step and payment it is about; as JSON lines where wanted."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from connectors.errors import Misconfigured
from domain.scenarios import subject_of

if TYPE_CHECKING:
    from tasks.step import Item

FORMAT = "KVIT_LOG_FORMAT"
"""The environment variable that says how the log is written: `text`, or `json` for a JSON object on each line."""
_FIELDS = ("order", "step", "payment", "cause", "flow_run_id", "flow_run_name", "task_run_id")
_LEVEL = logging.INFO


def fields(item: Item, *, step: str) -> dict[str, Any]:
    """Return the fields of a line about one order: its number, the step, what it is for, and the payment if it is one.

    Pass them as the log call's extra.
    """
    subject, id_ = subject_of(item.cause)
    found: dict[str, Any] = {"order": item.number, "step": step, "cause": item.cause}
    return found | {"payment": id_} if subject == "payment" else found


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object. Of an exception its type and place are told, never its own text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "at": at,
            "level": record.levelname.lower(),
            "logger": record.name,
            "said": record.getMessage(),
        }
        line |= {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["places"] = _places(record.exc_info[2])
        return json.dumps(line, ensure_ascii=False, default=str)


def _places(at: Any) -> list[str]:
    found: list[str] = []
    while at is not None:
        found.append(f"{at.tb_frame.f_globals.get('__name__')}:{at.tb_lineno}")
        at = at.tb_next
    return found


def wants_json(environment: Mapping[str, str]) -> bool:
    """Say whether the log is to be JSON lines. Raises Misconfigured for a format that there is not."""
    wanted = environment.get(FORMAT) or "text"
    if wanted not in ("text", "json"):
        raise Misconfigured(f"{FORMAT}: “{wanted[:40]}” is no format of the log; choose text or json")
    return wanted == "json"


def log_as_json(stream: Any = None) -> None:
    """Write the log of this process as JSON lines to a stream, standard error by default; Prefect's included.

    What Prefect's runs say goes on to its server as before.
    """
    if "prefect" in sys.modules:
        from prefect.logging.configuration import setup_logging

        setup_logging()  # it would put its own handlers back later
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    handler.setLevel(_LEVEL)
    for logger in _with_consoles():
        for old in _consoles(logger):
            logger.removeHandler(old)
        if not logger.propagate:
            logger.addHandler(handler)
    root = logging.getLogger()
    if handler not in root.handlers:
        root.addHandler(handler)
    logging.getLogger("kvit").setLevel(_LEVEL)


def _consoles(logger: logging.Logger) -> list[logging.Handler]:
    """Return what writes to this process's terminal or to its standard error; files and servers are none."""
    found: list[logging.Handler] = []
    for handler in logger.handlers:
        is_file = isinstance(handler, logging.FileHandler)
        if isinstance(handler, logging.StreamHandler) and not is_file:
            found.append(handler)  # pyright: ignore[reportUnknownArgumentType]
    return found


def _with_consoles() -> Iterable[logging.Logger]:
    known = [logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict)]
    return [logger for logger in [logging.getLogger(), *known] if _consoles(logger)]
