"""The container files, as far as they can be checked without running them: every command and every setting is known."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import prefect.cli
import pytest
import yaml
from prefect.settings import Settings
from pydantic import BaseModel

from deployments.cli import app
from tasks.installation import processes_of
from tasks.logged import wants_json
from web.metrics import token_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments" / "container"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OF_REDIS = {"PREFECT_REDIS_MESSAGING_URL"}
"""What prefect-redis reads, which is in the image's lock and not among what tests need."""


def ours() -> dict[str, dict[str, Any]]:
    return {name: one for name, one in SERVICES.items() if one["image"] == "kvit"}


def commands(words: list[str]) -> Iterator[list[str]]:
    """Yield the commands that a service's command is made of."""
    if words[:2] != ["sh", "-c"]:
        yield words
        return
    for part in re.split(r";|&&", words[2]):
        yield shlex.split(part)


def settings_of(model: type[BaseModel], prefix: str = "PREFECT") -> Iterator[str]:
    """Yield the environment variables that Prefect's settings are read from."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from settings_of(inner, f"{prefix}_{name.upper()}")
        else:
            yield f"{prefix}_{name.upper()}"


def test_every_command_exists_with_its_options() -> None:
    apps: dict[str, Any] = {"kvit": app, "prefect": cast("Any", prefect.cli)._app._app}
    seen: set[str] = set()
    for service in ours().values():
        for program, *words in commands(service["command"]):
            apps[program].parse_args(words, exit_on_error=False, print_error=False)
            seen.add(f"{program} {words[0]}")
    assert seen == {
        *("kvit web", "kvit dispatcher", "kvit check"),
        *("prefect server", "prefect worker", "prefect work-pool", "prefect deploy"),
    }


def test_every_setting_is_one_that_somebody_reads() -> None:
    of_prefect = set(settings_of(Settings))
    rooms = ("connectors", "deployments", "store", "tasks", "web")
    code = "".join(file.read_text(encoding="utf-8") for room in rooms for file in sorted((ROOT / room).glob("*.py")))
    code += (FOLDER / "kvit.yaml").read_text(encoding="utf-8")
    named = {name for service in ours().values() for name in service["environment"]}
    image = (FOLDER / "Containerfile").read_text(encoding="utf-8")
    named |= set(re.findall(r"\b((?:KVIT|PREFECT)_\w+)=", image))
    assert len(named) > 20
    for name in named:
        if name.startswith("PREFECT_"):
            assert name in of_prefect | OF_REDIS, name
        else:
            assert name in code, name


def test_every_secret_is_asked_for_and_none_is_in_a_file() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text(encoding="utf-8")))
    example = (FOLDER / "example.env").read_text(encoding="utf-8")
    given = dict(line.split("=", 1) for line in example.splitlines() if line and not line.startswith("#"))
    assert set(given) == asked
    assert not any(given.values())
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_what_services_wait_for_mount_and_share_is_there() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], name
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert (FOLDER / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"], name
        networks: Any = service["networks"]
        assert set(networks) <= set(COMPOSE["networks"]), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_nothing_runs_as_root_or_can_change_what_it_runs() -> None:
    image = (FOLDER / "Containerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER 10001$", image, re.MULTILINE)
    assert "--require-hashes" in image
    assert not re.search(r"index-url|pypi|http://|https://", image)
    for name, service in ours().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name


def test_the_settings_of_the_example_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVIT_METRICS_TOKEN", "0123456789abcdef")
    settings = yaml.safe_load((FOLDER / "kvit.yaml").read_text(encoding="utf-8"))
    dispatchers = [name for name in SERVICES if name.startswith("dispatcher")]
    worker = SERVICES["worker"]["command"]
    runs = int(worker[worker.index("--limit") + 1])
    assert processes_of(settings) == len(dispatchers) + runs
    assert token_of(settings) == "0123456789abcdef"
    assert wants_json(SERVICES["web-1"]["environment"])
