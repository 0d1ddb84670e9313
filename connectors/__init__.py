"""The loader: finds a connector by its type, checks its settings, and makes it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from connectors.environment import from_environment
from connectors.errors import Misconfigured


class Config(BaseModel):
    """What every connector's settings begin with. A value written as `$NAME` is read from the environment."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="How rules and webhooks name it")
    home: Path = Field(description="Folder of the installation; filled in by the loader")


def types() -> dict[str, Any]:
    """Return every connector type by name: the modules of this package that declare a connector.

    A module declares one by two names: CONFIG, its settings' class, and CONNECTOR, called with those settings.
    """
    found: dict[str, Any] = {}
    for module in iter_modules(__path__):
        loaded = import_module(f"{__name__}.{module.name}")
        if hasattr(loaded, "CONNECTOR"):
            found[module.name] = loaded
    return found


def load(settings: dict[str, Any], *, home: Path, where: str, processes: int = 1) -> Any:
    """Make one connector from its stanza in kvit.yaml; where names the stanza in error texts.

    processes says how many processes share the limits of the stanza: each gets its part of them. Raises Misconfigured
    with one sentence per wrong field.
    """
    made, config = _config_of(settings, home=home, where=where)
    return made.CONNECTOR(_part_of(config, processes))


def own_rates(stanzas: list[dict[str, Any]], *, home: Path) -> dict[str, float | None]:
    """Return the outside systems of kvit.yaml whose requests can be paced, with their own limits in requests a second.

    Raises Misconfigured as load does.
    """
    found: dict[str, float | None] = {}
    for stanza in stanzas:
        name = str(stanza.get("name"))
        _, config = _config_of(stanza, home=home, where=f"kvit.yaml, connector {name}")
        limits: Any = getattr(config, "limits", None)
        if limits is not None or hasattr(config, "concurrent"):
            found[name] = getattr(limits, "per_second", None)
    return found


def _config_of(settings: dict[str, Any], *, home: Path, where: str) -> tuple[Any, Any]:
    """Return the module of a stanza's connector, and its settings. Raises Misconfigured."""
    kind = str(settings.get("type", ""))
    # Only the module that is asked for: each brings the libraries of its own format or system.
    found = any(module.name == kind for module in iter_modules(__path__))
    known: Any = import_module(f"{__name__}.{kind}") if found else None
    if not hasattr(known, "CONNECTOR"):
        raise Misconfigured(f"{where}: type “{kind}” is not known; choose one of {', '.join(sorted(types()))}")
    values = {k: from_environment(v, f"{where}, {k}") for k, v in settings.items() if k != "type"}
    try:
        return known, known.CONFIG(**values, home=home)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise Misconfigured(
            "; ".join(f"{where}: {'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems)
        ) from None


def _part_of(config: BaseModel, processes: int) -> BaseModel:
    """Return settings with what one of so many processes may ask for at once, and in a second; at least one at once."""
    if processes == 1:
        return config
    changed: dict[str, Any] = {}
    for field in type(config).model_fields:
        value: Any = getattr(config, field)
        if field == "concurrent":
            changed[field] = max(1, value // processes)
        elif field == "per_second" and value is not None:
            changed[field] = value / processes
        elif field == "limits":
            changed[field] = _part_of(cast("BaseModel", value), processes)
    return config.model_copy(update=changed)
