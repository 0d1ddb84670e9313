"""Which line of a channel's document decides what for an order: customer before group before channel before default."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple, cast

from pydantic import BaseModel

from domain.payments import Method
from domain.rules import CaseFacts, ChannelRules, Decided, ScenarioRules

_MISSING = object()


class Level(StrEnum):
    """Where a line stands, narrowest first."""

    CUSTOMER = "customer"
    GROUP = "group"
    CHANNEL = "channel"
    DEFAULT = "default"
    """No line says it."""


class Line(NamedTuple):
    """A line of the document: where it stands, and what it says, as it was written."""

    level: Level
    path: str
    said: Any


class Explained(NamedTuple):
    """One decision: the value that the steps use, and the lines that speak of it, the one that decides first.

    path is its place in the rules that hold for the order, such as scenarios.card.status. For a message it is that
    of all messages, as they are replaced together, followed by the moment and the way. Values are plain JSON.
    """

    path: str
    title: str
    value: Any
    lines: tuple[Line, ...]

    @property
    def level(self) -> Level:
        """Return where the line stands that decides."""
        return self.lines[0].level if self.lines else Level.DEFAULT

    @property
    def line(self) -> str | None:
        """Return the path of the line that decides, or None when the default holds."""
        return self.lines[0].path if self.lines else None


class _Decision(NamedTuple):
    path: tuple[str, ...]
    title: str
    value: Any


def cases_for(rules: ChannelRules, *, group: str | None, customer: str | None, facts: CaseFacts) -> list[Decided]:
    """Return the cases that fit an order, at most one of a level, that of the narrowest level first."""
    return rules.for_customer(group=group, customer=customer).cases_of(facts)[::-1]


def explain(
    rules: ChannelRules,
    *,
    group: str | None,
    customer: str | None,
    method: Method,
    facts: CaseFacts | None = None,
) -> list[Explained]:
    """Return what a channel's rules decide for an order of a customer, paid by a method, and the line of each.

    facts are what the conditions of cases are about; without them no case is looked for. The line of a case comes
    before the other lines of its level.
    """
    own = rules.for_customer(group=group, customer=customer)
    fitting = {one.level: one for one in own.cases_of(facts)} if facts else {}
    scenario = own.scenario_by(facts) if facts else own.scenarios.of(method)
    documents = [
        (Level.CUSTOMER, ("customers", customer or ""), rules.customers.get(customer or "", {})),
        (Level.GROUP, ("groups", group or ""), rules.groups.get(group or "", {})),
        (Level.CHANNEL, (), rules.model_dump(mode="json", exclude_unset=True, exclude={"groups", "customers"})),
    ]
    found: list[Explained] = []
    for decision in _decisions(own, method, scenario):
        lines = tuple(
            Line(level, path, said)
            for level, above, document in documents
            for path, said in _spoken(above, document, fitting.get(".".join(above)), decision.path, method)
        )
        path = ".".join(decision.path)
        if path.endswith(".messages") and decision.value:
            found.extend(
                Explained(f"{path}.{one['moment']}.{one['by']}", "Message", one["template"], lines)
                for one in decision.value
            )
        else:
            found.append(Explained(path, decision.title, decision.value, lines))
    return found


def _spoken(
    above: tuple[str, ...], document: dict[str, Any], decided: Decided | None, path: tuple[str, ...], method: Method
) -> Iterator[tuple[str, Any]]:
    """Yield what one level says of a decision, with the path of the line: its case first, then its own line."""
    if decided and path[:2] == ("scenarios", method.value):
        said = _said(decided.case.then.model_dump(mode="json", exclude_none=True, exclude_unset=True), path[2:])
        if said is not _MISSING:
            yield ".".join((decided.path, "then", *path[2:])), said
    if (said := _said(document, path)) is not _MISSING:
        yield ".".join((*above, *path)), said


def _decisions(own: ChannelRules, method: Method, scenario: ScenarioRules) -> Iterator[_Decision]:
    yield from _leaves(own.placed.of(method), ("placed", method.value))
    yield from _of(own, "reservation_days", "grace_days")
    yield from _leaves(scenario, ("scenarios", method.value))
    yield from _of(own, "outcomes", "tolerance", "conversion", "money_back", "holds", "balance", "connectors")
    for template, texts in own.templates.items():
        for language, text in texts.items():
            for decision in _leaves(text, ("templates", template.value, language)):
                # What a text doesn't say is taken from a file, which is no line of the rules.
                if decision.path[-1] in text.model_fields_set:
                    yield decision


def _of(own: ChannelRules, *fields: str) -> Iterator[_Decision]:
    yield from _leaves(own, (), only=frozenset(fields))


def _leaves(part: BaseModel, above: tuple[str, ...], *, only: frozenset[str] | None = None) -> Iterator[_Decision]:
    """Yield the fields of a part and of the parts in it."""
    names = [name for name in type(part).model_fields if only is None or name in only]
    plain = part.model_dump(mode="json", include=set(names))
    for name in names:
        inner = getattr(part, name)
        if isinstance(inner, BaseModel):
            yield from _leaves(inner, (*above, name))
        else:
            yield from _spread((*above, name), type(part).model_fields[name].title or name, plain[name])


def _spread(path: tuple[str, ...], title: str, value: Any) -> Iterator[_Decision]:
    """Yield a value; of one by name, such as rates, each name's own, since these merge one by one."""
    if isinstance(value, dict) and value:
        for name, inner in cast("dict[str, Any]", value).items():
            yield _Decision((*path, name), title, inner)
    else:
        yield _Decision(path, title, value)


def _said(document: dict[str, Any], path: tuple[str, ...]) -> Any:
    at: Any = document
    for name in path:
        if not isinstance(at, dict) or name not in at:
            return _MISSING
        at = cast("dict[str, Any]", at)[name]
    return at
