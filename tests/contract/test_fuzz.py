"""Whatever bytes Hypothesis makes up, a parser takes or refuses them, and what it takes is whole."""

from __future__ import annotations

import pytest
from fuzz_targets import READERS, TARGETS, entries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# A document or a message takes as long to make as a hundred others take to be read.
EXAMPLES = {"document_pdf": 8, "message": 30, "rules": 40, "references": 60, "statement": 60}
USUAL = 100

# Where (as a share of the length), how many bytes are taken there, how often they are put back, what goes before.
Change = tuple[float, int, int, bytes]


def pieces(name: str) -> st.SearchStrategy[bytes]:
    """Bytes that mean something to a parser, parts of files that it takes, and any others."""
    target = TARGETS[name]
    parts = st.tuples(st.sampled_from(target.seeds), st.floats(0, 1), st.integers(1, 200)).map(
        lambda cut: cut[0][int(cut[1] * len(cut[0])) :][: cut[2]]
    )
    return st.sampled_from(target.pieces) | parts | st.binary(max_size=8)


def changes(name: str) -> st.SearchStrategy[list[Change]]:
    change = st.tuples(st.floats(0, 1), st.integers(0, 40), st.sampled_from((0, 0, 0, 1, 2, 9)), pieces(name))
    return st.lists(change, min_size=1, max_size=12)


def changed(data: bytes, made: list[Change]) -> bytes:
    for share, taken, often, piece in made:
        place = int(share * len(data))
        data = data[:place] + piece + data[place : place + taken] * often + data[place + taken :]
    return data


def damaged(name: str) -> st.SearchStrategy[bytes]:
    """What a parser takes, with bytes cut out, repeated and spliced in."""
    return st.builds(changed, st.sampled_from(TARGETS[name].seeds), changes(name))


def bounded(examples: int) -> settings:
    """The same examples in every run, and nothing kept: what a run finds, the next one finds."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=slow)


def feed(name: str, made_up: st.SearchStrategy[bytes]) -> None:
    @bounded(EXAMPLES.get(name, USUAL))
    @given(data=made_up)
    def fed(data: bytes) -> None:
        TARGETS[name].run(data)

    fed()


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_taken_or_refused(name: str) -> None:
    feed(name, st.binary(max_size=2_000))


@pytest.mark.parametrize("name", TARGETS)
def test_any_pieces_of_what_a_parser_knows_are_taken_or_refused(name: str) -> None:
    feed(name, st.lists(pieces(name), max_size=60).map(b"".join))


@pytest.mark.parametrize("name", TARGETS)
def test_a_good_file_with_damage_is_taken_or_refused(name: str) -> None:
    feed(name, damaged(name))


@pytest.mark.parametrize("name", READERS)
def test_a_statement_with_damage_is_read_in_the_same_way_twice(name: str) -> None:
    @bounded(50)
    @given(data=damaged(name))
    def read_twice(data: bytes) -> None:
        assert READERS[name].read(data, name) == READERS[name].read(data, name)

    read_twice()


@bounded(200)
@given(made=changes("mt940"))
def test_every_statement_line_of_mt940_is_an_entry_or_refused(made: list[Change]) -> None:
    data = changed(TARGETS["mt940"].seeds[0], made).replace(b"\0", b"")
    file = READERS["mt940"].read(data, "f")
    whole = [refused for refused in file.refused if not refused.where.endswith(":61:")]
    told = len(entries(file)) + sum(refused.where.endswith(":61:") for refused in file.refused)
    lines = sum(line.startswith(b":61:") for line in data.replace(b"\r", b"\n").split(b"\n"))
    assert told == lines or any("none of its" in refused.reason or "whole" in refused.where for refused in whole)


@pytest.mark.parametrize("name", ["camt", "mt940"])
def test_a_file_cut_off_anywhere_gives_no_entry_that_the_whole_file_does_not_give(name: str) -> None:
    data, reader = TARGETS[name].seeds[0], READERS[name]
    good = entries(reader.read(data, name))
    assert good
    for length in range(len(data)):
        file = reader.read(data[:length], name)
        assert entries(file) == good[: len(entries(file))]
        if len(entries(file)) < len(good):
            assert file.refused
