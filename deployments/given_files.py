"""Files that a person names on the command line: read, bounded, and what is wrong with them said in a sentence."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from deployments.command import Wrong
from deployments.shown import Json

if TYPE_CHECKING:
    from domain.rules import ChannelRules

_MAX_BYTES = 256 * 1024 * 1024
MAX_RULES_BYTES = 1024 * 1024
"""A rules file of a channel is a few pages."""


def _no_option(_type: object, value: object) -> None:
    for one in cast("list[object]", value) if isinstance(value, list) else [value]:
        if str(one).startswith("-") and one != "-":
            raise ValueError(f"Unknown option: {one}.")


GivenFile = Annotated[
    str, Parameter(allow_leading_hyphen=True, validator=_no_option, help="A file, or - for standard input.")
]
GivenFiles = Annotated[
    list[str], Parameter(allow_leading_hyphen=True, validator=_no_option, help="Files, or - for standard input.")
]


def named(file: str) -> str:
    """Return what to call a file that was given."""
    return "standard input" if file == "-" else file


def read_bytes(file: str, limit: int = _MAX_BYTES) -> bytes:
    """Read a file, or standard input for `-`. Raises Wrong, naming the file, when that can't be done."""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(limit + 1)
    except (OSError, ValueError) as error:
        raise Wrong(file_said(file, error)) from error
    if len(data) > limit:
        raise Wrong(f"{named(file)}: it is over {limit >> 20} MiB; cut it into smaller files")
    return data


def file_said(file: str, error: OSError | ValueError) -> str:
    """Say what is wrong with a file that can't be opened."""
    known: dict[type[Exception], str] = {
        FileNotFoundError: "there is no such file",
        IsADirectoryError: "it is a folder; name a file in it",
        PermissionError: "you have no permission for it",
        NotADirectoryError: "a part of its path is a file, not a folder",
        FileExistsError: "it is a file where a folder is needed",
    }
    said = known.get(type(error)) or getattr(error, "strerror", None) or str(error)
    return f"{named(file)}: {said}"


def read_text(file: str, limit: int = _MAX_BYTES) -> str:
    """Read a text as read_bytes does, in UTF-8. Raises Wrong with the line that is none, and for an empty file."""
    data = read_bytes(file, limit)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Wrong(f"{named(file)}, line {line}: it is not UTF-8 text; save it as UTF-8") from error
    if not text.strip():
        raise Wrong(f"{named(file)}: it is empty")
    return text


@contextmanager
def progress(what: str, total: int) -> Generator[Any]:
    """Show a progress bar on standard error where a person sees it; yields what is called after each piece."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count=1: bar.advance(task, count)


def mapping(text: str, file: str) -> object:
    """Read a YAML or JSON file that a person wrote: no key twice, no aliases. Raises Wrong with the line."""
    import yaml

    composed: dict[int, object] = {}

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            node: Any = super().compose_node(parent, index)
            if id(node) in composed:
                raise yaml.MarkedYAMLError(problem="aliases (*) are not taken", problem_mark=node.start_mark)
            composed[id(node)] = node
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    said = f"“{key.value}” is there twice"
                    raise yaml.MarkedYAMLError(problem=said, problem_mark=key.start_mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}, line {mark.line + 1}" if mark else file
        raise Wrong(f"{where}: it is not YAML: {getattr(error, 'problem', None) or error}") from None
    except (RecursionError, ValueError):
        raise Wrong(f"{file}: it is not YAML that can be read") from None


def parsed_rules(files: Sequence[str]) -> tuple[dict[str, tuple[str, ChannelRules]], list[Json]]:
    """Read rules: (file, rules) by channel, and what was refused."""
    from connectors.iban import wrong_ibans
    from domain.rules import RulesError, parse_rules

    found: dict[str, tuple[str, ChannelRules]] = {}
    refused: list[Json] = []
    for file in files:
        try:
            rules = parse_rules(mapping(read_text(file, MAX_RULES_BYTES), file), where=file)
        except (Wrong, RulesError) as error:
            refused += [{"file": file, "reason": line} for line in str(error).splitlines()]
            continue
        refused += [{"file": file, "reason": f"{file}: {said}"} for said in wrong_ibans(rules)]
        if rules.channel in found:
            said = f"{file}: channel {rules.channel} is in {found[rules.channel][0]} too; apply one of them"
            refused.append({"file": file, "reason": said})
        found[rules.channel] = (file, rules)
    return found, refused
