"""The form of a channel's rules: the fields of the document as the Prefect UI shows them, and what was filled in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from domain.rules import ChannelRules, RulesError

_LEFT_OUT = frozenset({"channel", "groups", "customers", "templates"})
"""The form asks for the first three by themselves; texts have a form of their own."""

_FIRST = ("scenarios", "cases", "placed", "outcomes", "tolerance", "balance", "connectors")
"""What is changed most often stands first."""
_YES_NO = {True: "yes", False: "no"}
Schema = dict[str, Any]


class _FieldsOfRules:
    """Describes a parameter to the Prefect UI as the fields of a channel's document.

    No field has a default, and none is required: what nobody touched is not sent, so it stays as it is in the rules.
    With the defaults of the document, opening a part would set all of it.
    """

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), **deepcopy(rules_schema()), "additionalProperties": False}


RulesGiven = Annotated[dict[str, Any], _FieldsOfRules()]
"""What was filled in. It is read as it came, so that a mistake is said in the sentences of the rules."""


@cache
def rules_schema() -> Schema:
    """Return the JSON schema of the form, without references: the document's, with nothing required but in lists."""
    made = _Made(ChannelRules.model_json_schema()["$defs"])
    fields = made.fields(ChannelRules, ChannelRules.model_json_schema()["properties"])
    names = [*(name for name in _FIRST if name in fields), *(name for name in fields if name not in _FIRST)]
    return {"type": "object", "properties": {name: fields[name] for name in names if name not in _LEFT_OUT}}


class _Made:
    """Makes the form's schema of the document's; titles are the models', as a reference has none of its own."""

    def __init__(self, parts: dict[str, Schema]) -> None:
        self._parts = parts
        self._models = {model.__name__: model for model in _models(ChannelRules)}

    def fields(
        self, model: type[BaseModel], given: dict[str, Schema], *, above: str = "", listed: bool = False
    ) -> dict[str, Schema]:
        """Return how the fields of the document, of a part of it or of an entry of a list are shown."""
        return {
            name: self._field(field, given[name], above=above, listed=listed)
            for name, field in model.model_fields.items()
        }

    def _field(self, field: FieldInfo, given: Schema, *, above: str, listed: bool) -> Schema:
        # The form doesn't show what stands within what, so the title says it.
        title = f"{above} · {field.title}" if above else field.title or ""
        kind = self._kind(given, above=title, listed=listed)
        said = field.description or ""
        replaces = "What is listed here takes the place of the list in force"
        for more in (_example(kind, field.examples), replaces if kind.get("type") == "array" and not listed else ""):
            said = f"{said.removesuffix('.')}. {more}" if more else said
        shown: Schema = {"title": title, "description": said}
        if kind.get("properties") and not listed:
            # Shut until somebody opens it.
            closed = {"type": "null", "title": "Leave as it is"}
            return {**shown, "anyOf": [{"title": "Change", **kind}, closed], "default": None}
        return {**kind, **shown}

    def _kind(self, given: Schema, *, above: str, listed: bool) -> Schema:
        """Return what may stand in a field."""
        if "$ref" in given:
            name = given["$ref"].rpartition("/")[2]
            part = self._parts[name]
            if "properties" not in part:
                return self._kind(part, above=above, listed=listed)
            fields = self.fields(self._models[name], part["properties"], above=above, listed=listed)
            needed = {"required": part["required"]} if listed and "required" in part else {}
            return {"type": "object", "properties": fields, **needed}
        if "anyOf" in given:
            written = [one for one in given["anyOf"] if one.get("type") != "null"]
            kinds = [self._kind(one, above=above, listed=listed) for one in written]
            # A number may be written as a text in a file; a form needs one way.
            kind = next((one for one in kinds if one["type"] == "number"), kinds[0])
            # Where nothing is the default, it is said by leaving the field as it is.
            if len(written) == len(given["anyOf"]) or given.get("default") is None:
                return kind
            return {"anyOf": [{"title": "Write", **kind}, {"type": "null", "title": "Empty"}]}
        match given["type"]:
            case "boolean":
                # A switch can't say that nobody touched it.
                return {"type": "string", "enum": list(_YES_NO.values())}
            case "array":
                unique = {"uniqueItems": True} if given.get("uniqueItems") else {}
                return {"type": "array", "items": self._kind(given["items"], above="", listed=True), **unique}
            case "object":
                return {"type": "object"}
            case _:
                kept = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "maxLength", "pattern")
                return {name: given[name] for name in kept if name in given}


def example_said(example: Any) -> str:
    """Return an example as it is written."""
    return example if isinstance(example, str) else json.dumps(example, ensure_ascii=False, default=str)


def _example(kind: Schema, examples: list[Any] | None) -> str:
    """Return the help text's example; where there are choices, or fields of their own, none is needed."""
    if not examples or "enum" in kind or "properties" in kind:
        return ""
    if kind.get("type") == "object":
        return f"Written as JSON, for example {example_said(examples[0])}"
    if kind.get("type") != "array":
        return f"For example {example_said(examples[0])}"
    return f"For example {', '.join(examples[0])}" if kind["items"] == {"type": "string"} else ""


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for kind in _kinds(field.annotation):
            for inner in (kind, *(each for arg in get_args(kind) for each in _kinds(arg))):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from _models(inner)


# What came back


def put_in(document: dict[str, Any], given: dict[str, Any], *, group: str = "", customer: str = "") -> dict[str, Any]:
    """Return a channel's document with what a form says put in: for the channel, or for one group or customer.

    A part is merged, field by field; a list and a value take the place of the one before. Raises RulesError for a group
    and a customer at once.
    """
    if group and customer:
        raise RulesError("Group and Customer are both filled in; change one of them at a time")
    made = deepcopy(document)
    place = made
    for kind, name in (("groups", group), ("customers", customer)):
        if name:
            place = made.setdefault(kind, {}).setdefault(name, {})
    _merge(place, _read(ChannelRules, given))
    return made


def take_out(document: dict[str, Any], lines: list[str], *, group: str = "", customer: str = "") -> dict[str, Any]:
    """Return a channel's document without lines such as placed.card.status, so that what is below them holds again.

    Raises RulesError, naming it, for a line that isn't written.
    """
    made = deepcopy(document)
    above = [part for kind, name in (("groups", group), ("customers", customer)) if name for part in (kind, name)]
    for line in filter(None, map(str.strip, lines)):
        *parts, last = path = [*above, *line.split(".")]
        at: Any = made
        for part in parts:
            at = cast("dict[str, Any]", at).get(part) if isinstance(at, dict) else None
        if not isinstance(at, dict) or last not in at:
            raise RulesError(f"“{'.'.join(path)}” is not written in the rules, so it can't be taken out")
        del at[last]
        _tidy(made, parts)
    return made


def _tidy(document: dict[str, Any], path: list[str]) -> None:
    """Take parts out that have nothing left in them."""
    for end in range(len(path), 0, -1):
        at = document
        for part in path[: end - 1]:
            at = at[part]
        if at[path[end - 1]] == {}:
            del at[path[end - 1]]


def _merge(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        old = below.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(cast("dict[str, Any]", old), cast("dict[str, Any]", value))
        else:
            below[key] = value


def _read(model: type[BaseModel], given: dict[str, Any]) -> dict[str, Any]:
    """Return what was filled in of a part; a part that was left shut is none."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        field = model.model_fields.get(name)
        kinds = _kinds(field.annotation) if field else []
        if value is None and NoneType not in kinds:
            continue
        read = _value(kinds, value)
        if read != {}:
            found[name] = read
    return found


def _value(kinds: list[Any], value: Any) -> Any:
    part = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    if part and isinstance(value, dict):
        return _read(part, cast("dict[str, Any]", value))
    if isinstance(value, list):
        inner = [each for kind in kinds for arg in get_args(kind) for each in _kinds(arg)]
        return [_value(inner, one) for one in cast("list[Any]", value)]
    if bool in kinds and value in _YES_NO.values():
        return value == _YES_NO[True]
    return value


def _kinds(annotation: Any) -> list[Any]:
    """Return what a field may be, one by one."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [annotation]
