"""Whatever bytes a statement file has, reading it gives a StatementFile of bounded size, and never an exception."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors import load
from connectors.roles import StatementReader
from connectors.statements import read_statement
from domain.payments import StatementEntry, StatementFile

FILES = Path(__file__).parent / "files"


def make(kind: str, **more: str) -> StatementReader:
    return load({"type": kind, "name": "reader", **more}, home=Path("kvit-home"), where="test")


READERS = {
    "camt053.xml": make("camt"),
    "mt940.sta": make("mt940"),
    "csv_statement.csv": make("csv_statement", account="19/0800", currency="CZK"),
    "cod_remittance.csv": make("cod_remittance", carrier="gls", currency="CZK"),
}
SAMPLES = {name: (FILES / name).read_bytes() for name in READERS}

# Bytes that mean something to one of the formats, beside any other.
PIECES = st.sampled_from(
    [
        *(b"\0", b"\xff", b"\xc3", b"\r", b"\n", b'"', b",", b";", b"=", b":", b"-", b"-}", b"?", b"?2", b"/REMI/"),
        *(
            b":20:",
            b":25:",
            b":60F:",
            b":61:",
            b":62F:",
            b":86:",
            b":99:",
            b"{4:",
            b"EREF+",
            b"VS",
            b"NTRF",
            b"R",
            b"D",
        ),
        *(b"<", b">", b"</Ntry>", b"<Ntry/>", b"<!DOCTYPE x>", b"&a;", b"<![CDATA[", b"<!--", b"<?x?>", b"<Amt/>"),
        *(b"0", b"9" * 20, b"0,", b"1e9", b"-1", b"EUR", b"QQQ", b"2026-02-30", b"260231", "\u0661".encode()),
    ]
)
# A change: where in the file (as a share of its length), how many bytes are cut there, what is put in.
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), PIECES | st.binary(max_size=8)), min_size=1, max_size=12
)
BOUNDED = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def changed(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for share, cut, piece in changes:
        place = int(share * len(data))
        data = data[:place] + piece + data[place + cut :]
    return data


def entries(file: StatementFile) -> list[StatementEntry]:
    return [entry for statement in file.statements for entry in statement.entries]


def check(file: StatementFile, data: bytes) -> None:
    """A file of so many bytes has so many parts at most, and each of its parts is whole."""
    assert isinstance(file, StatementFile)
    assert file.statements or file.refused
    assert len(entries(file)) + len(file.refused) <= len(data) + 5
    for refused in file.refused:
        assert refused.where
        assert len(refused.where) < 120
        assert 3 < len(refused.reason.split()) < 80
        assert len(refused.reason) < 800
        assert "Traceback" not in refused.reason
    for entry in entries(file):
        assert entry.amount
        assert entry.variable_symbol is None or (entry.variable_symbol.isdecimal() and len(entry.variable_symbol) <= 10)
        assert entry.where


@pytest.fixture(params=READERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@BOUNDED
@given(data=st.binary(max_size=2_000))
def test_any_bytes(name: str, data: bytes) -> None:
    reader = READERS[name]
    assert reader.recognises(data, name) in (True, False)
    check(reader.read(data, name), data)
    check(read_statement(data, name, list(READERS.values())), data)


@BOUNDED
@given(pieces=st.lists(PIECES, max_size=60))
def test_any_pieces_of_the_formats(name: str, pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    check(READERS[name].read(data, name), data)


@BOUNDED
@given(changes=CHANGES)
def test_a_good_file_with_damage(name: str, changes: list[tuple[float, int, bytes]]) -> None:
    data = changed(SAMPLES[name], changes)
    file = READERS[name].read(data, name)
    check(file, data)
    assert file == READERS[name].read(data, name)
    check(read_statement(data, name, list(READERS.values())), data)


@BOUNDED
@given(changes=CHANGES)
def test_every_statement_line_of_mt940_is_an_entry_or_refused(changes: list[tuple[float, int, bytes]]) -> None:
    data = changed(SAMPLES["mt940.sta"], changes).replace(b"\0", b"")
    file = READERS["mt940.sta"].read(data, "f")
    whole = [refused for refused in file.refused if not refused.where.endswith(":61:")]
    told = len(entries(file)) + sum(refused.where.endswith(":61:") for refused in file.refused)
    lines = sum(line.startswith(b":61:") for line in data.replace(b"\r", b"\n").split(b"\n"))
    assert told == lines or any("none of its" in refused.reason or "whole" in refused.where for refused in whole)


@pytest.mark.parametrize("kept", ["camt053.xml", "mt940.sta"])
def test_a_file_cut_off_anywhere_gives_no_entry_that_the_whole_file_does_not_give(kept: str) -> None:
    data, reader = SAMPLES[kept], READERS[kept]
    good = entries(reader.read(data, kept))
    for length in range(len(data)):
        file = reader.read(data[:length], kept)
        assert entries(file) == good[: len(entries(file))]
        if len(entries(file)) < len(good):
            assert file.refused
