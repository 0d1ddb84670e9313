"""Names: one person's or company's name in every writing, and nothing that is only alike."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from domain.money import Money
from domain.references import name_words, names_agree, payer_reference

AMOUNT = Money.parse("450.00", "CZK")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Jana Nováková", "NOVAKOVA JANA"),
        ("Jiří Dvořák", "dvorak jiri"),
        ("Ing. Jana Nováková, Ph.D.", "Jana Novakova"),
        ("MUDr. Petr Malý, MBA", "Petr Maly"),
        ("pan Petr Malý", "Petr Maly"),
        ("Nováková Jana Marie", "Jana Novakova"),
        ("Novakova J.", "Jana Nováková"),
        ("Novakova", "Jana Nováková"),
        ("Ștefan Țurcanu", "STEFAN TURCANU"),
        ("Şerban Ţepeş", "Șerban Țepeș"),
        ("Jürgen Müller", "Juergen Mueller"),
        ("Jürgen Müller", "Jurgen Muller"),
        ("Weiß Käthe", "WEISS KAETHE"),
        ("Олександр Коваленко", "Oleksandr Kovalenko"),
        ("Юлія Щербак", "Yuliia Shcherbak"),
        ("Євген Їжакевич", "Yevhen Yizhakevych"),
        ("Лук'яненко Ірина", "Iryna Lukianenko"),
        ("Лук’яненко Ірина", "Lukyanenko Irina"),
        ("Згурський Захар", "Zakhar Zghurskyi"),
        ("Сергей Иванов", "Sergey Ivanov"),
        ("Сергій Іванов", "Serhii Ivanov"),
        ("Наталья Королёва", "Natalia Koroleva"),
        ("Хомяк Ксения", "Khomyak Xenia"),
        ("Иванов Сергей", "Іванов Сергей"),
        ("Novákov\u0061\u0301 Jana", "Jana Nováková"),
        ("Нaтaлья Kоролева", "Наталья Королева"),
        ("Kovář a syn s.r.o.", "KOVAR A SYN SRO"),
        ("Alfa Beta, spol. s r. o.", "ALFA BETA SPOL SRO"),
        ("Müller Handel GmbH & Co. KG", "MUELLER HANDEL"),
        ("ТОВ «Ромашка Плюс»", "TOV ROMASHKA PLIUS"),
        ("ФОП Коваленко Олександр", "KOVALENKO OLEKSANDR"),
        ("S.C. Lipa Verde S.R.L.", "LIPA VERDE SRL"),
    ],
)
def test_a_name_is_the_same_in_every_script_order_and_with_titles(one: str, other: str) -> None:
    assert names_agree(one, other) is True
    assert names_agree(other, one) is True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Jana Nováková", "Petr Dvořák"),
        ("Jana Nováková", "Jana Dvořáková"),
        ("Jana Nováková", "Eva Nováková"),
        ("Jan Novák", "Jana Nováková"),
        ("Jan Novák", "Jan Nováček"),
        ("Alfa Trade s.r.o.", "Beta Trade s.r.o."),
        ("Alfa s.r.o.", "Beta s.r.o."),
        ("Олександр Коваленко", "Oleksandr Kovalchuk"),
        ("Ing. Petr Malý", "Ing. Jana Velká"),
        ("ТОВ Ромашка", "ТОВ Волошка"),
    ],
)
def test_one_word_in_common_or_a_name_that_is_only_alike_is_another_s(one: str, other: str) -> None:
    assert names_agree(one, other) is False
    assert names_agree(other, one) is False


@pytest.mark.parametrize("nothing", ["", "  ", "Ing.", "s.r.o.", "S. R. O.", "J. N.", "123 456", "-", "ТОВ", "«»"])
def test_without_a_name_there_is_nothing_to_compare(nothing: str) -> None:
    assert name_words(nothing) == frozenset()
    assert names_agree(nothing, "Jana Nováková") is names_agree("Jana Nováková", nothing) is None
    assert names_agree(nothing, nothing) is None
    assert payer_reference(nothing, AMOUNT) is None


def test_a_name_with_an_amount_is_one_reference_in_every_writing() -> None:
    written = ["Jana Nováková", "NOVAKOVA JANA", "Ing. Jana Novakova", "Яна Новакова"]
    assert {payer_reference(each, AMOUNT) for each in written} == {"IANA NOVAKOVA 45000CZK"}
    others = [payer_reference("Jana Nováková", Money.parse(*money)) for money in (("450.01", "CZK"), ("450.00", "EUR"))]
    assert payer_reference("Jana Nováková", AMOUNT) not in others
    assert payer_reference("Jana Marie Nováková", AMOUNT) != payer_reference("Jana Nováková", AMOUNT)


# Whatever comes

LETTERS = "abcdeghijknorstuvyzáčěňřšžüößțșăîâABCJKNŘŠабвгґдеєжзиіїйклюяъыёщхАБВИЮЯ'’ʼ-."
NAMES = st.text(LETTERS + " ", max_size=30) | st.text(max_size=30)


@given(NAMES, NAMES)
def test_who_is_compared_with_whom_changes_nothing(one: str, other: str) -> None:
    assert names_agree(one, other) is names_agree(other, one)


@given(NAMES)
def test_a_name_agrees_with_itself_if_there_is_one(name: str) -> None:
    assert names_agree(name, name) is (True if name_words(name) else None)
    assert (payer_reference(name, AMOUNT) is None) is (not name_words(name))


@given(st.lists(st.text(LETTERS, min_size=1, max_size=9), max_size=4), st.randoms(use_true_random=False))
def test_neither_order_nor_titles_nor_the_writing_of_accents_change_a_name(
    words: list[str], shuffle: random.Random
) -> None:
    name, shuffled = " ".join(words), list(words)
    shuffle.shuffle(shuffled)
    assert name_words(" ".join(shuffled)) == name_words(name)
    assert name_words(f"Ing. {name}, MBA") == name_words(name)
    assert name_words(unicodedata.normalize("NFD", name)) == name_words(name)
    assert payer_reference(" ".join(shuffled), AMOUNT) == payer_reference(name, AMOUNT)


def table(letters: str, latin: str) -> dict[str, str]:
    return {**dict(zip(letters, latin.split(), strict=True)), "ь": ""}


UKRAINIAN = table(
    "абвгґдеєжзиіїйклмнопрстуфхцчшщюя",
    "a b v h g d e ie zh z y i i i k l m n o p r s t u f kh ts ch sh shch iu ia",
)
AT_THE_BEGINNING = {"є": "ye", "ї": "yi", "й": "y", "ю": "yu", "я": "ya"}
RUSSIAN = table(
    "абвгдеёжзийклмнопрстуфхцчшщыэюя",
    "a b v g d e e zh z i i k l m n o p r s t u f kh ts ch sh shch y e iu ia",
)


def in_passport(words: list[str], latin: dict[str, str], first: dict[str, str]) -> str:
    """Write words as the country's passports do: Ukraine's of 2010, Russia's of 2014."""
    return " ".join(first.get(word[0], latin[word[0]]) + "".join(latin[each] for each in word[1:]) for word in words)


def words_of(letters: str) -> st.SearchStrategy[list[str]]:
    # Two letters can be a legal form, such as AG, and say nothing.
    return st.lists(st.text(letters, min_size=4, max_size=9), min_size=1, max_size=3)


@given(words_of("".join(UKRAINIAN)))
def test_a_ukrainian_name_is_the_one_in_the_passport(words: list[str]) -> None:
    latin = in_passport(words, UKRAINIAN, AT_THE_BEGINNING)
    assume("iii" not in latin.replace("y", "i"))
    assert name_words(" ".join(words)) == name_words(latin)


def test_zg_is_written_so_that_it_is_not_read_as_zh() -> None:
    assert name_words("Згурський") == name_words("Zghurskyi")


@given(words_of("".join(RUSSIAN)))
def test_a_russian_name_is_the_one_in_the_passport(words: list[str]) -> None:
    assert name_words(" ".join(words)) == name_words(in_passport(words, RUSSIAN, {}))
