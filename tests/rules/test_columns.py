"""Texts in columns: asked all at once, each gets the answer that it gets by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.columns import Objects, agree, normal_symbols, says_numbers, symbols
from domain.references import name_words, names_agree, normal_variable_symbol, says_a_number

written = st.text(st.sampled_from("0123456789 -xV\u0660\uff11²\0ěя"), max_size=13)
names = st.lists(
    st.sampled_from(
        [
            *("Jana", "JANA", "Nováková", "NOVAKOVA", "Straße", "STRASSE", "Ing.", "J.", "O'Brien", "s.r.o."),
            *("Оксана", "ОКСАНА", "Йованович", "Čеховa", "Cеховa", "Łukasz", "ŁUKASZ", "𝓙an", "Jan\u0301", "x" * 38),
            *("", "\t", "None", "-"),
        ]
    ),
    max_size=4,
).map(" ".join)


def column(texts: list[str | None]) -> Objects:
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found


@given(st.lists(st.none() | written, max_size=5))
def test_a_column_of_symbols_is_read_as_each_of_them_is(fields: list[str | None]) -> None:
    assert symbols(column(fields)).tolist() == [int(normal_variable_symbol(field or "") or 0) for field in fields]


@given(st.lists(written | st.integers(0, 10**11).map(str), max_size=5))
def test_only_what_is_in_its_normal_form_counts_where_that_is_asked_for(texts: list[str]) -> None:
    expected = [int(text) if text and normal_variable_symbol(text) == text else 0 for text in texts]
    assert normal_symbols(column(list(texts))).tolist() == expected


@given(st.lists(st.text(st.sampled_from("a 1\u0660\uff11²ěя–\0\ud800"), max_size=4), max_size=5))
def test_a_digit_is_seen_in_each_text_of_a_column(texts: list[str]) -> None:
    assert says_numbers(texts).tolist() == [says_a_number(text) for text in texts]


def turned(name: str) -> st.SearchStrategy[tuple[str, str]]:
    return st.permutations(name.split(" ")).map(lambda words: (name, " ".join(words).upper()))


@given(st.lists(st.tuples(st.none() | names, st.none() | names) | names.flatmap(turned), max_size=5))
def test_names_in_columns_agree_where_each_two_do(pairs: list[tuple[str | None, str | None]]) -> None:
    found = agree(column([one for one, _ in pairs]), column([other for _, other in pairs])).tolist()
    for (one, other), same in zip(pairs, found, strict=True):
        if name_words(one or "") and name_words(other or ""):
            assert same is names_agree(one or "", other or "")
        elif same:
            # A name without a word speaks for nobody, and may as well be the customer's own.
            assert not name_words(one or "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("JANA NOVAKOVA", "Jana Nováková"),
        ("NOVAKOVA JANA", "Jana Nováková"),
        ("NOVAKOVA JANA MARIE", "Jana Marie Nováková"),
        ("ОКСАНА ШЕВЧЕНКО", "Шевченко Оксана"),
        ("x" * 50, "x" * 50),
    ],
)
def test_names_written_otherwise_agree_whichever_is_the_payer_s(one: str, other: str) -> None:
    assert agree(column([one, other, None]), column([other, one, other])).tolist() == [True, True, True]
    assert agree(column([one, one]), column(["Petr Dvořák", None])).tolist() == [False, False]
