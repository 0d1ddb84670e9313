"""References: how orders, invoices and accounts are named in payments, brought to one writing.

Two writings are equal when their normal forms are. Nothing here guesses: a reference in free text counts only as
a whole token that the channel's own pattern describes, never as a part of a longer one. Where a text can be read in
two ways, every reading is given and none of them is sure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from domain.money import Money

# Cyrillic and Greek capitals that look like Latin ones, as people and banks mix them.
_LOOK_ALIKES = str.maketrans("АВЕЅІЈКМНОРСТУХЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABESIJKMHOPCTYXSABEZHIKMNOPTYX")
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_WRITINGS = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)} | dict.fromkeys(map(ord, _DASHES), ord("-"))

_MAX_TEXT = 4_000
_MAX_JOINED = 5

# Banks cut a text into lines of these lengths, in the middle of a word if need be.
_FULL_LINES = frozenset({35, 140})
_CUT = "\x01"

_WORD = re.compile(r"[^\W_]+")
_DIGITS = re.compile("[0-9]+")
# A word begins and ends where neither a letter nor a digit of any script is beside it.
_BEGIN, _END = r"(?<![^\W_])", r"(?![^\W_])"
_INSIDE = re.compile(rf"[-/._\s]{{1,3}}|{_CUT}")

_SYMBOL = re.compile(
    rf"{_BEGIN}V(?:AR(?:IAB[A-Z]*)?)?[\s.]{{0,3}}S(?:YM(?:B[A-Z]*)?)?[\s{_CUT}./:#=-]{{0,5}}"
    rf"([0-9]+(?:[\s{_CUT}-][0-9]+){{0,4}}){_END}(?P<more>[\s{_CUT}.,;:/+&-]{{0,3}}[0-9])?"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A reference as it stands in a text; it is sure when the text can be read in no other way."""

    value: str
    sure: bool


class _Folding(dict[int, int | None]):
    """What becomes of each letter once it has no diacritics; letters are looked into as they come."""

    def __missing__(self, place: int) -> int | None:
        mark = unicodedata.category(chr(place)) in ("Mn", "Cf")
        self[place] = folded = None if mark else _LOOK_ALIKES.get(place, place)
        return folded


_FOLDED = _Folding()


@lru_cache(maxsize=1_024)
def fold(text: str) -> str:
    """Bring text to plain capitals: no diacritics, wide forms and look-alike Cyrillic and Greek letters made Latin."""
    if text.isascii() and len(text) <= _MAX_TEXT:
        return text.upper()
    if len(text) > _MAX_TEXT:
        # A word that is cut off would be read as another one.
        text = (text[:_MAX_TEXT].rsplit(maxsplit=1) or [""])[0]
    return unicodedata.normalize("NFD", text.translate(_WRITINGS).upper()).translate(_FOLDED)


def compact(text: str) -> str:
    """Return the letters and digits of a reference, folded; separators mean nothing in a reference."""
    if text.isascii() and text.isalnum() and len(text) <= _MAX_TEXT:
        return text.upper()
    return "".join(_WORD.findall(fold(text)))


def normal_number(text: str) -> str:
    """Return the normal form of an order or invoice number: compact, leading zeros of each digit group dropped."""
    return _without_padding(compact(text))


def _without_padding(token: str) -> str:
    return _DIGITS.sub(lambda group: group[0].lstrip("0") or "0", token)


def normal_variable_symbol(text: str) -> str | None:
    """Return a variable symbol without leading zeros, or None when it is none (at most 10 digits, not all zeros)."""
    digits = text
    if not (text.isascii() and text.isdigit()):
        digits = re.sub(r"[\s-]", "", fold(text))
        if not _DIGITS.fullmatch(digits):
            return None
    digits = digits.lstrip("0")
    return digits if 0 < len(digits) <= 10 else None


def normal_account(text: str) -> str:
    """Return an IBAN without spaces, in capitals; a domestic account with its bank's code also without padding."""
    if text.isascii() and text.isalnum():
        return text.upper()
    plain = re.sub(r"\s", "", text).upper()
    # Zeros are dropped after matching: a pattern that tells them from digits would try every split of a long row.
    domestic = re.fullmatch(r"(?:([0-9]*)-)?([0-9]+)/([0-9]{4})", plain, re.ASCII)
    if domestic is None:
        return plain
    prefix, number = (domestic[1] or "").lstrip("0"), domestic[2].lstrip("0") or "0"
    return f"{prefix}-{number}/{domestic[3]}" if prefix else f"{number}/{domestic[3]}"


def normal_rf(text: str) -> str | None:
    """Return an ISO 11649 creditor reference in its electronic form, or None when its check digits are wrong."""
    plain = re.sub(r"[\s-]", "", fold(text))
    if not re.fullmatch(r"RF[0-9]{2}[0-9A-Z]{1,21}", plain, re.ASCII):
        return None
    rearranged = plain[4:] + plain[:4]
    number = int("".join(str(int(ch, 36)) for ch in rearranged))
    # Zeros may pad the reference on the left; the check digits don't change with them.
    reference = plain[4:].lstrip("0")
    return f"RF{plain[2:4]}{reference}" if number % 97 == 1 and reference else None


# By the passports' tables of Ukraine (2010) and Russia (2014); where they differ, _SAME_SOUND makes them one.
_LATIN = str.maketrans(
    dict(zip("АБВГҐДЕЗІИЙКЛМНОПРСТУФЫЭ", "ABVHGDEZIYJKLMNOPRSTUFYE", strict=True))
    | dict.fromkeys("ЬЪ'’ʼ", "")
    | {"Ж": "ZH", "Х": "KH", "Ц": "TS", "Ч": "CH", "Ш": "SH", "Щ": "SHCH"}
    | {"Є": "IE", "Ї": "I", "Ю": "IU", "Я": "IA", "Ё": "E"}
)
# In this order, which makes one also of what Ukraine writes zgh, so that it is not read as zh.
_SAME_SOUND = (
    *(("G", "H"), ("KH", "H"), ("HH", "H"), ("Y", "I"), ("J", "I"), ("W", "V"), ("X", "KS")),
    *(("II", "I"), ("IE", "E"), ("AE", "A"), ("OE", "O"), ("UE", "U"), ("SS", "S")),
)
_LOOK_ALIKES_BACK = str.maketrans("ABCEHIKMOPTXY", "АВСЕНІКМОРТХУ")
_CYRILLIC = re.compile("[Ѐ-ӿ]")
_NAME_WORD = re.compile(r"[^\W_]+(?:['’ʼ][^\W_]+)?")
_NO_NAME = frozenset(
    "SRO SPOL VOS OSVC GMBH AG KG UG OHG CO SRL SA PFA SC TOV TZOV FOP PP PAT PRAT TDV OOO IP AO PAO ZAO OAO LTD LLC "
    "INC ING MGR BC MUDR JUDR PHDR RNDR DR PROF DOC DIPL PHD MBA HERR FRAU PAN PANI".split()
)


@lru_cache(maxsize=65_536)
def _sound(word: str) -> str:
    if _CYRILLIC.search(word):
        word = word.translate(_LOOK_ALIKES_BACK).translate(_LATIN)
    word = fold(word)
    for written, same in _SAME_SOUND:
        word = word.replace(written, same)
    return word


_NO_NAME_SOUND = frozenset(_sound(word) for word in _NO_NAME)


@lru_cache(maxsize=65_536)
def _sounds(written: str) -> tuple[str, ...]:
    words = (_sound(word) for word in _NAME_WORD.findall(unicodedata.normalize("NFC", written)))
    return tuple(word for word in words if len(word) > 1 and not word.isdigit() and word not in _NO_NAME_SOUND)


# A payment's names are compared several times while it is decided.
@lru_cache(maxsize=1_024)
def name_words(name: str) -> frozenset[str]:
    """Return the words of a person's or company's name as they sound, whatever their script, order and title.

    Titles, legal forms and single letters say nothing about who it is.
    """
    return frozenset(word for written in name.upper().split() for word in _sounds(written))


def names_agree(one: str, other: str) -> bool | None:
    """Say whether two names can be one person's or company's; None when there is nothing to compare.

    One word in common is not enough, unless one of them has no other: first names, towns and trades are shared.
    """
    left, right = name_words(one), name_words(other)
    if not left or not right:
        return None
    return len(left & right) >= min(len(left), len(right), 2)


def payer_reference(name: str, amount: Money) -> str | None:
    """Return what a name and an exact amount come to as one reference, or None where there is no name."""
    words = name_words(name)
    return f"{' '.join(sorted(words))[:160]} {amount.minor}{amount.currency}" if words else None


_DIGIT = re.compile(r"\d")


def needs_digits(pattern: str) -> bool:
    """Say whether whatever a pattern describes has digits in it, as far as that is easily told."""
    return _compiled(pattern).has_digits


def says_a_number(text: str) -> bool:
    """Say whether any digit stands in a text; without one it names little."""
    return _DIGIT.search(text) is not None


class _Text:
    """A text taken apart, each part once and when it is first asked for."""

    def __init__(self, text: str) -> None:
        marked = _with_cuts(text)
        self.cut = marked is not text
        self.whole = fold(marked)
        self.digits = _DIGITS.findall(self.whole)

    @cached_property
    def compact(self) -> str:
        """All its letters and digits."""
        return "".join(_WORD.findall(self.whole))

    @cached_property
    def plain(self) -> str:
        """The text without what is written in digits and is no reference."""
        return _SOMETHING_ELSE.sub(";", self.whole) if self.digits else self.whole

    @cached_property
    def words(self) -> tuple[list[str], list[str]]:
        """The words of the plain text, and what stands before each of them and after the last."""
        return _words(self.plain)

    @cached_property
    def labelled(self) -> set[int]:
        """The places, among these words, of what is labelled as a payment symbol."""
        return _labelled(self.plain)


# One text is looked into for several channels and kinds of reference, one after the other.
_taken_apart = lru_cache(maxsize=256)(_Text)


def symbol_readings(text: str) -> Iterator[Reading]:
    """Yield the variable symbols that a text labels as such: VS123, VS: 00123, /VS/123, VS 12-34, var. symbol 123.

    Where other digits follow, every reading is yielded: “VS 1017 26” may mean 1017 or 101726.
    """
    folded = _taken_apart(text).whole
    for match in _SYMBOL.finditer(folded) if "V" in folded else ():
        words = _DIGITS.findall(match[1])
        readings = [normal_variable_symbol("".join(words[: end + 1])) for end in range(len(words))]
        symbols = dict.fromkeys(symbol for symbol in readings if symbol)
        for symbol in symbols:
            yield Reading(symbol, sure=len(symbols) == 1 and not match["more"])


def variable_symbols_in(text: str) -> Iterator[str]:
    """Yield every variable symbol that a text can be read to name, as symbol_readings does."""
    yield from (reading.value for reading in symbol_readings(text))


def rf_references_in(text: str) -> Iterator[str]:
    """Yield the ISO 11649 references in a text whose check digits are right, in one piece or in groups."""
    folded = _taken_apart(text).whole
    if "RF" not in folded:
        return
    words, gaps = _words(folded)
    for start, word in enumerate(words):
        if not word.startswith("RF"):
            continue
        joined = ""
        for end in range(start, len(words)):
            if len(joined) > 25 or (end > start and not _INSIDE.fullmatch(gaps[end])):
                break
            joined += words[end]
            # What follows a reference may look like more of it, so every length is tried.
            if reference := normal_rf(joined):
                yield reference


def token_readings(text: str, pattern: str) -> Iterator[Reading]:
    """Yield the normal forms of the whole tokens in a text that a channel's pattern describes.

    The pattern is for a number without separators; in the text, dashes, slashes, dots and spaces may stand inside it,
    and zeros may pad its digits or, beside letters, be left out. A token never begins or ends inside a word: 12 is not
    found in 2012. A number of digits alone must stand in one piece and by itself, or every date, amount and bank
    account would be one; only after a year may it go on behind a dash or slash, as in 2026-00123. In a list the letters
    needn't be said again: “CZ1042, 1043 a 1044”.
    """
    rules, told = _compiled(pattern), _taken_apart(text)
    if not rules.roughly.search(told.compact) or (
        not told.cut and rules.roughly.pattern == _ANY_DIGITS and not _standing(rules.exactly, told)
    ):
        return
    words, gaps = told.words
    labelled = told.labelled
    hits: list[tuple[int, int, Reading]] = []
    for start, first in enumerate(words):
        joined = ""
        for end in range(start, min(start + _MAX_JOINED, len(words)) if first.startswith(rules.letters[:1]) else start):
            if end > start and not _INSIDE.fullmatch(gaps[end]):
                break
            joined += words[end]
            if not rules.roughly.fullmatch(joined):
                continue
            if joined.isdigit() and (
                not (set(gaps[start + 1 : end + 1]) <= {_CUT} or _of_a_year(words, gaps, start, end))
                or start in labelled
                or _attached(words, gaps, start, end)
                or _of_letters(words, gaps, start)
            ):
                continue
            sure = _described(rules.exactly, joined)
            if sure is not None:
                cut = _CUT in (gaps[start], gaps[end + 1])
                hits.append((start, end, Reading(normal_number(joined), sure and not cut)))
    for place in _places(hits):
        values = dict.fromkeys(reading.value for _, _, reading in place)
        sure = len(values) == 1 and any(reading.sure for _, _, reading in place)
        for value in values:
            yield Reading(value, sure=sure)
        if sure and rules.letters:
            for number in _listed_on(words, gaps, place[-1][1], rules):
                yield Reading(normal_number(number), sure=True)


def bare_numbers(text: str, pattern: str) -> Iterator[str]:
    """Yield the normal forms of what in a text can be a number that a channel's pattern describes, only just.

    A number without the letters that the pattern begins with; a number of digits alone in groups, or behind the letters
    of something else. Other numbers look like these, so who paid and the amount must say that one is meant.
    """
    rules, told = _compiled(pattern), _taken_apart(text)
    if not told.digits or not (rules.letters or rules.roughly.pattern == _ANY_DIGITS):
        return
    words, gaps = told.words
    for start, word in enumerate(words):
        # A group of few digits is a day, a house or a quantity.
        for end in range(start, min(start + 3, len(words)) if len(word) >= 3 and word.isdigit() else start):
            joined = "".join(words[start : end + 1])
            if not joined.isdigit() or (end > start and gaps[end] not in (" ", "-", ".")):
                break
            if len(joined) >= 4 and not _attached(words, gaps, start, end) and _bare(rules, joined):
                yield normal_number(rules.letters + joined)


def _bare(rules: _Pattern, digits: str) -> bool:
    wanted = rules.digits if rules.letters else rules.exactly
    return any(wanted.fullmatch("0" * zeros + digits) for zeros in range(4 if rules.letters else 1))


_YEAR_FIRST = re.compile(rf"20[0-9]{{2}}\n?{_CUT}?[-/]\n?{_CUT}?[0-9]{{4}}")
_LIST_GAP = re.compile(r"\s*[,;+&/]\s*")
_AND = frozenset(fold(word) for word in "a i and und et y si și и та і".split())


def _listed_on(words: Sequence[str], gaps: Sequence[str], at: int, rules: _Pattern) -> Iterator[str]:
    """Yield the numbers that go on a list whose letters were said with its first, which ends at a word."""
    length = len(_DIGITS.findall(words[at])[-1]) if words[at][-1].isdigit() else 0
    while True:
        if at + 2 < len(words) and words[at + 1] in _AND and not (gaps[at + 1] + gaps[at + 2]).strip():
            after = at + 2
        elif at + 1 < len(words) and _LIST_GAP.fullmatch(gaps[at + 1]):
            after = at + 1
        else:
            return
        word = words[after]
        if not word.isdigit() or len(word) != length or not rules.digits.fullmatch(word):
            return
        yield rules.letters + word
        at = after


def _of_a_year(words: Sequence[str], gaps: Sequence[str], start: int, end: int) -> bool:
    """Say whether a number is of a year and goes on with more digits than a day or a month has."""
    return end == start + 1 and bool(_YEAR_FIRST.match(words[start] + gaps[end] + words[end]))


_ANY_DIGITS, _ANY_LETTERS = "[0-9]*", r"[^\W_]*"
_DIGITS_ONLY = re.compile(r"[0-9]|\\d|\[[0-9-]+\]")
_ATOM = re.compile(r"(\[[^\]]*\]|\\d|[^\W_])|\{[0-9,]*\}|.", re.DOTALL)
_LETTERS_FIRST = re.compile(r"([^\W\d_]+)((?:(?:\[[0-9-]+\]|\\d|[0-9])(?:\{[0-9,]+\})?)+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A channel's pattern, for folded texts.

    roughly fits all that the pattern fits, with any zeros more or less; it takes any number of digits wherever the
    pattern has one, so it costs little to find that there is nothing to find. letters are what every number begins
    with, where only digits follow, which digits describes.
    """

    exactly: re.Pattern[str]
    roughly: re.Pattern[str]
    letters: str
    digits: re.Pattern[str]
    has_digits: bool


@lru_cache(maxsize=1_024)
def _compiled(pattern: str) -> _Pattern:
    exact = folded_pattern(pattern)
    rough: list[str] = []
    for atom in _ATOM.finditer(exact):
        if atom[1] is None:
            if not (atom[0].startswith("{") or atom[0] == "?") or rough[-1:] not in ([_ANY_DIGITS], [_ANY_LETTERS]):
                rough.append(atom[0])
        elif any(re.fullmatch(atom[1], digit, re.IGNORECASE) for digit in "0123456789"):
            any_of = _ANY_DIGITS if _DIGITS_ONLY.fullmatch(atom[1]) else _ANY_LETTERS
            if rough[-1:] in ([_ANY_DIGITS], [_ANY_LETTERS]):
                rough[-1] = any_of if rough[-1] == any_of else _ANY_LETTERS
            else:
                rough.append(any_of)
        else:
            rough.append(atom[1])
    # Repetitions without end take their time in turn only where what stands between them must be there and is no digit.
    endless = sum(part in (_ANY_DIGITS, _ANY_LETTERS) for part in rough)
    if (
        "){" in exact
        or endless > 3
        or (endless > 1 and (_ANY_LETTERS in rough or any(part[0] in "?|({" for part in rough)))
    ):
        rough = [_ANY_LETTERS]
    parts = _LETTERS_FIRST.fullmatch(exact)
    return _Pattern(
        exactly=re.compile(exact, re.IGNORECASE),
        roughly=re.compile("".join(rough), re.IGNORECASE),
        letters=parts[1].upper() if parts else "",
        digits=re.compile(parts[2] if parts else "(?!)"),
        has_digits=bool(parts) or rough == [_ANY_DIGITS],
    )


def _standing(wanted: re.Pattern[str], told: _Text) -> bool:
    """Say whether a pattern of digits alone can fit a number in a text; such a number stands in one piece."""
    return bool(_YEAR_FIRST.search(told.whole)) or any(
        wanted.fullmatch(word) or wanted.fullmatch(_without_padding(word)) for word in told.digits
    )


def tokens_in(text: str, pattern: str) -> Iterator[str]:
    """Yield every number that a text can be read to name, as token_readings does."""
    yield from (reading.value for reading in token_readings(text, pattern))


def folded_pattern(pattern: str) -> str:
    """Return a pattern that describes folded texts; what is ASCII in it stays as it is."""
    return "".join(ch if ch.isascii() else fold(ch) for ch in pattern)


def _with_cuts(text: str) -> str:
    """Mark the line breaks that may stand inside a word, because the line before is as long as lines can be."""
    if "\n" not in text and "\r" not in text:
        return text
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    pieces = [lines[0]]
    for before, after in pairwise(lines):
        cut = len(before) in _FULL_LINES and before[-1:].isalnum() and after[:1].isalnum()
        pieces += (_CUT if cut else "\n", after)
    return "".join(pieces)


def _words(folded: str) -> tuple[list[str], list[str]]:
    """Take a text apart into words and what stands before each of them and after the last."""
    matches = list(_WORD.finditer(folded))
    edges = [0, *(edge for match in matches for edge in match.span()), len(folded)]
    gaps = [folded[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    return [match[0] for match in matches], gaps


def _described(wanted: re.Pattern[str], token: str) -> bool | None:
    """Say whether a pattern describes a token: True as it is or padded with zeros, False only with more zeros."""
    plain = _without_padding(token)
    if wanted.fullmatch(token) or wanted.fullmatch(plain):
        return True
    if token.isdigit():
        return None
    longer = (
        plain[: group.start()] + "0" * zeros + plain[group.start() :]
        for group in _DIGITS.finditer(plain)
        for zeros in range(1, 10)
    )
    return False if any(wanted.fullmatch(each) for each in longer) else None


def _attached(words: Sequence[str], gaps: Sequence[str], start: int, end: int) -> bool:
    """Say whether a number is a part of something longer: a date, an amount, an account, another number."""

    def belongs(gap: str, before: str, after: str) -> bool:
        if not (before[-1].isdigit() and after[0].isdigit()):
            return False
        return gap in tuple("-/.:'_") or (gap == "," and len(after) <= 3)

    left = start > 0 and belongs(gaps[start], words[start - 1], words[start])
    return left or (end + 1 < len(words) and belongs(gaps[end + 1], words[end], words[end + 1]))


def _of_letters(words: Sequence[str], gaps: Sequence[str], start: int) -> bool:
    """Say whether a number goes on with what letters begin: the 1042 of FV-1042 is an invoice and no order."""
    return start > 0 and gaps[start] in ("-", "/") and words[start - 1].isalpha() and len(words[start - 1]) <= 4


def _places(hits: Sequence[tuple[int, int, Reading]]) -> Iterator[list[tuple[int, int, Reading]]]:
    """Put together the readings of the same words; hits are ordered by their first word."""
    place: list[tuple[int, int, Reading]] = []
    last = -1
    for hit in hits:
        start, end, _ = hit
        if start > last and place:
            yield place
            place = []
        place.append(hit)
        last = max(last, end)
    if place:
        yield place


# Czech payment symbols by their labels: the number behind one is a symbol and no order number.
_LABELLED = re.compile(
    rf"{_BEGIN}(?:V(?:AR(?:IAB[A-Z]*)?)?|K(?:ONST[A-Z]*)?|S(?:PEC[A-Z]*)?)[\s.]{{0,3}}S(?:YM(?:B[A-Z]*)?)?"
    r"[\s./:#=-]{0,5}[0-9]+(?:[\s-][0-9]+){0,4}"
)


def _labelled(folded: str) -> set[int]:
    """Return the places, among the words of a text, of what is labelled as a payment symbol."""
    spans = [match.span() for match in _LABELLED.finditer(folded)]
    if not spans:
        return set()
    return {
        place
        for place, word in enumerate(_WORD.finditer(folded))
        if any(begin <= word.start() < end for begin, end in spans)
    }


_NUMBER = r"(?:[0-9]{1,3}(?:[ .,'\xa0][0-9]{3})+(?:[.,][0-9]{1,2})?|[0-9]+(?:[.,][0-9]{1,2})?)"
_CURRENCY = "|".join(fold(word) for word in "CZK Kč EUR RON lei UAH грн USD RUB руб PLN HUF GBP CHF".split())
_DAY, _MONTH, _YEAR = "(?:0?[1-9]|[12][0-9]|3[01])", "(?:0?[1-9]|1[0-2])", "(?:19|20)[0-9]{2}"
# What is written in digits and is no reference; without it, “CZ 10.11.2026” would name order CZ1011.
_SOMETHING_ELSE = re.compile(
    rf"{_BEGIN}(?<![^\W_][-/])(?:"
    + "|".join(
        (
            r"[A-Z]{2}[0-9]{2} [0-9A-Z]{4}(?: (?=[A-Z]*[0-9])[0-9A-Z]{4}){2,7}(?: [0-9]{1,4})?",  # IBAN in groups
            r"RF[0-9]{2}(?: [0-9A-Z]{4})+(?: [0-9A-Z]{1,3})?",
            r"(?:[0-9]{1,6}-)?[0-9]{6,10}/[0-9]{4}",  # domestic account
            rf"{_DAY}\. ?{_MONTH}\.(?: ?(?:{_YEAR}|[0-9]{{2}}))?",
            rf"{_DAY}([/-]){_MONTH}\1(?:{_YEAR}|[0-9]{{2}})",
            rf"{_YEAR}([-/.]){_MONTH}\2{_DAY}",
            rf"(?:{_CURRENCY})[ .:]{{1,2}}{_NUMBER}",
            rf"{_NUMBER} (?:{_CURRENCY})",
            rf"[€$£₴₽] ?{_NUMBER}|{_NUMBER} ?[€$£₴₽]|{_NUMBER}(?=[,.]-)",
            r"[0-9]+[.,][0-9]{1,2}",
            r"\+[0-9][0-9 ()/-]{6,18}[0-9]",
            r"(?:TEL|MOB|PHONE|GSM)[A-Z]*[\s.:]{0,3}\+?[0-9][0-9 -]{5,18}",
            r"[0-9]{3} [0-9]{3} [0-9]{3}",
        )
    )
    + rf"){_END}(?![.,][0-9])"
)
