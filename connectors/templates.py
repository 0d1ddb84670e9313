"""Messages to customers from templates: subject, text and HTML, in the customer's language.

A message is three files, `<language>/<template>.subject.j2`, `.txt.j2` and `.html.j2`, looked for in each folder in
turn. Templates are Jinja in a sandbox: they print and choose, but reach nothing outside and always end.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from babel import Locale, UnknownLocaleError
from babel.dates import format_date
from jinja2 import FileSystemLoader, StrictUndefined, Template, TemplateError, TemplateNotFound, Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError, TemplateSyntaxError
from jinja2.runtime import BlockReference, Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from connectors.errors import Misconfigured
from domain.money import Money, exponent

MAX_STEPS = 20_000
"""Turns of loops, calls and inclusions that one file of a message may take."""
MAX_CHARACTERS = 256 * 1024
"""The size of one file of a message, and of every text or list built on the way."""
MAX_SUBJECT = 200

_FALLBACK = "en"
# English as it is written in Europe: the day before the month, the currency after the amount and a space.
_LOCALES = {"en": "en_150"}
# Chosen so that none can blow up a text: no repeating, padding or replacing, and no way round the escaping.
_FILTERS = (
    "abs capitalize count default dictsort escape e first float int items join last length list lower map reject "
    "rejectattr round select selectattr sort string sum title trim truncate unique upper"
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
    """How to pay; what is empty or None is left out of the message."""

    iban: str
    bic: str | None
    variable_symbol: str | None
    rf: str | None
    amount: Money
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
    """A message's parts; language is the one it was found in."""

    subject: str
    text: str
    html: str
    language: str


_steps_left: ContextVar[int] = ContextVar("steps left")


def _step(steps: int = 1) -> None:
    left = _steps_left.get(MAX_STEPS) - steps
    _steps_left.set(left)
    if left < 0:
        raise SecurityError(f"takes more than {MAX_STEPS} steps; is there a loop that doesn't end?")


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _step()
        yield value


def _bounded(value: object) -> object:
    if isinstance(value, Sized) and len(value) > MAX_CHARACTERS:
        raise SecurityError(f"gives more than {MAX_CHARACTERS} characters")
    if isinstance(value, int) and value.bit_length() > 64:
        raise SecurityError("calculates with a number of more than 64 bits")
    return value


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
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.globals = {"range": _range, "language": language}
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.filters |= {"_counted": _counted, "_bounded": _bounded, **_formats(language)}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in [*tree.find_all(nodes.For)]:
            loop.iter = _filter(loop.iter, "_counted", loop.lineno)
        for concat in [*tree.find_all(nodes.Concat)]:
            concat.nodes = [_filter(part, "_bounded", concat.lineno) for part in concat.nodes]
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


def _filter(node: nodes.Node | None, name: str, line: int) -> nodes.Filter:
    return nodes.Filter(cast("nodes.Expr | None", node), name, [], [], None, None, lineno=line)


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
        if not isinstance(count, int) or "other" not in forms:
            raise TemplateRuntimeError("the filter plural is for whole numbers and needs at least the form other")
        return forms.get(locale.plural_form(count), forms["other"])

    return {"money": money, "date": long_date, "plural": plural, "fours": _fours}


def _fours(value: Any) -> str:
    """Write an IBAN or RF reference in groups of four, as it is read out."""
    return " ".join(re.findall(".{1,4}", str(value)))


class Templates:
    """The message templates of an installation; the first folder that has a file wins."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._sandboxes: dict[tuple[str, bool], _Sandbox] = {}

    def render(self, template: str, language: str, context: MessageContext) -> Rendered:
        """Write a message in a language, or in English where the language doesn't have it.

        Raises Misconfigured, naming file and line, for a template that doesn't exist or doesn't work.
        """
        found = self._language(template, language)
        empty = dict.fromkeys(("payment", "document", "instructions", "shipment"))
        values: dict[str, Any] = {**empty, **context}
        if values["document"]:
            values["document"] = {"attached": True, **values["document"]}
        text = self._fill(f"{found}/{template}.txt.j2", values)
        return Rendered(
            subject=_one_line(self._fill(f"{found}/{template}.subject.j2", values)),
            text=re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip() + "\n",
            html=self._fill(f"{found}/{template}.html.j2", values),
            language=found,
        )

    def _language(self, template: str, wanted: str) -> str:
        if re.fullmatch(r"[a-z][a-z0-9_]{0,60}", template):
            for language in (wanted, _FALLBACK):
                files = [folder / language / f"{template}.txt.j2" for folder in self._folders]
                if re.fullmatch("[a-z]{2,3}", language) and any(file.is_file() for file in files):
                    return language
        folders = ", ".join(str(folder) for folder in self._folders)
        raise Misconfigured(f"messages: there is no {_FALLBACK}/{template}.txt.j2 in {folders}; write it there")

    def _sandbox(self, language: str, *, html: bool) -> _Sandbox:
        made = self._sandboxes.get((language, html))
        if made is None:
            made = self._sandboxes[language, html] = _Sandbox(self._folders, language, html=html)
        return made

    def _fill(self, name: str, values: Mapping[str, Any]) -> str:
        sandbox = self._sandbox(name.partition("/")[0], html=name.endswith(".html.j2"))
        steps = _steps_left.set(MAX_STEPS)
        try:
            size, pieces = 0, list[str]()
            for piece in sandbox.get_template(name).generate(values):
                size += len(piece)
                if size > MAX_CHARACTERS:
                    raise SecurityError(f"gives more than {MAX_CHARACTERS} characters")
                pieces.append(piece)
            return "".join(pieces)
        except (
            TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise Misconfigured(_complaint(name, error)) from None
        finally:
            _steps_left.reset(steps)


def _one_line(text: str) -> str:
    """Make a subject of a text: no line breaks, no control or direction characters, not too long for a list of mail."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return line if len(line) <= MAX_SUBJECT else line[: MAX_SUBJECT - 1] + "…"


def _complaint(name: str, error: Exception) -> str:
    """Say which file and line of a template is wrong, and how; what it was given is not repeated."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    file, line = next((at for at in reversed(frames) if at[0].endswith(".j2")), (name, 0))
    if isinstance(error, TemplateSyntaxError):
        file, line = error.filename or file, error.lineno
    if isinstance(error, TemplateNotFound):
        said = f"the file {error.name} is missing"
    elif isinstance(error, UnicodeDecodeError):
        said = "is not written in UTF-8"
    elif isinstance(error, RecursionError):
        said = "takes itself in without an end"
    else:
        said = (
            str(error.message) if isinstance(error, TemplateError) else f"can't be worked out ({type(error).__name__})"
        )
    return f"message template {file}{f', line {line}' if line else ''}: {said}"
