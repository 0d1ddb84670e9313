"""The messages in every language, and what a template may and may not do."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
import rules_builders

from connectors.errors import Misconfigured
from connectors.templates import (
    MAX_CHARACTERS,
    MAX_SUBJECT,
    LinePart,
    MessageContext,
    Templates,
    known_variables,
    plural_forms,
)
from domain.documents import DocumentKind
from domain.money import Money
from domain.orders import Status
from domain.rules import ChannelRules, Language, MessageText, Template
from tasks.texts import Remark, check_files, check_texts, remarks_on

BUILT_IN = Path(__file__).parents[2] / "deployments" / "templates"
LANGUAGES: tuple[str, ...] = get_args(Language)
CYRILLIC = ("uk", "ru")
NO_BREAK = "\u00a0"


def czk(minor: int) -> Money:
    return Money(minor, "CZK")


def context(**parts: Any) -> MessageContext:
    """Make a context with everything in it, and the given parts in place of its own."""
    full: MessageContext = {
        "shop": {"title": "Tea & Co", "email": "hello@shop.example"},
        "customer": {"name": "Olena Kovalenko"},
        "order": {
            "number": "CZ10042",
            "total": czk(104_250),
            "status_label": "paid",
            "lines": [
                {"title": "Darjeeling, 100 g", "quantity": 2, "total": czk(45_000)},
                {"title": "Teapot", "quantity": 1, "total": czk(59_250)},
            ],
        },
        "payment": {"amount": czk(30_000), "paid": czk(50_000), "missing": czk(54_250)},
        "document": {"number": "202600017", "kind": "invoice", "due_on": date(2026, 1, 5)},
        "instructions": {
            "iban": "CZ6508000000192000145399",
            "bic": "GIBACZPX",
            "variable_symbol": "10042",
            "rf": "RF18539007547034",
            "amount": czk(54_250),
            "due_on": date(2026, 1, 5),
        },
        "shipment": {"tracking_number": "Z123456789", "collect": czk(104_250)},
    }
    for name, part in parts.items():
        full[name] = part
    return full


def minimal() -> MessageContext:
    return {
        "shop": {"title": "Tea & Co", "email": ""},
        "customer": {"name": ""},
        "order": {"number": "1", "total": czk(100), "status_label": "new", "lines": []},
    }


@pytest.fixture(scope="module")
def templates() -> Templates:
    return Templates([BUILT_IN])


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


class Own:
    """A folder of one's own with the message “note”, of which a test writes the parts that it speaks of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def render(self, text: str = "Text", **rest: Any) -> Any:
        language = rest.get("language", "en")
        self.write(f"{language}/note.txt.j2", text)
        self.write(f"{language}/note.subject.j2", rest.get("subject", "Subject"))
        self.write(f"{language}/note.html.j2", rest.get("html", "<p>HTML</p>"))
        given = {**minimal(), **rest.get("given", {})}
        return Templates([self.folder]).render("note", language, given)  # pyright: ignore[reportArgumentType]

    def write(self, name: str, content: str) -> None:
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)


class Outline(HTMLParser):
    """The tags left open and the text of an HTML page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tags.add(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# --- the built-in messages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [context(), minimal()], ids=["full", "minimal"])
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("template", list(Template))
def test_every_message_renders_in_every_language(
    templates: Templates, template: Template, language: str, given: MessageContext
) -> None:
    rendered = templates.render(template, language, given)

    assert rendered.language == language
    number = given["order"]["number"]
    for part in (rendered.subject, rendered.text, rendered.html):
        assert number in part
        assert "None" not in part
        assert "{" not in part
    assert rendered.subject == rendered.subject.strip()
    assert "\n" not in rendered.subject
    assert "\n\n\n" not in rendered.text
    page = Outline(rendered.html)
    assert page.open == []
    assert "Tea & Co" in page.text
    assert f'<html lang="{language}">' in rendered.html


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("template", list(Template))
def test_no_message_is_left_in_another_language(templates: Templates, template: Template, language: str) -> None:
    rendered = templates.render(template, language, minimal())
    if language != "en":
        assert rendered.subject != templates.render(template, "en", minimal()).subject
    letters = [letter for letter in rendered.subject + rendered.text if letter.isalpha()]
    cyrillic = sum("\u0400" <= letter <= "\u04ff" for letter in letters) / len(letters)
    assert cyrillic > 0.8 if language in CYRILLIC else cyrillic == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_standard_statuses_and_kinds_of_documents_have_words(templates: Templates, language: str) -> None:
    for status in Status:
        order = context()["order"] | {"status_label": status.value}
        subject = templates.render("status_changed", language, context(order=order)).subject
        assert subject.rpartition(": ")[2]
        assert "_" not in subject
    for kind in DocumentKind:
        document = {"number": "7", "kind": kind, "due_on": None}
        assert templates.render("invoice_issued", language, context(document=document)).subject.count("7") == 1


def test_a_status_of_the_channels_own_is_written_in_its_own_words(templates: Templates) -> None:
    order = context()["order"] | {"status_label": "balíme & pereme"}
    rendered = templates.render("status_changed", "cs", context(order=order))
    assert rendered.subject == "Objednávka CZ10042: balíme & pereme"
    assert "<strong>balíme &amp; pereme</strong>" in rendered.html


@pytest.mark.parametrize(
    ("language", "amount", "day", "subject"),
    [
        ("cs", "542,50 Kč", "5. ledna 2026", "Objednávka CZ10042: zbývá doplatit 542,50 Kč"),
        ("ro", "542,50 CZK", "5 ianuarie 2026", "Comanda CZ10042: mai este de plătit 542,50 CZK"),
        ("uk", "542,50 CZK", "5 січня 2026\u202fр.", "Замовлення CZ10042: залишилося доплатити 542,50 CZK"),
        ("ru", "542,50 CZK", "5 января 2026\u202fг.", "Заказ CZ10042: осталось доплатить 542,50 CZK"),
        ("en", "542.50 CZK", "5 January 2026", "Order CZ10042: 542.50 CZK still to pay"),
    ],
)
def test_amounts_and_dates_are_written_as_the_language_does(
    templates: Templates, language: str, amount: str, day: str, subject: str
) -> None:
    rendered = templates.render("payment_incomplete", language, context())
    assert rendered.subject == subject
    assert amount.replace(" ", NO_BREAK) in rendered.text
    assert day in rendered.text
    assert day in rendered.html


@pytest.mark.parametrize(
    ("language", "forms"),
    [
        ("cs", {1: "položka", 2: "položky", 4: "položky", 5: "položek", 11: "položek", 22: "položek"}),
        ("ro", {1: "articol", 2: "articole", 19: "articole", 20: "de articole", 101: "articole", 120: "de articole"}),
        ("uk", {1: "позиція", 2: "позиції", 5: "позицій", 11: "позицій", 21: "позиція", 22: "позиції", 25: "позицій"}),
        ("ru", {1: "позиция", 2: "позиции", 5: "позиций", 11: "позиций", 21: "позиция", 22: "позиции", 25: "позиций"}),
        ("en", {1: "item", 2: "items", 11: "items", 21: "items"}),
    ],
)
def test_counts_take_the_right_plural(templates: Templates, language: str, forms: dict[int, str]) -> None:
    line = context()["order"]["lines"][0]
    for count, form in forms.items():
        order = context()["order"] | {"lines": [line] * count}
        assert f"· {count} {form}\n" in templates.render("payment_received", language, context(order=order)).text


def test_a_proforma_says_how_to_pay(templates: Templates) -> None:
    rendered = templates.render("proforma", "cs", context())
    page = Outline(rendered.html).text
    for said in (
        f"542,50{NO_BREAK}Kč",
        "CZ65 0800 0000 1920 0014 5399",
        "GIBACZPX",
        "10042",
        "RF18 5390 0754 7034",
        "5. ledna 2026",
    ):
        assert said in rendered.text
        assert said in page


def test_what_the_instructions_do_not_have_is_left_out(templates: Templates) -> None:
    instructions = context().get("instructions")
    assert instructions is not None
    bare = instructions | {"bic": None, "rf": None, "variable_symbol": "", "due_on": None}
    text = templates.render("proforma", "en", context(instructions=bare)).text
    assert "CZ65 0800" in text
    assert not any(label in text for label in ("BIC", "Variable symbol", "Reference", "Due date"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_nobody_who_has_paid_is_asked_to_pay(templates: Templates, language: str) -> None:
    paid = {"amount": czk(104_250), "paid": czk(104_250), "missing": czk(0)}
    for template in (Template.PAYMENT_RECEIVED, Template.INVOICE_ISSUED, Template.STATUS_CHANGED):
        rendered = templates.render(template, language, context(payment=paid))
        assert "CZ65 0800" not in rendered.text
        assert "CZ65 0800" not in rendered.html


def test_only_a_payment_of_the_whole_is_called_so(templates: Templates) -> None:
    whole = "paid in full"
    paid = {"amount": czk(104_250), "paid": czk(104_250), "missing": czk(0)}
    assert whole in templates.render("payment_received", "en", context(payment=paid)).text
    assert whole not in templates.render("payment_received", "en", context()).text


def test_an_attachment_is_spoken_of_only_if_there_is_one(templates: Templates) -> None:
    document = {"number": "7", "kind": "invoice", "due_on": None}
    assert "attached" in templates.render("invoice_issued", "en", context(document=document)).text
    apart = document | {"attached": False}
    assert "attached" not in templates.render("invoice_issued", "en", context(document=apart)).text


def test_an_amount_keeps_the_decimals_that_cash_no_longer_has(own: Own) -> None:
    text = "{{ order.total | money }}"
    for money, written in (
        (Money(104_250, "RSD"), "1,042.50 RSD"),
        (Money(1042, "JPY"), "1,042 JP¥"),
        (Money(1_042_500, "KWD"), "1,042.500 KWD"),
        (Money(-104_250, "EUR"), "-1,042.50 €"),
    ):
        order = minimal()["order"] | {"total": money}
        assert own.render(text, given={"order": order}).text.strip() == written.replace(" ", NO_BREAK)


# --- what customers write is only ever text --------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("template", list(Template))
def test_markup_in_what_was_given_is_shown_and_not_obeyed(
    templates: Templates, template: Template, language: str
) -> None:
    evil = "<script>alert(1)</script>"
    line: LinePart = {"title": evil, "quantity": 1, "total": czk(100)}
    given = context(
        shop={"title": evil, "email": '"><script>'},
        customer={"name": evil},
        order={"number": evil, "total": czk(100), "status_label": evil, "lines": [line]},
        document={"number": evil, "kind": "invoice", "due_on": None},
        shipment={"tracking_number": evil, "collect": None},
    )
    rendered = templates.render(template, language, given)
    page = Outline(rendered.html)
    assert "script" not in page.tags
    assert evil in page.text
    assert evil in rendered.text


@pytest.mark.parametrize("name", ["{{ 7*7 }}", "{% for a in range(9) %}x{% endfor %}", "{# secret #}"])
def test_a_template_in_a_customers_name_stays_text(templates: Templates, name: str) -> None:
    rendered = templates.render("payment_received", "en", context(customer={"name": name}))
    assert f"Hello {name}," in rendered.text
    assert name in rendered.html


def test_a_subject_is_one_line_whatever_is_in_it(own: Own) -> None:
    for name in (
        "Jan\r\nBcc: all@example.net",
        "Jan\nBcc: all@example.net",
        "Jan\u2028Bcc: all@example.net",
        "Jan\x00\x0b\u202eBcc: all@example.net",
    ):
        subject = own.render(subject="For {{ customer.name }}", given={"customer": {"name": name}}).subject
        assert subject == "For Jan Bcc: all@example.net"


def test_a_long_subject_is_cut(own: Own) -> None:
    subject = own.render(subject="{{ customer.name }}", given={"customer": {"name": "n" * 1000}}).subject
    assert len(subject) == MAX_SUBJECT
    assert subject.endswith("…")


# --- where templates are found ---------------------------------------------------------------------------------------


def test_an_installation_overrides_single_files(own: Own) -> None:
    own.write("cs/payment_received.subject.j2", "Máme to, {{ order.number }}!")
    both = Templates([own.folder, BUILT_IN])
    rendered = both.render("payment_received", "cs", context())
    assert rendered.subject == "Máme to, CZ10042!"
    assert rendered.text == Templates([BUILT_IN]).render("payment_received", "cs", context()).text


def test_an_installation_rewords_all_messages_at_once(own: Own) -> None:
    words = (BUILT_IN / "cs" / "words.j2").read_text().replace("S pozdravem", "Mějte se hezky")
    own.write("cs/words.j2", words)
    for template in Template:
        assert "Mějte se hezky" in Templates([own.folder, BUILT_IN]).render(template, "cs", context()).text


@pytest.mark.parametrize("language", ["de", "", "../cs", "xx", "CS"])
def test_a_language_without_templates_falls_back_to_english(templates: Templates, language: str) -> None:
    assert templates.render("payment_received", language, context()) == templates.render(
        "payment_received", "en", context()
    )


def test_an_installation_adds_a_language(own: Own) -> None:
    rendered = own.render("{{ language }}: {{ order.total | money }}", language="de")
    assert rendered.text.strip() == f"de: 1,00{NO_BREAK}CZK"
    assert rendered.language == "de"


@pytest.mark.parametrize("template", ["nothing", "../base", "words", "", "payment_received.txt"])
def test_a_template_that_does_not_exist_is_a_misconfiguration(templates: Templates, template: str) -> None:
    with pytest.raises(Misconfigured, match=r"there is no en/.*\.txt\.j2"):
        templates.render(template, "cs", context())


def test_a_part_that_is_missing_is_named(own: Own) -> None:
    own.write("en/note.txt.j2", "Text")
    with pytest.raises(Misconfigured, match=r"en/note\.subject\.j2 is missing"):
        Templates([own.folder]).render("note", "en", minimal())


def test_a_folder_that_is_no_language_is_named(own: Own) -> None:
    with pytest.raises(Misconfigured, match="no language “qq”"):
        own.render(language="qq")


# --- templates that don't work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nb {{ order.nubmer }}", "line 2: .*'nubmer'"),
        ("a\n\n{{ ordre }}", "line 3: 'ordre' is undefined"),
        ("{{ ordre() }}", "line 1: 'ordre' is undefined"),
        ("{{ payment.amount }}", "line 1: .*'amount'"),
        ("a\n{% if order %}", "line 2: .*endif"),
        ("{{ order.number | shout }}", "line 1: No filter named 'shout'"),
        ("{{ order.number | money }}", "line 1: the filter money is for amounts of money"),
        ("{{ order.number | date }}", "line 1: the filter date is for dates"),
        ("{{ 3 | plural(one='item') }}", "line 1: the filter plural"),
        ("{{ order.total + 1 }}", r"line 1: can't be worked out \(AttributeError\)"),
        ("{{ 1 // 0 }}", r"line 1: can't be worked out \(ZeroDivisionError\)"),
        ("{% include 'en/none.j2' %}", "line 1: the file en/none.j2 is missing"),
        ("{% extends '../../etc/passwd' %}", "line 1: the file ../../etc/passwd is missing"),
    ],
)
def test_a_broken_template_is_a_misconfiguration_naming_file_and_line(own: Own, text: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=rf"en/note\.txt\.j2, {said}"):
        own.render(text)


def test_a_broken_subject_or_page_is_named_too(own: Own) -> None:
    with pytest.raises(Misconfigured, match=r"en/note\.subject\.j2, line 1"):
        own.render(subject="{{ x }}")
    with pytest.raises(Misconfigured, match=r"en/note\.html\.j2, line 1"):
        own.render(html="{{ x }}")


def test_a_template_of_another_encoding_is_named(own: Own) -> None:
    own.render()
    (own.folder / "en" / "note.txt.j2").write_bytes("Dobrý den".encode("cp1250"))
    with pytest.raises(Misconfigured, match=r"en/note\.txt\.j2: is not written in UTF-8"):
        Templates([own.folder]).render("note", "en", minimal())


def test_what_a_template_was_given_is_not_in_the_error(own: Own) -> None:
    given = {"customer": {"name": "Olena Kovalenko"}}
    for text in ("{{ customer.name | money }}", "{{ customer.name + 1 }}", "{{ customer.name | plural(other='x') }}"):
        with pytest.raises(Misconfigured) as failure:
            own.render(text, given=given)
        assert "Olena" not in str(failure.value)


# --- the sandbox -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ order.__init__ }}",
        "{{ order.total.__class__.__init__.__globals__ }}",
        "{{ order.total.parse.__func__.__globals__ }}",
        "{{ order.total.parse('1', 'EUR') }}",
        "{{ order.clear() }}",
        "{{ order.lines.append(1) }}",
        "{{ order.pop('number') }}",
        "{{ '{0.__class__}'.format(order) }}",
        "{{ 'x'.center(10) }}",
        "{{ self.__init__ }}",
        "{{ range.__self__ }}",
        "{{ customer.name | attr('__class__') }}",
        "{{ customer.name | safe }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum() }}",
    ],
)
def test_a_template_reaches_nothing_but_its_context(own: Own, text: str) -> None:
    with pytest.raises(Misconfigured, match=r"note\.txt\.j2, line 1"):
        own.render(text)


LARGE = "{% set x = order.number + '" + 250_000 * "x" + "' %}"


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(300) %}{% for b in range(300) %}x{% endfor %}{% endfor %}",
        "{{ range(99999999999) | join }}",
        "{{ 'x' * 99999999999 }}",
        "{{ [1] * 99999999999 }}",
        "{{ 9 ** 99999999999 }}",
        "{{ '%99999999999d' % 1 }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x, n) %}{{ f(x ~ x, n - 1) if n else '' }}{% endmacro %}{{ f('x' ~ order.number, 60) }}",
        "{% macro f(x, n) %}{{ f(x + x, n - 1) if n else '' }}{% endmacro %}{{ f('x' + order.number, 60) }}",
        "{% macro f(x, n) %}{{ f(x * x, n - 1) if n else '' }}{% endmacro %}{{ f(7, 60) }}",
        "{% macro f(x, n) %}{% set y %}{{ x }}{{ x }}{% endset %}{{ f(y, n-1) if n }}{% endmacro %}{{ f('x', 60) }}",
        "{% include 'en/note.txt.j2' %}",
        "{% for a in order.lines recursive %}{{ loop(order.lines) }}{% endfor %}",
        "{% for x in range(10**9) %}{% endfor %}",
        "{% for x in range(1000000000) %}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        # Written into a variable, or over and over.
        LARGE + "{% set y %}{% for n in range(9000) %}{{ x }}{% endfor %}{% endset %}",
        LARGE + "{% macro f() %}{% for n in range(9000) %}{{ x }}{% endfor %}{% endmacro %}{% set y = f() %}",
        "{% set y %}{% for n in range(9000) %}" + 250_000 * "x" + "{% endfor %}{% endset %}",
        "{% set y %}{% for n in range(9000) %}{{ '" + 250_000 * "x" + "' }}{% endfor %}{% endset %}",
        # Filters that give far more than they are given.
        LARGE + "{{ range(9000) | join(x) }}",
        LARGE + "{{ range(9000) | map(attribute='none', default=x) | join }}",
        LARGE + "{% set a = [x] %}" + 16 * "{% set a = a + a %}" + "{{ a | join }}",
        "{% set a = [order.lines] %}" + 16 * "{% set a = a + a %}" + "{{ a | sum(start=[]) }}",
        "{{ 5 | round(-1000000000) }}",
        "{{ 5 | round(1000000000, 'ceil') }}",
        # Lists of lists, each twice as long when it is written, compared or looked up.
        "{% set a = [1, 1] %}" + 60 * "{% set a = [a, a] %}" + "{{ a }}",
        "{% set a = [1, 1] %}" + 60 * "{% set a = [a, a] %}" + "{{ a | string | length }}",
        "{% set a = [1, 1] %}" + 60 * "{% set a = [a, a] %}" + "{{ a ~ '' }}",
        "{% set a = {'x': 1} %}" + 60 * "{% set a = {'x': a, 'y': a} %}" + "{{ a | upper }}",
        "{% set a = (1, 1) %}" + 60 * "{% set a = (a, a) %}" + "{{ {a: 1} | length }}",
        "{% set a = [1, 1] %}{% set b = [1, 1] %}" + 60 * "{% set a = [a, a] %}{% set b = [b, b] %}" + "{{ a == b }}",
        "{% macro f(n) %}{{ f(n - 1, varargs, varargs) if n else varargs }}{% endmacro %}{{ f(60, 1) }}",
        # Long work over and over, within the number of steps.
        "{% set a = range(1000) | list %}" + 7 * "{% set a = a + a %}" + "{% for n in range(5000) %}"
        "{% if 'x' in a | sort %}{% endif %}{% endfor %}",
    ],
    ids=lambda text: text[-40:],
)
@pytest.mark.timeout(60)
def test_a_template_that_would_never_end_ends(own: Own, text: str) -> None:
    order = minimal()["order"] | {"lines": context()["order"]["lines"]}
    with pytest.raises(Misconfigured, match=r"note\.txt\.j2"):
        own.render(text, given={"order": order})


def test_a_message_is_not_larger_than_the_bound(own: Own) -> None:
    name = {"customer": {"name": "x" * (MAX_CHARACTERS // 4)}}
    assert len(own.render("{{ customer.name }}" * 3, given=name).text) > MAX_CHARACTERS // 2
    with pytest.raises(Misconfigured, match=f"more than {MAX_CHARACTERS} characters"):
        own.render("{{ customer.name }}" * 5, given=name)


def test_a_thousand_lines_are_no_loop_without_end(templates: Templates) -> None:
    line = context()["order"]["lines"][0]
    order = context()["order"] | {"lines": [line] * 1000}
    assert templates.render("payment_received", "uk", context(order=order)).html.count("Darjeeling") == 1000


def test_macros_and_loops_within_the_bounds_work(own: Own) -> None:
    text = (
        "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}"
        "{% for n in range(3) %}{{ loop.index }}/{{ loop.length }} {{ twice(n * 2) }}{{ '' if loop.last else ', ' }}"
        "{% else %}none{% endfor %}"
    )
    assert own.render(text).text == "1/3 00, 2/3 22, 3/3 44\n"


# --- plural forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "forms"),
    [
        # For 0, 1, 2, 5, 11, 21, 22, 100, 101 and 1.5.
        ("cs", "other one few other other other other other other many"),
        ("ro", "few one few few few other other other few few"),
        ("uk", "many one few many many one few many one other"),
        ("ru", "many one few many many one few many one other"),
        ("en", "other one other other other other other other other other"),
    ],
)
def test_each_language_has_its_plural_forms(own: Own, language: str, forms: str) -> None:
    counts = [0, 1, 2, 5, 11, 21, 22, 100, 101]
    each = "{{ n | plural(one='one', few='few', many='many', other='other') }} "
    text = f"{{% for n in {counts} + [1.5] %}}{each}{{% endfor %}}"
    assert own.render(text, language=language).text.split() == forms.split()


def test_a_fraction_takes_the_form_few_where_other_is_left_out(own: Own) -> None:
    given = {"order": {**minimal()["order"], "number": Decimal("1.5")}}
    text = "{{ order.number | plural(one='позиция', few='позиции', many='позиций') }}"
    assert own.render(text, language="ru", given=given).text == "позиции\n"
    assert plural_forms("ru") == {"one", "few", "many"}


# --- the text and the page say the same ------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("template", list(Template))
def test_the_page_says_what_the_text_says(templates: Templates, template: Template, language: str) -> None:
    rendered = templates.render(template, language, context())
    # The page has a heading more, and no greeting at its end.
    heading = set(re.findall(r"\w+", Outline(rendered.html.partition("<h1")[2].partition("</h1>")[0]).text))
    closing = [line for line in rendered.text.splitlines() if line.strip()][-3]
    in_page = set(re.findall(r"\w+", Outline(rendered.html).text))
    in_text = set(re.findall(r"\w+", rendered.text))
    assert in_text - in_page <= set(re.findall(r"\w+", closing))
    assert in_page - in_text <= heading


def own_texts(**texts: dict[str, str]) -> dict[str, MessageText]:
    return {language: MessageText(**parts) for language, parts in texts.items()}


def test_the_narrowest_text_wins_part_by_part(own: Own) -> None:
    own.write("cs/payment_received.subject.j2", "From the installation")
    both = Templates([own.folder, BUILT_IN])

    def subject(language: str, **texts: dict[str, str]) -> str:
        return both.render("payment_received", language, context(), own_texts(**texts)).subject

    channels_any = {"any": {"subject": "For all: {{ language }}"}}
    assert subject("cs", cs={"subject": "For Czechs"}, **channels_any) == "For Czechs"
    assert subject("cs", cs={"sms": "x"}, **channels_any) == "For all: cs"
    assert subject("pl", **channels_any) == "For all: en"
    assert subject("cs") == "From the installation"
    assert subject("uk") == Templates([BUILT_IN]).render("payment_received", "uk", context()).subject
    assert subject("pl") == "We have received your payment for order CZ10042"


def test_with_a_text_of_its_own_the_page_is_made_of_it(templates: Templates) -> None:
    texts = own_texts(cs={"text": "Ahoj {{ customer.name }}\n\nDíky!"})
    given = context(customer={"name": "<b>Jan</b>"})
    rendered = templates.render("payment_received", "cs", given, texts)
    assert rendered.text == "Ahoj <b>Jan</b>\n\nDíky!\n"
    page = Outline(rendered.html)
    assert page.open == []
    assert "b" not in page.tags
    assert page.text.split() == ["Tea", "&", "Co", "Ahoj", "<b>Jan</b>", "Díky!"]


def test_with_a_page_of_its_own_the_text_is_made_of_it(templates: Templates) -> None:
    page = "<html><head><style>p {}</style></head><p>Ahoj&nbsp;<b>{{ customer.name }}</b></p><p>Díky<br>moc</p></html>"
    rendered = templates.render("payment_received", "cs", context(), own_texts(cs={"html": page}))
    assert rendered.text == f"Ahoj{NO_BREAK}Olena Kovalenko\n\nDíky\nmoc\n"
    assert "<b>Olena Kovalenko</b>" in rendered.html


def test_a_channels_own_sms_is_used(templates: Templates) -> None:
    texts = own_texts(any={"sms": "{{ order.number }}: {{ order.total | money }}"})
    rendered = templates.render_sms("payment_received", "ru", context(), texts)
    assert (rendered.text, rendered.language) == ("CZ10042: 1 042,50 CZK", "ru")


# --- texts are checked before they are saved -------------------------------------------------------------------------


def of_channel(template: str = "payment_received", **texts: Any) -> ChannelRules:
    return rules_builders.rules(templates={template: texts})


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"cs": {"text": "a\nb {{ order.nubmer }}"}}, r"cs\.text, line 2: “order\.nubmer” .*“order\.number”\? Known"),
        ({"cs": {"text": "{% if 0 %}{{ payment.amout }}{% endif %}"}}, r"“payment\.amout” .*“payment\.amount”"),
        ({"en": {"sms": "{{ custmer.name }}"}}, r"en\.sms, line 1: “custmer” is not known; did you mean “customer”"),
        ({"en": {"subject": "{% if %}"}}, r"en\.subject, line 1: Expected an expression"),
        ({"any": {"html": "\n{{ order.number | safe }}"}}, r"any\.html, line 2: No filter named 'safe'"),
        ({"en": {"text": "{{ ''.__class__ }}"}}, r"en\.text, line 1: .*__class__.* unsafe"),
        ({"en": {"text": "{{ payment.amount | money }}"}}, r"no payment: write {% if payment %}…{% endif %}"),
        ({"en": {"subject": "one\ntwo"}}, r"a subject is one line; this one has 2"),
        ({"en": {"sms": "x" * 601}}, r"gives 601 characters; an SMS has at most 600"),
        ({"cs": {"text": "{{ 2 | plural(one='kus', other='kusů') }}"}}, r"plural lacks few, many, which cs needs"),
        ({"any": {"text": "{{ 2 | plural(one='x', other='y') }}"}}, r"any\.text, line 1: plural lacks few"),
        ({"en": {"text": "{{ order.lines[5].title }}"}}, r"en\.text, line 1: "),
        ({"en": {"text": " \n"}}, r"only blanks"),
    ],
)
def test_a_mistake_in_a_channels_text_is_said_with_its_place(
    templates: Templates, texts: dict[str, Any], said: str
) -> None:
    found = check_texts(of_channel(**texts), templates)
    assert len(found) == 1
    assert re.search(said, found[0]), found[0]


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(10**9) %}{% endfor %}",
        "{% for a in range(1000000000) %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x, n) %}{{ f(x ~ x, n - 1) if n else '' }}{% endmacro %}{{ f('x' ~ order.number, 60) }}",
        30 * "{% for a in order.lines %}" + 30 * "{% endfor %}",
        "{{ " + 3000 * "(" + "1" + 3000 * ")" + " }}",
        "{% for a in order.lines recursive %}{{ loop(order.lines) }}{% endfor %}",
    ],
    ids=lambda text: text[-40:],
)
@pytest.mark.timeout(60)
def test_a_channels_text_is_bounded_as_files_are(templates: Templates, text: str) -> None:
    given = context(customer={"name": "Olena Kovalenko"})
    with pytest.raises(Misconfigured, match=r"templates\.payment_received\.en\.text") as failure:
        templates.render("payment_received", "en", given, own_texts(en={"text": text}))
    assert "Olena" not in str(failure.value)
    assert len(check_texts(of_channel(en={"text": text}), templates)) == 1


def test_what_groups_and_customers_read_is_checked_too(templates: Templates) -> None:
    wrong = {"templates": {"proforma": {"en": {"text": "{{ x }}"}}}}
    rules = rules_builders.rules(groups={"dealers": wrong}, customers={"C1": {"templates": {}}})
    (said,) = check_texts(rules, templates)
    assert said.startswith("groups.dealers: ")


def test_a_long_sms_is_only_warned_of(templates: Templates) -> None:
    rules = of_channel(cs={"sms": 400 * "x"})
    assert check_texts(rules, templates) == []
    (remark,) = remarks_on(rules, templates)
    assert remark.warning
    assert "goes as 3 SMS" in remark.said


def test_a_text_that_extends_the_built_in_frame_may_use_its_words(templates: Templates) -> None:
    text = (
        '{% extends "base.txt.j2" %}{% set asks_for_payment = true %}{% block content %}'
        "{% set kind = words.documents_inside[document.kind] if document else '' %}{{ kind }} {{ order.number }}"
        "{% endblock %}"
    )
    assert check_texts(of_channel(any={"text": text}), templates) == []


def test_the_built_in_messages_have_nothing_wrong(templates: Templates) -> None:
    assert check_files(templates) == []


def test_a_file_of_an_installation_is_checked(own: Own) -> None:
    own.write("cs/proforma.sms.j2", "{{ order.numbr }}")
    (found,) = check_files(Templates([own.folder, BUILT_IN]), ("cs",))
    assert isinstance(found, Remark)
    assert found.said.startswith("message template cs/proforma.sms.j2, line 1: “order.numbr” is not known")


def test_the_page_about_messages_names_every_variable_and_plural_form() -> None:
    page = (BUILT_IN.parents[1] / "docs" / "messages.md").read_text(encoding="utf-8")
    table = page.partition("| Variable |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+\.\w+)`", table)) | {"language"} == set(known_variables())
    plurals = page.partition("| Language |")[2].partition("\n\n")[0]
    rows = re.findall(r"\| ([a-z]{2}(?:, [a-z]{2})*) \| ([^;|]+)", plurals)
    told = {
        language: set(re.findall(r"[a-z]+(?=,|$| \()", forms.strip()))
        for said, forms in rows
        for language in said.split(", ")
    }
    assert told == {language: plural_forms(language) for language in LANGUAGES}
