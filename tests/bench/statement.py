"""A bank's statement with many entries, as banks write them in camt.053; and reading and storing it bare.

    python tests/bench/statement.py --entries 100000 [--database statement.sqlite]

The yardstick of taking a statement in: its elements are read with lxml and put into one plain table of SQLite, in one
transaction, with nothing checked and nothing matched. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import io
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from lxml import etree as _etree  # pyright: ignore[reportMissingTypeStubs, reportAttributeAccessIssue, reportUnknownVariableType]

IBAN = "CZ5099100000190000260111"
"""The account of the channel cz in deployments/rules."""

_NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.02"
_HEAD = (
    f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{_NAMESPACE}"><BkToCstmrStmt><GrpHdr><MsgId>M-1</MsgId>'
    "<CreDtTm>2026-11-03T04:00:00+01:00</CreDtTm></GrpHdr><Stmt><Id>2026-307</Id>"
    f"<Acct><Id><IBAN>{IBAN}</IBAN></Id><Ccy>CZK</Ccy></Acct>"
)
_TAIL = "</Stmt></BkToCstmrStmt></Document>\n"

etree = cast("Any", _etree)


def _balance(code: str, amount: int) -> str:
    return (
        f'<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp><Amt Ccy="CZK">{amount / 100:.2f}</Amt>'
        "<CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-11-02</Dt></Dt></Bal>"
    )


def _entry(place: int) -> str:
    return (
        f'<Ntry><Amt Ccy="CZK">290.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts>BOOK</Sts>'
        "<BookgDt><Dt>2026-11-02</Dt></BookgDt><ValDt><Dt>2026-11-02</Dt></ValDt>"
        f"<AcctSvcrRef>20261102-{place:07}</AcctSvcrRef><NtryDtls><TxDtls>"
        f"<RltdPties><Dbtr><Nm>NOVÁK JAN</Nm></Dbtr><DbtrAcct><Id><Othr><Id>{2_000_000_000 + place}</Id></Othr></Id>"
        f"</DbtrAcct></RltdPties><RmtInf><Ustrd>platba za zboží</Ustrd><Strd><CdtrRefInf><Ref>VS:{place:010}</Ref>"
        "</CdtrRefInf></Strd></RmtInf></TxDtls></NtryDtls></Ntry>\n"
    )


def write_statement(file: Path, entries: int) -> int:
    """Write a statement with so many entries; return its size in bytes."""
    with file.open("w", encoding="utf-8") as out:
        out.write(_HEAD + _balance("PRCD", 0) + _balance("CLBD", 29_000 * entries))
        out.writelines(_entry(place) for place in range(1, entries + 1))
        out.write(_TAIL)
    return file.stat().st_size


def _rows(data: bytes) -> Iterator[tuple[str | None, ...]]:
    """Yield what stands in each entry, as text."""
    name = f"{{{_NAMESPACE}}}"
    paths = ["AcctSvcrRef", "Amt", "BookgDt/x/Dt", "NtryDtls/TxDtls/RltdPties/Dbtr/Nm"]
    paths += ["NtryDtls/TxDtls/RltdPties/DbtrAcct/Id/Othr/Id", "NtryDtls/TxDtls/RmtInf/Ustrd"]
    paths += ["NtryDtls/TxDtls/RmtInf/Strd/CdtrRefInf/Ref"]
    found = ["/".join(f"{name}{step}" for step in path.replace("/x", "").split("/")) for path in paths]
    for _, entry in etree.iterparse(io.BytesIO(data), tag=f"{name}Ntry"):
        yield tuple(entry.findtext(path) for path in found)
        entry.clear()


def bare(entries: int, kept: Path) -> dict[str, Any]:
    """Read a statement of so many entries and store it, bare."""
    file = kept.with_suffix(".xml")
    write_statement(file, entries)
    with closing(sqlite3.connect(kept)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE entries (id TEXT UNIQUE, amount, booked, payer, account, text, symbol)")
        began, cpu = time.perf_counter(), time.process_time()
        with connection:
            connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", _rows(file.read_bytes()))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        stored = connection.execute("SELECT count(*) FROM entries WHERE symbol IS NOT NULL").fetchone()[0]
    if stored != entries:
        raise SystemExit(f"{stored} entries of {entries} were read")
    return {"entries": entries, "seconds": round(seconds, 2), "per_s": round(entries / seconds), "cpu_s": round(cpu, 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A statement, read and stored bare")
    parser.add_argument("--entries", type=int, default=100_000)
    entries = parser.parse_args().entries
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(bare(entries, Path(folder) / "bare.sqlite")) + "\n")


if __name__ == "__main__":
    main()
