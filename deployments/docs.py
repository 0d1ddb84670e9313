"""The pages that are made from the code: the fields of a channel's rules, and the settings of the connectors.

python -m deployments.docs      writes docs/rules.md and docs/connectors.md anew
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, IPvAnyNetwork, SecretStr
from pydantic.fields import FieldInfo

from connectors import Config, roles, types
from domain.rules import ChannelRules
from tasks.rules_form import example_said

FOLDER = Path(__file__).parent.parent / "docs"

_MADE = "<!-- Made from the code by `python -m deployments.docs`; a change belongs there. -->\n\n"

_RULES = """# The rules of a channel

One YAML or JSON file per sales channel says what happens after a payment. [cz.yaml](../deployments/rules/cz.yaml),
[ro.yaml](../deployments/rules/ro.yaml) and [market.yaml](../deployments/rules/market.yaml) are whole examples.

- `kvit rules apply FILE` checks a file and puts it into force. Every change is a new version, and the journal says for
  each step which version it went by. A file with a mistake is refused as a whole, with one sentence per wrong field.
- `kvit rules show CHANNEL` prints the rules in force, as a file that can be edited and applied again.
- `kvit rules explain ORDER` shows what the rules decide for an order, and which line decided it.
- `kvit rules preview FILE` shows what a changed file would have made otherwise of past orders and payments.
- The deployment "set channel rules" in the Prefect UI is a form of the same fields, for the channel, or for a group or
  customer alone. What is filled in is merged field by field; a list is replaced; what is left empty stays as it is.
- Under `groups` and `customers` stands only what differs there. A customer's own rules come before those of his group,
  these before the channel's, and these before the defaults below.
- Under `cases` stands where a scenario goes otherwise, by payment and delivery method, status and amount. The first
  case that fits an order wins. It comes before the other lines beside it, and after those of a narrower level: a case
  of the channel changes nothing that the customer's group has a line of its own about.

`connectors.warehouse` is checked and kept, but nothing acts on it yet. The goods of an order that waits for a bank
transfer are kept for `reservation_days`; after `grace_days` more, `placed.bank_transfer.at_expiry` says what becomes of
it. An order that waits for a card waits for ever, unless `placed.card.reserve_hours` says for how long; then
`placed.card.at_expiry` holds, except where money is held for it.
"""

_CONNECTORS = """# Connectors

`KVIT_HOME/kvit.yaml` has a list named `connectors`. Each entry has a `type`, one of those below, and a `name`, by which
the rules of a channel, the webhook's address and the commands call it. A value written as `$NAME` is read from the
environment variable `NAME`; keys and passwords belong there. `kvit check` asks every connector whether it works.

```yaml
connectors:
  - name: card-gateway
    type: stripe
    api_key: $STRIPE_API_KEY
    webhook_secret: $STRIPE_WEBHOOK_SECRET
```

With no `kvit.yaml` at all an installation has these: `camt`, `mt940`, `1c-statement` (type `client_bank_1c`), `csv`
(type `csv_statement`), `cod` (type `cod_remittance`), `payouts` (type `payout_report`), `documents`, `labels` and
`maildir`. An entry of the same name takes the place of one; `csv`, `cod` and `payouts` step back when any connector of
their type is set up.

Beside `connectors` stand settings of the installation itself; secrets among them are read from the environment too.
"""

_OWN_SETTINGS: list[tuple[str, ...]] = [
    (
        "`orders_secret`",
        "What a shop signs its orders with that come over HTTP; at least 16 characters",
        "orders over HTTP are refused",
    ),
    (
        "`ui_login`",
        "What Prefect's UI and API ask for: `user:password`, in ASCII, the password of at least 16 characters",
        "they ask for nothing",
    ),
    (
        "`keep_log_days`",
        "How many days `kvit up` lets Prefect keep runs with their logs; what was done stands in Kvit's own database",
        "90",
    ),
    (
        "`trusted_proxies`",
        (
            "Networks in which our own reverse proxies stand, such as `10.0.0.0/8`: what they add to X-Forwarded-For "
            "says who sent a webhook"
        ),
        "who connects is the sender",
    ),
    (
        "`alarms`",
        (
            "How long things may wait before `reconcile` tells of them: a mapping with `unmatched_days` for payments "
            "that wait for a person, `step_hours` for steps that are open or refused and payments not looked at, "
            "`source_hours` for sources that answer no poll, and `statement_days` for daily statements that don't come"
        ),
        "3, 24, 6 and 5",
    ),
]


def _members(role: type) -> set[str]:
    return {name for name in (*vars(role), *inspect.get_annotations(role)) if not name.startswith("_")}


def _sentence(thing: object) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def _anchor(heading: str) -> str:
    """Return a heading's address within its page, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _cell(text: str) -> str:
    """Write a text so that it stays in its cell; between backticks a page shows it as it is."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts))


def _table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headers, tuple("---" for _ in headers), *(tuple(map(_cell, row)) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(value: object) -> str:
    return "`" + (value.value if isinstance(value, StrEnum) else str(value)).replace("\t", "\\t") + "`"


def _models(annotation: Any, path: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the models that a field holds, each with the path that leads to its fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, path
    inner = {dict: ".<name>", tuple: "[]", list: "[]"}.get(cast("Any", get_origin(annotation)), "")
    for part in get_args(annotation):
        yield from _models(part, path + inner)


def _enums(annotation: Any) -> Iterator[type[StrEnum]]:
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        yield annotation
    for part in get_args(annotation):
        if isinstance(part, StrEnum):
            yield type(part)
        else:
            yield from _enums(part)


_PLAIN: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    Decimal: "number",
    bool: "`true` or `false`",
    Path: "path",
    SecretStr: "secret text",
    IPvAnyNetwork: "network",
    Any: "anything",
}


def _kind(annotation: Any) -> str:
    """Say in words what may stand in a field."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = next((part for part in args[1:] if isinstance(part, FieldInfo)), None)
        return ", ".join(filter(None, (_kind(args[0]), _bounds(bounds) if bounds else "")))
    if origin is Literal:
        return ", ".join(_code(value) if value else "nothing" for value in args)
    if origin in (Union, UnionType):
        return f"{' or '.join(_kind(arg) for arg in args if arg is not NoneType)}, or nothing"
    if origin in (tuple, list, frozenset):
        return f"list of {_kind(args[0])}"
    if args[1:] == (Any,):
        return "fields of this document"
    if origin is dict:
        comma = "," if get_origin(args[1]) is Annotated else ""
        return f"{_kind(args[1])}{comma} by {'name' if args[0] is str else _kind(args[0])}"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(map(_code, annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "fields"
    return _PLAIN[annotation]


def _bounds(field: FieldInfo) -> str:
    """Say within what a field must stay."""
    found = {
        name: value
        for part in field.metadata
        for name in ("ge", "gt", "le", "pattern")
        if (value := getattr(part, name, None)) is not None
    }
    least, over, most, pattern = (found.get(name) for name in ("ge", "gt", "le", "pattern"))
    said = [
        f"{least} to {most}" if least is not None and most is not None else "",
        f"at least {least}" if least is not None and most is None else "",
        f"more than {over}" if over is not None else "",
        f"at most {most}" if most is not None and least is None else "",
        f"written as {_code(pattern)}" if pattern else "",
    ]
    return ", ".join(filter(None, said))


def _default(field: FieldInfo) -> str:
    """Say what a field is when it is left out."""
    if field.is_required():
        return "**needed**"
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "see there"
    if isinstance(value, tuple | frozenset | dict | list):
        given = cast("Iterable[Any]", value)
        parts = sorted(given) if isinstance(value, frozenset) else list(given)
        if parts and isinstance(parts[0], StrEnum) and parts == list(type(parts[0])):
            return "all, in this order"
        return ", ".join(map(_code, parts)) or "nothing"
    if isinstance(value, bool):
        return _code(str(value).lower())
    return "nothing" if value is None or value == "" else _code(value)


def _said(name: str, field: FieldInfo) -> str:
    title = field.title if field.title and field.title.lower() != name.replace("_", " ") else ""
    return ". ".join(part for part in (title, field.description) if part)


def _example(field: FieldInfo) -> str:
    """Return the examples of a field, as they can stand in a file of rules."""
    return ", ".join(_code(example_said(one)) for one in field.examples or ())


def _values(field: FieldInfo) -> str:
    return ", ".join(filter(None, (_kind(field.annotation), _bounds(field))))


def _together(paths: list[str]) -> str:
    """Write the paths that lead to one model as a heading: all of them if they are few, else what they share."""
    if len(paths) < 3:
        return " and ".join(f"`{path}`" for path in paths)
    places = zip(*(path.split(".") for path in paths), strict=True)
    return f"`{'.'.join(place[0] if len(set(place)) == 1 else '<name>' for place in places)}`"


def _walk(model: type[BaseModel], path: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Yield a model and every one below it, each as often as a path leads to it."""
    yield model, path
    for name, field in model.model_fields.items():
        for inner, at in _models(field.annotation, f"{path}.{name}".lstrip(".")):
            yield from _walk(inner, at)


def _headings(root: type[BaseModel]) -> dict[type[BaseModel], str]:
    """Return the heading of each model's section, in the order in which the fields name them."""
    paths: dict[type[BaseModel], list[str]] = {}
    for model, path in _walk(root):
        paths.setdefault(model, []).append(path)
    return {model: _together(found) if model is not root else "The document" for model, found in paths.items()}


def _meanings(enum: type[StrEnum]) -> list[tuple[str, str]]:
    """Return what stands under an enum's members in its source, by their values."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(enum)))
    body = cast("ast.ClassDef", tree.body[0]).body
    found: list[tuple[str, str]] = []
    for statement, after in pairwise(body):
        match statement, after:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(said))):
                found.append((enum[name].value, " ".join(said.split())))
            case _:
                pass
    return found


_HEADERS = ("Field", "What it says", "Values", "When left out", "For example")


def rules_page() -> str:
    """Return the page that lists every field of a channel's rules."""
    headings = _headings(ChannelRules)
    parts = [_MADE, _RULES]
    for model, heading in headings.items():
        rows: list[tuple[str, ...]] = []
        for name, field in model.model_fields.items():
            inner = next((found for found, _ in _models(field.annotation, "")), None)
            link = f" → [{headings[inner]}](#{_anchor(headings[inner])})" if inner else ""
            said = _said(name, field) or (_sentence(inner).removesuffix(".") if inner else "")
            rows.append((_code(name), said, _values(field) + link, _default(field), _example(field)))
        said = _sentence(model)
        parts.append(f"\n## {heading}\n\n{said}\n\n{_table(_HEADERS, rows)}")
    enums = dict.fromkeys(
        enum for model in headings for field in model.model_fields.values() for enum in _enums(field.annotation)
    )
    parts.append("\n## What some values mean\n")
    for enum in enums:
        if meanings := _meanings(enum):
            parts.append(f"\n{_sentence(enum)}\n\n")
            parts += [f"- `{value}`: {said}\n" for value, said in meanings]
    return "".join(parts)


def _roles() -> dict[str, type]:
    own = {name: role for name, role in vars(roles).items() if getattr(role, "__module__", "") == roles.__name__}
    return {name: role for name, role in own.items() if getattr(role, "_is_protocol", False)}


def _settings(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, ...]]:
    for name, field in config.model_fields.items():
        if not prefix and name in Config.model_fields:
            continue
        inner = next((found for found, _ in _models(field.annotation, "")), None)
        if inner is not None:
            yield from _settings(inner, f"{prefix}{name}.")
        else:
            example = f"For example {_example(field)}" if field.examples else ""
            said = ". ".join(filter(None, (_said(name, field), example)))
            yield _code(f"{prefix}{name}"), said, _values(field), _default(field)


def _columns(config: type[BaseModel]) -> str:
    """Say which columns a reader of tables knows, if it is one."""
    known: tuple[str, ...] = getattr(config, "FIELDS", ())
    if not known:
        return ""
    groups: tuple[tuple[str, ...], ...] = getattr(config, "REQUIRED", ())
    needed = "; ".join(" or ".join(map(_code, group)) for group in groups)
    return f"\nColumns that `columns` can map: {', '.join(map(_code, known))}. Needed: {needed}.\n"


def connectors_page() -> str:
    """Return the page that lists every type of connector with its roles and settings."""
    played = _roles()
    players: dict[str, list[str]] = {name: [] for name in played}
    overview: list[tuple[str, ...]] = []
    sections: list[str] = []
    for kind, module in types().items():
        playing = [name for name, role in played.items() if all(hasattr(module.CONNECTOR, x) for x in _members(role))]
        for name in playing:
            players[name].append(_code(kind))
        overview.append((f"[{_code(kind)}](#{_anchor(kind)})", ", ".join(map(_code, playing)), _sentence(module)))
        rows = list(_settings(module.CONFIG))
        settings = (
            _table(("Setting", "What it says", "Values", "When left out"), rows) if rows else "It has no settings.\n"
        )
        sections.append(f"\n## `{kind}`\n\n{inspect.getdoc(module)}\n\n{settings}{_columns(module.CONFIG)}")
    explained = [
        (_code(name), _sentence(role), ", ".join(players[name]) or "none yet") for name, role in played.items()
    ]
    return "".join(
        [
            _MADE,
            _CONNECTORS,
            "\n",
            _table(("Setting", "What it says", "When left out"), _OWN_SETTINGS),
            "\n## Types\n\n",
            _table(("Type", "Roles", "What it is"), overview),
            "\n## Roles\n\n",
            _table(("Role", "What it does", "Played by"), explained),
            *sections,
        ]
    )


PAGES = {"rules.md": rules_page, "connectors.md": connectors_page}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
