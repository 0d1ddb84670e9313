"""Messages to customers from templates: subject, text and HTML, in the customer's language.

An e-mail is three files, `<language>/<template>.subject.j2`, `.txt.j2` and `.html.j2`, an SMS is one, `.sms.j2`; each
is looked for in each folder in turn. A channel's own texts go before all files. Templates are Jinja in a sandbox: they
print and choose, but reach nothing outside and always end.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from functools import wraps
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from babel import Locale, UnknownLocaleError
from babel.dates import format_date
from jinja2 import (
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateNotFound,
    Undefined,
    meta,
    nodes,
    pass_context,
    pass_eval_context,
)
from jinja2.exceptions import SecurityError, TemplateRuntimeError, TemplateSyntaxError
from jinja2.nodes import EvalContext
from jinja2.runtime import BlockReference, Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import escape

from connectors.errors import Misconfigured
from connectors.sms import plain
from domain.money import Money, exponent
from domain.rules import MessageText

MAX_STEPS = 20_000
"""Turns of loops, calls and inclusions that one file of a message may take."""
MAX_CHARACTERS = 256 * 1024
"""The size of one file of a message, and of every text or list built on the way."""
MAX_WRITTEN = 4 * MAX_CHARACTERS
"""All that one file of a message may write, also into variables and where it is thrown away again."""
MAX_SECONDS = 3.0
"""The processor's time that one file of a message may take."""
MAX_SUBJECT = 200
MAX_SMS = 600
"""Characters of an SMS; each 67 to 153 of them are paid for."""

Form = Literal["subject", "txt", "html", "sms"]
"""The parts of a message, as the ends of their files' names say them."""
_FIELDS: dict[Form, str] = {"subject": "subject", "txt": "text", "html": "html", "sms": "sms"}
_KEPT = 200
_FALLBACK = "en"
# English as it is written in Europe: the day before the month, the currency after the amount and a space.
_LOCALES = {"en": "en_150"}
# Chosen so that none can blow up a text: no repeating, padding or replacing, and no way round the escaping.
_FILTERS = (
    "abs capitalize count default dictsort escape e first float int items join last length list lower map reject "
    "rejectattr round select selectattr sort string sum title trim truncate unique upper"
).split()
_TESTS = (
    "boolean defined divisibleby even false float integer iterable lower mapping none number odd sequence string true "
    "undefined upper"
).split()


class ShopPart(TypedDict):
    """The shop that writes; e-mail may be empty."""

    title: str
    email: str


class CustomerPart(TypedDict):
    """To whom; the name may be empty."""

    name: str


class LinePart(TypedDict):
    """A line of the order; total is gross."""

    title: str
    quantity: int
    total: Money


class OrderPart(TypedDict):
    """The order; status_label is a standard status (translated by `words.j2`) or the words of the channel's own."""

    number: str
    total: Money
    status_label: str
    lines: Sequence[LinePart]


class PaymentPart(TypedDict):
    """This payment's amount, what has been paid of the order altogether, and what is missing (zero when nothing is)."""

    amount: Money
    paid: Money
    missing: Money


class DocumentPart(TypedDict):
    """A document; kind as in domain.rules.DocumentKind. attached: it goes with the message, true unless said."""

    number: str
    kind: str
    due_on: date | None
    attached: NotRequired[bool]


class InstructionsPart(TypedDict):
    """How to pay; what is empty or None is left out of the message.

    amount is what is to be paid now, and on_delivery what the carrier collects besides.
    """

    iban: str
    bic: str | None
    variable_symbol: str | None
    rf: str | None
    amount: Money
    on_delivery: NotRequired[Money | None]
    due_on: date | None


class ShipmentPart(TypedDict):
    """A consignment; collect is what the customer pays on delivery, if anything."""

    tracking_number: str
    collect: Money | None


class MessageContext(TypedDict):
    """Everything a template can print; besides it, `language` is the language that the message is written in."""

    shop: ShopPart
    customer: CustomerPart
    order: OrderPart
    payment: NotRequired[PaymentPart | None]
    document: NotRequired[DocumentPart | None]
    instructions: NotRequired[InstructionsPart | None]
    shipment: NotRequired[ShipmentPart | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A message's parts, an SMS has a text alone; language is the one it was found in."""

    subject: str
    text: str
    html: str
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where one part of a message is from: level orders the places, the narrowest first; text is None for a file."""

    name: str
    language: str
    level: tuple[int, int]
    text: str | None = None


OwnTexts = Mapping[Any, MessageText]
"""A channel's own texts of one message, by language, or `any`."""


class _Left:
    """What a file of a message may still use."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.written = MAX_WRITTEN
        self.until = time.thread_time() + MAX_SECONDS

    def step(self, steps: int = 1) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise SecurityError(f"takes more than {MAX_STEPS} steps; is there a loop that doesn't end?")
        if time.thread_time() > self.until:
            raise SecurityError(f"takes more than {MAX_SECONDS:g} seconds; what it does over and over is too much")

    def write(self, characters: int) -> None:
        self.written -= characters
        if self.written < 0:
            raise SecurityError(f"writes more than {MAX_WRITTEN} characters; is there a loop that doesn't end?")


_left: ContextVar[_Left] = ContextVar("what is left")


def _step(steps: int = 1) -> None:
    _left.get().step(steps)


def _counted(values: Iterable[Any], written: int = 0) -> Iterator[Any]:
    for value in values:
        _step()
        _left.get().write(written)
        yield value


def _bounded(value: object) -> object:
    if isinstance(value, Sized) and not isinstance(value, Undefined) and len(value) > MAX_CHARACTERS:
        raise SecurityError(f"gives more than {MAX_CHARACTERS} characters")
    if isinstance(value, int) and value.bit_length() > 64:
        raise SecurityError("calculates with a number of more than 64 bits")
    return value


def _single(value: object) -> object:
    """Let a value pass that is no list: twenty lists of two lists each would take a million words to write."""
    if isinstance(value, (Mapping, Sequence, AbstractSet, Iterator)) and not isinstance(value, (str, Undefined)):
        raise SecurityError("a list can't be written or put into a list; go through it with “for”, or join it")
    return _bounded(value)


@pass_context  # so that constants are counted each time they are written, and not folded into the text around them
def _written(_context: Context, value: object) -> object:
    _single(value)
    _left.get().write(len(value) if isinstance(value, str) else 1)
    return value


@pass_eval_context
def _join(eval_ctx: EvalContext, value: Iterable[Any], d: Any = "", attribute: str | None = None) -> str:
    """Join as Jinja does, and stop where the text grows too long."""
    parts: list[Any] = []
    size, between = 0, _soft(eval_ctx, d)
    for item in value:
        _step()
        item = item if attribute is None else eval_ctx.environment.getitem(item, attribute)  # noqa: PLW2901
        part = _soft(eval_ctx, _single(item))
        size += len(part) + len(between)
        if size > MAX_CHARACTERS:
            raise SecurityError(f"gives more than {MAX_CHARACTERS} characters")
        parts.append(part)
    return between.join(parts)


def _soft(eval_ctx: EvalContext, value: object) -> str:
    return escape(value) if eval_ctx.autoescape else str(value)


def _sum(value: Iterable[Any], attribute: str | None = None, start: int = 0) -> Any:
    """Add numbers up."""
    total: Any = start
    for item in value:
        _step()
        number = item if attribute is None else item[attribute]
        if not isinstance(number, (int, float, Decimal)):
            raise TemplateRuntimeError("the filter sum is for numbers")
        total = _bounded(total + number)
    return total


def _round(value: Any, precision: int = 0) -> Any:
    """Round a number to so many decimals."""
    if not isinstance(value, (int, float, Decimal)) or not 0 <= precision <= 20:
        raise TemplateRuntimeError("the filter round is for numbers, to at most 20 decimals")
    return round(value, precision)


# These are given lists; all others are given one thing to write it in another way.
_OF_LISTS = frozenset(
    "count default dictsort first items join last length list map reject rejectattr select selectattr".split()
    + "sort sum unique".split()
)


def _guarded(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """Bound what a filter is given and what it gives; one that writes is not given lists."""
    check = _bounded if name in _OF_LISTS else _single

    @wraps(made)  # and with it what Jinja notes on a filter that wants its context
    def guarded(*given: Any, **named: Any) -> Any:
        _step()
        for value in (*given, *named.values()):
            if not isinstance(value, (Context, EvalContext, ImmutableSandboxedEnvironment)):
                check(value)
        return _bounded(made(*given, **named))

    return guarded


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    _step(len(numbers))
    return numbers


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja without any call but a template's own macros and blocks, and with an end to every loop and text."""

    intercepted_binops = frozenset({"+", "*", "%", "**"})

    def __init__(self, folders: Sequence[Path], language: str, *, html: bool) -> None:
        # Each environment escapes everything or nothing, so that what one file takes in from another can't differ.
        super().__init__(
            loader=FileSystemLoader(folders),
            autoescape=html,
            optimized=False,
            finalize=_written,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.globals = {"range": _range, "language": language}
        own = {"join": _join, "sum": _sum, "round": _round, **_formats(language)}
        chosen = {name: self.filters[name] for name in _FILTERS} | own
        self.filters = {name: _guarded(name, made) for name, made in chosen.items()}
        self.filters |= {"_counted": _counted, "_bounded": _bounded, "_single": _single}
        self.tests = {name: self.tests[name] for name in _TESTS}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in [*tree.find_all(nodes.For)]:
            text = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
            loop.iter = _filter(loop.iter, "_counted", loop.lineno, nodes.Const(text))
        for concat in [*tree.find_all(nodes.Concat)]:
            concat.nodes = [_filter(part, "_single", concat.lineno) for part in concat.nodes]
        for made in [*tree.find_all((nodes.List, nodes.Tuple))]:
            if getattr(made, "ctx", "load") == "load":
                made.items = [_element(item) for item in made.items]
        for pair in [*tree.find_all(nodes.Pair)]:
            pair.value = _element(pair.value)
        for named in [*tree.find_all(nodes.Name)]:
            if named.name in ("varargs", "kwargs"):
                raise TemplateSyntaxError(f"“{named.name}” can't be used here", named.lineno, name, filename)
        for block in [*tree.find_all(nodes.AssignBlock)]:
            block.filter = _filter(block.filter, "_bounded", block.lineno)
        return tree

    def get_template(self, *arguments: Any, **options: Any) -> Template:
        _step()
        return super().get_template(*arguments, **options)

    def is_safe_callable(self, obj: Any) -> bool:
        return isinstance(obj, (Macro, BlockReference, Undefined)) or obj is _range

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not self.is_safe_callable(obj):
            raise SecurityError("only a template's own macros, blocks and range() can be called")
        _step()
        return _bounded(context.call(obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, (int, Decimal)) and isinstance(right, (int, Decimal))
        if operator == "**" or (operator != "+" and not numbers):
            raise SecurityError(f"“{operator}” can't be used here")
        return _bounded(super().call_binop(context, operator, left, right))


def _filter(node: nodes.Node | None, name: str, line: int, *given: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(cast("nodes.Expr | None", node), name, [*given], [], None, None, lineno=line)


def _element(node: nodes.Expr) -> nodes.Expr:
    """Check what is put into a list, unless it is written out as one right there."""
    return node if isinstance(node, nodes.Literal) else _filter(node, "_single", node.lineno)


def _formats(language: str) -> dict[str, Any]:
    """Return the filters that write values as a language does: money, date, plural and fours."""
    try:
        locale = Locale.parse(_LOCALES.get(language, language))
    except (ValueError, UnknownLocaleError):
        raise Misconfigured(f"messages: there is no language “{language}”; name its folder such as cs or en") from None

    def money(value: Any) -> str:
        if not isinstance(value, Money):
            raise TemplateRuntimeError("the filter money is for amounts of money")
        # With the decimals that the money has: CLDR would round away those that cash no longer has, as of RSD.
        pattern = copy(locale.currency_formats["standard"])
        pattern.frac_prec = (exponent(value.currency),) * 2
        return pattern.apply(value.decimal, locale, currency=value.currency, currency_digits=False)

    def long_date(value: Any) -> str:
        if not isinstance(value, date):
            raise TemplateRuntimeError("the filter date is for dates")
        return format_date(value, "long", locale=locale)

    def plural(count: Any, **forms: str) -> str:
        """Return the form for a count by CLDR's rules; other stands in for forms not given."""
        if isinstance(count, float):
            count = Decimal(str(count))
        if not isinstance(count, (int, Decimal)) or not forms.keys() & {"other", "few"}:
            raise TemplateRuntimeError("the filter plural is for numbers and needs at least the form other")
        return forms.get(locale.plural_form(count)) or forms.get("other") or forms["few"]

    return {"money": money, "date": long_date, "plural": plural, "fours": _fours}


def _fours(value: Any) -> str:
    """Write an IBAN or RF reference in groups of four, as it is read out."""
    return " ".join(re.findall(".{1,4}", str(value)))


def plural_forms(language: str) -> frozenset[str]:
    """Return the forms that the filter plural needs in a language, such as one, few, many.

    In Ukrainian and Russian other is for fractions alone, which are written as few is, so it can be left out.
    """
    locale = Locale.parse(_LOCALES.get(language, language))
    counts = [*range(201), Decimal("0.5"), Decimal("1.5")]
    needed = {locale.plural_form(count) for count in counts}
    return frozenset(needed - {"other"} if language in ("uk", "ru") else needed)


def known_variables() -> list[str]:
    """Return what a template can print, such as `order.number`."""
    return ["language", *(f"{part}.{name}" for part, kind in _PARTS.items() for name in kind.__annotations__)]


_PARTS: dict[str, type] = {
    "shop": ShopPart,
    "customer": CustomerPart,
    "order": OrderPart,
    "payment": PaymentPart,
    "document": DocumentPart,
    "instructions": InstructionsPart,
    "shipment": ShipmentPart,
}
OPTIONAL_PARTS = ("payment", "document", "instructions", "shipment")
"""What a message may have nothing of, so a template asks first: `{% if payment %}`."""


class Templates:
    """The message templates of an installation; the first folder that has a file wins."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._sandboxes: dict[tuple[str, bool], _Sandbox] = {}
        self._compiled: dict[tuple[str, bool, str, str], Template] = {}

    def render(self, template: str, language: str, context: MessageContext, own: OwnTexts | None = None) -> Rendered:
        """Write an e-mail from the channel's own texts, or the files of a language, or those in English.

        The page and the plain text always say the same: where one of them is from a narrower place than the other, the
        other is made of it. Raises Misconfigured, naming place and line, for a template that doesn't exist or work.
        """
        values = _values(context)
        subject, text, html = (self.source(template, language, form, own) for form in ("subject", "txt", "html"))
        if text is None and html is None:
            raise self._missing(template, "txt")
        if subject is None:
            raise Misconfigured(f"messages: the file {_FALLBACK}/{template}.subject.j2 is missing")
        plain_text = page = ""
        if text is not None and (html is None or text.level <= html.level):
            plain_text = self._fill(text, values, html=False)
            plain_text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", plain_text)).strip() + "\n"
        if html is not None and (text is None or html.level <= text.level):
            page = self._fill(html, values, html=True)
        return Rendered(
            subject=_one_line(self._fill(subject, values, html=False)),
            text=plain_text or _text_of(page),
            html=page or _page_of(plain_text, context["shop"]["title"], (text or subject).language),
            language=(text if plain_text and text is not None else html or subject).language,
        )

    def render_sms(
        self, template: str, language: str, context: MessageContext, own: OwnTexts | None = None
    ) -> Rendered:
        """Write a message of one line from the channel's own text, or the file of a language, or the English one.

        Marks on Latin letters are left out where that makes it cheaper. Raises Misconfigured as render does, and for a
        text that is empty or longer than an SMS can be.
        """
        source = self.source(template, language, "sms", own)
        if source is None:
            raise self._missing(template, "sms")
        text = plain(" ".join(self._fill(source, _values(context), html=False).split()))
        if not 0 < len(text) <= MAX_SMS:
            raise Misconfigured(
                f"message template {source.name}: gives {len(text)} characters; it must be 1 to {MAX_SMS}"
            )
        return Rendered(subject="", text=text, html="", language=source.language)

    def source(self, template: str, language: str, form: Form, own: OwnTexts | None = None) -> Source | None:
        """Return where a part of a message is taken from, or None when nothing has it.

        The order: the channel's text in this language, the channel's for any, the file of this language, the English
        file; of files the first folder's.
        """
        for level, key in enumerate((language, "any")):
            text = str(getattr(own[key], _FIELDS[form])) if own and key in own else ""
            if text.strip():
                # A text for any language is written with the words, dates and amounts of one that is there.
                written = language if key == language or self._has(language, "words.j2") else _FALLBACK
                return Source(
                    name=f"templates.{template}.{key}.{_FIELDS[form]}", language=written, level=(level, 0), text=text
                )
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", template):
            return None
        for level, found in enumerate((language, _FALLBACK), start=2):
            for place, folder in enumerate(self._folders):
                name = f"{found}/{template}.{form}.j2"
                if re.fullmatch("[a-z]{2,3}", found) and (folder / name).is_file():
                    return Source(name=name, language=found, level=(level, place))
        return None

    def file_of(self, source: Source) -> Path | None:
        """Return the file that a part is taken from, or None for a channel's own text."""
        return None if source.text is not None else self._folders[source.level[1]] / source.name

    def fill(self, source: Source, context: MessageContext, *, html: bool = False) -> str:
        """Write one part of a message as it is, before anything is trimmed. Raises Misconfigured as render does."""
        return self._fill(source, _values(context), html=html)

    def unknown(self, source: Source, *, html: bool = False) -> list[str]:
        """Return a sentence for each variable that no message has, and each plural that lacks a form.

        Raises Misconfigured for what can't be read as a template.
        """
        sandbox = self._sandbox(source.language, html=html)
        text = source.text
        try:
            if text is None:
                text = _source_of(sandbox, source.name)
            tree = sandbox.parse(text, source.name, source.name)
            undeclared = meta.find_undeclared_variables(sandbox.parse(text, source.name, source.name))
            inherited = _inherited(sandbox, tree)
        except _FAILURES as error:
            raise Misconfigured(_complaint(source.name, error)) from None
        return [
            *_strange(source.name, tree, undeclared - inherited, inherited),
            *_short_plurals(source.name, tree, source.language),
        ]

    def _has(self, language: str, name: str) -> bool:
        return bool(re.fullmatch("[a-z]{2,3}", language)) and any(
            (folder / language / name).is_file() for folder in self._folders
        )

    def _missing(self, template: str, form: Form) -> Misconfigured:
        folders = ", ".join(str(folder) for folder in self._folders)
        return Misconfigured(f"messages: there is no {_FALLBACK}/{template}.{form}.j2 in {folders}; write it there")

    def _sandbox(self, language: str, *, html: bool) -> _Sandbox:
        made = self._sandboxes.get((language, html))
        if made is None:
            made = self._sandboxes[language, html] = _Sandbox(self._folders, language, html=html)
        return made

    def _template(self, source: Source, *, html: bool) -> Template:
        sandbox = self._sandbox(source.language, html=html)
        if source.text is None:
            return sandbox.get_template(source.name)
        key = (source.language, html, source.name, source.text)
        if key not in self._compiled:
            if len(self._compiled) >= _KEPT:
                self._compiled.clear()
            code = sandbox.compile(source.text, source.name, source.name)
            self._compiled[key] = Template.from_code(sandbox, code, sandbox.make_globals(None))
        return self._compiled[key]

    def _fill(self, source: Source, values: Mapping[str, Any], *, html: bool) -> str:
        before = _left.set(_Left())
        try:
            size, pieces = 0, list[str]()
            for piece in self._template(source, html=html).generate(values):
                size += len(piece)
                if size > MAX_CHARACTERS:
                    raise SecurityError(f"gives more than {MAX_CHARACTERS} characters")
                pieces.append(piece)
            return "".join(pieces)
        except _FAILURES as error:
            raise Misconfigured(_complaint(source.name, error)) from None
        finally:
            _left.reset(before)


# A text that nests too deep is refused by Python's own compiler, with SyntaxError or MemoryError.
_FAILURES = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)


def _source_of(sandbox: _Sandbox, name: str) -> str:
    return cast("FileSystemLoader", sandbox.loader).get_source(sandbox, name)[0]


def _inherited(sandbox: _Sandbox, tree: nodes.Template, depth: int = 0) -> set[str]:
    """Return what the templates that a template extends have set, such as `words`."""
    found = set[str]()
    for extends in tree.find_all(nodes.Extends):
        if isinstance(extends.template, nodes.Const) and depth < 5:
            name = str(extends.template.value)
            parent = sandbox.parse(_source_of(sandbox, name), name, name)
            found |= {one.target for one in parent.find_all(nodes.Import)}
            found |= {one.name for one in parent.find_all(nodes.Name) if one.ctx == "store"}
            found |= {one.name for one in parent.find_all(nodes.Macro)}
            found |= _inherited(sandbox, parent, depth + 1)
    return found


def _strange(name: str, tree: nodes.Template, undeclared: AbstractSet[str], inherited: AbstractSet[str]) -> list[str]:
    """Say which variables are not known, where, and which one may have been meant."""
    known = known_variables()
    parts = undeclared & _PARTS.keys()
    strange = dict[str, int]()
    for one in tree.find_all(nodes.Name):
        if one.name in undeclared - _PARTS.keys() - {"language", "range", "self", "super", "caller", "loop"}:
            strange.setdefault(one.name, one.lineno)
    for one in tree.find_all((nodes.Getattr, nodes.Getitem)):
        field = one.attr if isinstance(one, nodes.Getattr) else getattr(one.arg, "value", None)
        if isinstance(one.node, nodes.Name) and one.node.name in parts and isinstance(field, str):
            written = f"{one.node.name}.{field}"
            if written not in known and not field.startswith("_"):
                strange.setdefault(written, one.lineno)
    said = list[str]()
    for written, line in strange.items():
        near = get_close_matches(written, [*known, *_PARTS, *inherited], n=1)
        meant = f"did you mean “{near[0]}”? " if near else ""
        said.append(
            f"message template {name}, line {line}: “{written}” is not known; {meant}Known are {', '.join(known)}"
        )
    return said


def _short_plurals(name: str, tree: nodes.Template, language: str) -> list[str]:
    said = list[str]()
    for one in tree.find_all(nodes.Filter):
        given = {pair.key for pair in one.kwargs}
        if one.name == "plural" and one.dyn_kwargs is None and (lacking := plural_forms(language) - given):
            order = ("zero", "one", "two", "few", "many", "other")
            forms = ", ".join(form for form in order if form in lacking)
            said.append(f"message template {name}, line {one.lineno}: plural lacks {forms}, which {language} needs")
    return said


def _page_of(text: str, title: str, language: str) -> str:
    """Make a plain page of a text, so that both say the same."""
    paragraphs = [str(escape(part)).replace("\n", "<br>\n") for part in text.strip().split("\n\n")]
    body = "\n".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return (
        f'<!DOCTYPE html>\n<html lang="{escape(language)}">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


class _Words(HTMLParser):
    """What is read of a page, with its paragraphs and rows as lines."""

    _UNSEEN = frozenset({"head", "style", "script", "title"})
    _LINES = frozenset("p div br tr li h1 h2 h3 h4 h5 h6 table ul ol blockquote hr".split())

    def __init__(self) -> None:
        super().__init__()
        self._within: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag in self._UNSEEN:
            self._within.append(tag)
        self.text += "\n" if tag in self._LINES else ""

    def handle_endtag(self, tag: str) -> None:
        if tag in self._within:
            del self._within[self._within.index(tag) :]
        self.text += "\n" if tag in self._LINES else " " if tag in ("td", "th") else ""

    def handle_data(self, data: str) -> None:
        if not self._within:
            self.text += re.sub(r"[ \t\r\n]+", " ", data)


def _text_of(page: str) -> str:
    words = _Words()
    words.feed(page)
    words.close()
    lines = [re.sub("  +", " ", line).strip() for line in words.text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _values(context: MessageContext) -> dict[str, Any]:
    """Return what a template is given: each part, also those that there is nothing of."""
    empty = dict.fromkeys(OPTIONAL_PARTS)
    values: dict[str, Any] = {**empty, **context}
    if values["document"]:
        values["document"] = {"attached": True, **values["document"]}
    return values


def _one_line(text: str) -> str:
    """Make a subject of a text: no line breaks, no control or direction characters, not too long for a list of mail."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return line if len(line) <= MAX_SUBJECT else line[: MAX_SUBJECT - 1] + "…"


def _complaint(name: str, error: Exception) -> str:
    """Say which file and line of a template is wrong, and how; what it was given is not repeated."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    file, line = next((at for at in reversed(frames) if at[0].endswith(".j2") or at[0] == name), (name, 0))
    if isinstance(error, TemplateSyntaxError):
        known = error.filename is not None and error.filename.endswith(".j2")
        file, line = (error.filename if known else name), error.lineno
    if isinstance(error, TemplateNotFound):
        said = f"the file {error.name} is missing"
    elif isinstance(error, UnicodeDecodeError):
        said = "is not written in UTF-8"
    elif isinstance(error, RecursionError):
        said = "takes itself in without an end"
    elif isinstance(error, (SyntaxError, MemoryError)):
        said, line = "nests too deep", 0
    else:
        said = (
            str(error.message) if isinstance(error, TemplateError) else f"can't be worked out ({type(error).__name__})"
        )
    return f"message template {file}{f', line {line}' if line else ''}: {said}"
