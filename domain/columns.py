"""Texts in columns: what is asked of one text elsewhere, asked of many at once.

Nearly all texts are plain, and for these the letters are looked at as numbers, all of a column together; whatever is
not plain is asked about by itself, so that the answers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from domain.references import fold, names_agree, normal_variable_symbol, says_a_number

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.object_]
_Letters = npt.NDArray[np.uint16]

_SYMBOL_DIGITS = 10
_TENS = 10 ** np.arange(_SYMBOL_DIGITS - 1, -1, -1, dtype=np.int64)
_TENS_LEFT = 10 ** np.arange(_SYMBOL_DIGITS, -1, -1, dtype=np.int64)
_NAME_WIDTH = 40
_PIECE = 20_000
"""Texts whose letters are looked at together: those of more don't stay in a processor's cache."""
_SPACE = ord(" ")
_OTHER, _OTHER_YET = 0xFFFF, 0xFFFE
_CYRILLIC_FROM, _CYRILLIC_TO = 0x400, 0x530


def _table(other: int) -> _Letters:
    """Return what becomes of each letter in a name; what isn't plain becomes `other`.

    Latin letters lose their diacritics, as domain.references.fold takes them off; Cyrillic ones stay what they are.
    """
    table = np.full(0x10000, other, dtype=np.uint16)
    table[0] = 0
    for place in range(_SPACE, 0x7F):
        table[place] = ord(chr(place).upper())
    for place in range(0xC0, 0x250):
        if chr(place).isalpha() and len(folded := fold(chr(place))) == 1:
            table[place] = ord(folded)
    for place in range(_CYRILLIC_FROM, _CYRILLIC_TO):
        if chr(place).isalpha() and len(capital := chr(place).upper()) == 1:
            table[place] = ord(capital)
    return table


# Two that differ in what isn't plain, so that it is like nothing.
_PLAIN, _PLAIN_YET = _table(_OTHER), _table(_OTHER_YET)


def symbols(fields: Objects) -> Ints:
    """Return variable symbols as numbers, 0 for what is none."""
    written = [field or "" for field in fields.tolist()]
    found, count = _numbers(fields)
    # What is no digit, wherever it stands, makes digits fewer than letters; so do letters that were cut off.
    for place in np.flatnonzero(count != _lengths(written)).tolist():
        found[place] = int(normal_variable_symbol(written[place]) or 0)
    return found


def normal_symbols(texts: Objects) -> Ints:
    """Return variable symbols that are in their normal form as numbers, 0 for all else."""
    found, count = _numbers(texts)
    found[(count != _lengths(texts.tolist())) | (found < _TENS[-count])] = 0
    return found


def _numbers(texts: Objects) -> tuple[Ints, Ints]:
    """Return what texts of up to ten digits come to, and how many of the first ten letters are digits."""
    found = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
    for begin in range(0, len(texts), _PIECE):
        piece = slice(begin, begin + _PIECE)
        found[0][piece], found[1][piece] = _numbers_of_piece(texts[piece])
    return found


def _numbers_of_piece(texts: Objects) -> tuple[Ints, Ints]:
    digits = _points(texts, _SYMBOL_DIGITS) - np.uint32(ord("0"))
    is_digit = digits <= 9
    digits[~is_digit] = 0
    count = is_digit.sum(axis=1)
    # As if zeros followed on the digits up to the most that there can be, which are then divided off.
    return digits @ _TENS // _TENS_LEFT[count], count


def _lengths(texts: Sequence[str]) -> Ints:
    return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))


def says_numbers(texts: list[str]) -> Bools:
    """Say in which texts any digit stands."""
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    letters = np.frombuffer(joined, dtype=np.uint8)
    ends = np.flatnonzero(letters == 0)
    if len(ends) != len(texts) - 1:
        return np.array([says_a_number(text) for text in texts], dtype=np.bool_)
    found = np.zeros(len(texts), dtype=np.bool_)
    found[np.searchsorted(ends, np.flatnonzero(letters - np.uint8(ord("0")) <= 9))] = True
    # Digits of other scripts begin at U+0660, and with this byte.
    beyond: list[int] = np.unique(np.searchsorted(ends, np.flatnonzero(letters >= 0xD9))).tolist()
    for place in beyond:
        found[place] = found[place] or says_a_number(texts[place])
    return found


def agree(names: Objects, others: Objects) -> Bools:
    """Say where two names are one person's or company's, as names_agree does, or the first says nobody's."""
    same = _written_alike(names, others)
    for place in np.flatnonzero(~same).tolist():
        name, other = names[place], others[place] or ""
        same[place] = not name or _same_words(name, other) or names_agree(name, other) is True
    return same


def _same_words(name: str, other: str) -> bool:
    return set(name.upper().split()) == set(other.upper().split())


def _written_alike(names: Objects, others: Objects) -> Bools:
    """Say where two names have the same letters but for diacritics and case, or one's first word is the other's last.

    Names with other letters than the table's, of two scripts, or too long are never said to.
    """
    if not len(names):
        return np.zeros(0, dtype=np.bool_)
    left, right = _points(names, _NAME_WIDTH), _points(others, _NAME_WIDTH)
    used = int(np.flatnonzero(left.any(axis=0) | right.any(axis=0)).max(initial=0)) + 1
    left = np.take(_PLAIN, left[:, :used], mode="clip")
    right = np.take(_PLAIN_YET, right[:, :used], mode="clip")
    same = np.asarray((left == right).all(axis=1))
    rest = np.flatnonzero(~same)
    same[rest] = _turned(left[rest], right[rest])
    rest = rest[~same[rest]]
    same[rest] = _turned(right[rest], left[rest])
    cyrillic = np.flatnonzero((left >= _CYRILLIC_FROM).any(axis=1))
    latin = (left[cyrillic] >= ord("A")) & (left[cyrillic] < _CYRILLIC_FROM)
    same[cyrillic[latin.any(axis=1)]] = False
    if used == _NAME_WIDTH:
        # What fills the row may go on.
        same[left[:, -1] != 0] = False
    # What is None would be read as a name.
    return same & others.astype(np.bool_)


def _points(texts: Objects, width: int) -> npt.NDArray[np.uint32]:
    """Return the letters of texts as numbers, a row for each, cut after so many or filled with zeros."""
    return texts.astype(f"U{width}").view(np.uint32).reshape(len(texts), width)


def _turned(left: _Letters, right: _Letters) -> Bools:
    """Say where the one is the other with its first word put last."""
    rows, width = left.shape
    each, columns = np.arange(rows, dtype=np.int64), np.arange(width, dtype=np.int64)
    space = (left == _SPACE).argmax(axis=1)
    length = width - (left[:, ::-1] != 0).argmax(axis=1)
    padded = np.concatenate([left, np.zeros((rows, 1), dtype=np.uint16)], axis=1)
    padded[each, length] = _SPACE
    begin, length = space[:, None] + 1, length[:, None]
    at: Ints = columns + begin
    at -= np.where(at > length, length + 1, 0)
    turned = np.take_along_axis(padded, at, axis=1)
    turned[columns >= length] = 0
    found = (turned == right).all(axis=1)
    return np.asarray(found & (left[each, space] == _SPACE))
