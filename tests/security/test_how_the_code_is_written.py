"""What the code never does, read from the code itself: statements put together, objects unpacked, sheets written."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("connectors", "deployments", "domain", "flows", "store", "tasks", "web")
MODULES = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
OURS = [file for file in MODULES if not {"sandbox", "migrations"} & set(file.parts)]


def tree_of(source: str | Path) -> ast.Module:
    return ast.parse(source.read_text(encoding="utf-8") if isinstance(source, Path) else source)


def calls(source: str | Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls in a module with what is called, such as text or yaml.load."""
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


# SQL

RAW = frozenset({"text", "literal_column", "exec_driver_sql", "executescript"})


def is_fixed(node: ast.expr) -> bool:
    """Say whether an expression is a text that stands in the code, or a choice between such."""
    if isinstance(node, ast.IfExp):
        return is_fixed(node.body) and is_fixed(node.orelse)
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def put_together(source: str | Path) -> list[str]:
    """Return the statements in a module that aren't written out in it."""
    return [
        ast.unparse(call)
        for what, call in calls(source)
        if what.rpartition(".")[2] in RAW and call.args and not is_fixed(call.args[0])
    ]


SPEAKING_SQL = [file for file in OURS if "sqlalchemy" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", SPEAKING_SQL, ids=named)
def test_sql_is_written_out_and_what_changes_in_it_is_bound(file: Path) -> None:
    assert put_together(file) == []
    for what, call in calls(file):
        if what.endswith((".execute", ".execute_fetchall", ".scalar", ".scalars", ".stream")) and call.args:
            first = call.args[0]
            assert not isinstance(first, (ast.JoinedStr, ast.BinOp)) or "PRAGMA" in ast.unparse(first), ast.unparse(
                call
            )


def test_a_statement_that_is_put_together_would_be_seen() -> None:
    for written in ('text(f"SELECT {x}")', 'sa.text("SELECT " + x)', "c.exec_driver_sql(x)", 'text("a {}".format(x))'):
        assert put_together(written) == [written.replace('"', "'")]
    assert put_together('text("SELECT :x")') == []


# What must not be there at all

UNPACKED_IN_BOUNDS = (
    "connectors/commerceml.py: with zipfile.ZipFile(io.BytesIO(data)) as archive:",
    "store/archived.py: content = zlib.decompressobj().decompress(body, LARGEST)",
)
"""What 1C packs, and what we archived; tests/contract/test_commerceml.py and tests/state/test_archive.py show that a
bomb stays within its bounds."""

BETWEEN_OUR_PROCESSES = re.compile(
    r"connectors/printing\.py: .*\b(?:pickle|subprocess)\b|deployments/temporary_prefect\.py: .*\bsubprocess\b"
)
"""What is printed, sent to a process that we started and that nobody else can speak to, and what it sends back; and
how the temporary server is started, with fixed words alone."""


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (r"csv\.writer|csv\.DictWriter|to_csv|to_excel|openpyxl|xlsxwriter", "nothing is exported as a spreadsheet"),
        (r"(?<![\w.])(?:pickle|marshal|shelve|dill|cloudpickle)\b", "nothing that can run is unpacked"),
        (r"(?<![\w.])(?:eval|exec)\(|os\.system|shell=True|subprocess", "nothing from outside is run"),
        (r"yaml\.(?:unsafe_load|full_load|load_all|Loader\b|UnsafeLoader|FullLoader)", "YAML makes plain values alone"),
        (r"verify\s*=\s*False|CERT_NONE|check_hostname|_create_unverified", "certificates are always looked at"),
        (r"follow_redirects\s*=\s*True|max_redirects", "no redirection is followed"),
        (r"(?<!de)(?:zlib|gzip|zipfile|tarfile|brotli)\.(?:decompress|open|GzipFile|ZipFile)", "nothing is unpacked"),
        (r"\|\s*safe\b|Markup\(|autoescape\s*=\s*False", "nothing goes into HTML unescaped"),
    ],
)
def test_none_of_it_is_in_the_code(what: str, why: str) -> None:
    found = [
        f"{named(file)}: {line.strip()}"
        for file in [*OURS, *sorted((ROOT / "deployments" / "templates").rglob("*.j2"))]
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(what, line) and "asyncio.subprocess" not in line and "create_subprocess_exec" not in line
    ]
    ours = [line for line in found if line in UNPACKED_IN_BOUNDS or BETWEEN_OUR_PROCESSES.match(line)]
    assert [line for line in found if line not in ours] == [], why


def test_a_rules_file_is_read_by_a_safe_loader() -> None:
    loads = [(named(file), call) for file in OURS for what, call in calls(file) if what == "yaml.load"]
    assert [file for file, _ in loads] == ["deployments/given_files.py"]
    assert "class Loader(yaml.SafeLoader)" in (ROOT / "deployments" / "given_files.py").read_text(encoding="utf-8")


def test_processes_are_started_without_a_shell_and_with_nothing_from_outside() -> None:
    starts = [(named(file), call) for file in OURS for what, call in calls(file) if "subprocess" in what]
    elsewhere = [(file, ast.unparse(call.args[0])) for file, call in starts if file != "deployments/processes.py"]
    assert elsewhere == [
        ("connectors/printing.py", "[sys.executable, '-P', '-c', _PROGRAM, json.dumps(sys.path)]"),
        ("deployments/temporary_prefect.py", "[sys.executable, '-m', 'deployments.guarded_prefect']"),
    ]
    assert len(starts) > len(elsewhere)


def test_connectors_reach_the_web_through_the_one_client_alone() -> None:
    for file in sorted((ROOT / "connectors").glob("*.py")):
        made = [
            what for what, _ in calls(file) if re.search(r"(AsyncClient|httpx\.Client|ClientSession|urlopen)$", what)
        ]
        assert not made or file.name == "http.py", (file.name, made)


def test_every_table_in_the_log_goes_through_the_one_that_takes_markup_for_text() -> None:
    tables = [
        (named(file), next(ast.unparse(given.value) for given in call.keywords if given.arg == "table"))
        for file in OURS
        for what, call in calls(file)
        if what == "acreate_table_artifact"
    ]
    assert len(tables) >= 8
    assert [(file, table) for file, table in tables if not table.startswith("cells(")] == []


def test_no_other_kind_of_artifact_takes_a_text_from_outside() -> None:
    # The dispatcher's client of Prefect passes on what others have made, later.
    makers = [file for file in OURS if named(file) != "deployments/reporter.py"]
    kinds = {what for file in makers for what, _ in calls(file) if "create_" in what and "artifact" in what}
    assert kinds == {"acreate_table_artifact", "acreate_progress_artifact", "acreate_markdown_artifact"}
    # Payments by week: a picture, figures, currencies, and words of our own. Transition times: a picture, whose texts
    # are escaped and which is shown as one, and words of our own.
    texts = [named(file) for file in OURS for what, _ in calls(file) if what == "acreate_markdown_artifact"]
    assert texts == ["tasks/reconcile.py", "tasks/transitions.py"]


# Packages


@pytest.mark.parametrize("lock", sorted(ROOT.glob("requirements*.lock")), ids=lambda lock: lock.name)
def test_every_package_is_pinned_with_its_hashes_and_no_registry_is_named(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    stanzas = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(stanzas) > 50
    for stanza in stanzas:
        assert re.match(r"[a-z0-9][a-z0-9._-]*(?:\[[a-z0-9,-]+\])?==[\w.!+]+", stanza), stanza[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", stanza), stanza[:80]
        assert "://" not in stanza


def test_packages_are_installed_with_their_hashes_only() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if "$(PIP) install" in line]
    assert len(installs) >= 3
    for line in installs:
        assert "--require-hashes" in line or ("--no-deps" in line and "--editable ." in line), line


def test_the_packages_fit_together() -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert checked.returncode == 0, checked.stdout
