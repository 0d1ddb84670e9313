"""Settings that name an environment variable instead of saying a secret themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from connectors.errors import Misconfigured

SECRET_LENGTH_MIN = 16


def from_environment(value: Any, where: str) -> Any:
    """Return a setting's value, read from the environment where it is written as `$NAME`.

    Raises Misconfigured, naming the setting by where, when there is no such variable.
    """
    if isinstance(value, str) and value.startswith("$"):
        if value[1:] not in os.environ:
            raise Misconfigured(f"{where}: the environment variable {value[1:]} is not set")
        return os.environ[value[1:]]
    return value


def secret_setting(settings: Mapping[str, Any], name: str) -> str | None:
    """Return a secret that stands at the top of kvit.yaml, or None when it isn't there.

    Raises Misconfigured for one that is no text, or shorter than 16 characters.
    """
    value = settings.get(name)
    if value is None:
        return None
    where = f"kvit.yaml, {name}"
    value = from_environment(value, where)
    if not isinstance(value, str) or len(value) < SECRET_LENGTH_MIN:
        raise Misconfigured(f"{where}: it must be text of at least {SECRET_LENGTH_MIN} characters, made at random")
    return value
