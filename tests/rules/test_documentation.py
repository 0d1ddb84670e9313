"""The documents say what is true: files, addresses and commands exist, tables are up to date, examples work."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import yaml
from cyclopts import CycloptsError, MissingArgumentError
from pydantic import BaseModel

from connectors import load
from connectors.cod_remittance import CodRemittanceConfig
from connectors.csv_statement import CsvStatementConfig
from connectors.payout_report import PayoutReportConfig
from connectors.roles import StatementReader
from connectors.templates import Templates
from deployments.cli import app
from deployments.docs import PAGES
from domain.money import Money
from domain.order_document import CSV_COLUMNS, CustomerDocument, DeliveryDocument, LineDocument, OrderDocument
from domain.rules import parse_rules
from tasks.installation import open_installation
from web import signature

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
README, CONTRIBUTING, FORMATS = DOCUMENTS[0], DOCUMENTS[1], ROOT / "docs" / "formats.md"
SECRETS = ("KVIT_ORDERS_SECRET", "STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "SMTP_PASSWORD")

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_OWN_FILE = re.compile(r"(?:deployments|web|flows|tasks|connectors|store|domain|tests|docs)/[\w./-]*")


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(document: Path, language: str, under: str = "") -> list[str]:
    """Return the blocks of code of a language, in the whole document or in the section under a heading."""
    text = document.read_text(encoding="utf-8")
    if under:
        section = re.search(rf"^(#+) {re.escape(under)}\n(.*?)(?=^\1 |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, f"{named(document)} has no section “{under}”"
        text = section[2]
    return [code for _, kind, code in _BLOCK.findall(text) if kind == language]


def block(document: Path, language: str, under: str) -> str:
    """Return the first block of code of a language under a heading."""
    return blocks(document, language, under)[0]


def prose(document: Path) -> str:
    return _BLOCK.sub("", document.read_text(encoding="utf-8"))


def anchors(document: Path) -> set[str]:
    """Return the addresses of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    found = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(found) == len(set(found)), f"{named(document)} has a heading twice"
    return set(found)


def commands(document: Path) -> Iterator[str]:
    """Yield every call of kvit that a document shows, without what the shell does around it."""
    spans = re.findall(r"`((?:\.venv/bin/)?kvit(?: [^`]*)?)`", prose(document))
    lines = [line for code in blocks(document, "sh") for line in code.splitlines()]
    for said in [*spans, *lines]:
        if found := re.search(r"(?:^|[ /])kvit(?= |$)([^|>#;&]*)", said):
            yield found[1].strip()


@pytest.mark.parametrize("page", PAGES)
def test_tables_made_from_the_code_are_up_to_date(page: str) -> None:
    file = ROOT / "docs" / page
    assert file.read_text(encoding="utf-8") == PAGES[page](), "run python -m deployments.docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_file_of_ours_that_is_named_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for path in re.findall(rf"(?<![\w./<]){_OWN_FILE.pattern}", text):
        assert (ROOT / path.rstrip(".")).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_pictures_are_small_and_described(document: Path) -> None:
    for said, target in re.findall(r"!\[(.*?)\]\((.+?)\)", prose(document)):
        assert len(said) > 20
        assert (document.parent / target).stat().st_size <= 300 * 1024, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_command_exists_with_its_options(document: Path) -> None:
    for said in commands(document):
        try:
            app.parse_args(shlex.split(said) or ["--help"], exit_on_error=False, print_error=False)
        except MissingArgumentError:
            continue  # a command may be spoken of without what it is given
        except CycloptsError as error:
            pytest.fail(f"kvit {said}: {error}")


def test_the_readme_shows_the_commands_of_every_step() -> None:
    shown = {" ".join(said.split()[:2]) for said in commands(README)}
    assert {"check", "up", "process", "rules apply", "orders import", "stock import", "payments list"} <= shown


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_make_is_called_for_targets_that_it_has(document: Path) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {name for names in re.findall(r"^([a-z][a-z -]*):", text, re.MULTILINE) for name in names.split()}
    called = re.findall(r"`make ([a-z-]+)", document.read_text(encoding="utf-8"))
    assert set(called) <= targets


async def test_the_connectors_of_every_installation_are_those_told(tmp_path: Path) -> None:
    opened = await open_installation(tmp_path)
    await opened.store.close()
    told = prose(ROOT / "docs" / "connectors.md").partition("With no `kvit.yaml` at all")[2].partition(". An entry")[0]
    names = set(re.findall(r"`([\w-]+)`", re.sub(r"\(.*?\)", "", told)))
    assert names == set(opened.connectors)


# The example shop of the README, and the files of the page of formats.


@pytest.fixture
def kvit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Return a function that calls kvit in a folder of its own, checks that it ends well, and returns what it says."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("KVIT_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    for name in SECRETS:
        monkeypatch.setenv(name, "a-secret-of-a-test")

    def call(*arguments: str) -> dict[str, Any]:
        code = app([*arguments, "--json"], exit_on_error=False, print_error=False, result_action="return_value")
        said = json.loads(capsys.readouterr().out)
        assert code == 0, said
        return cast("dict[str, Any]", said)

    return call


def write(file: Path, text: str) -> str:
    file.write_text(text, encoding="utf-8")
    return file.name


def test_the_readmes_kvit_yaml_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "a-secret-of-a-test")
    settings = yaml.safe_load(block(README, "yaml", "2. Say what is connected"))
    loaded = {stanza["name"]: load(stanza, home=tmp_path, where="README") for stanza in settings["connectors"]}
    file = b"Booking date;Amount;Payer;Purpose\n23.11.2026;16,90;Liam Walsh;Order E1002\n"
    entry = loaded["bank"].read(file, "bank.csv").statements[0].entries[0]
    assert (entry.amount, entry.remittance) == (Money(1690, "EUR"), "Order E1002")


def test_the_readmes_signature_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    if not shutil.which("openssl") or not shutil.which("bash"):
        pytest.skip("the example is for bash and openssl")
    body = write(tmp_path / "order.json", '{"number": "E1001"}')
    stub = tmp_path / "curl"
    stub.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv))\n", encoding="utf-8")
    stub.chmod(0o755)
    script = next(code for code in blocks(README, "sh") if "openssl dgst" in code)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "KVIT_ORDERS_SECRET": "a-secret-of-a-test"}
    command = ["/bin/bash", "-euc", script]
    printed = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=120
    ).stdout
    header = next(part for part in json.loads(printed) if part.startswith(signature.HEADER))
    signature.verify("a-secret-of-a-test", header.partition(": ")[2], (tmp_path / body).read_bytes(), datetime.now(UTC))


def test_the_examples_are_taken_in_one_after_the_other(tmp_path: Path, kvit: Callable[..., dict[str, Any]]) -> None:
    write(tmp_path / "home" / "kvit.yaml", block(FORMATS, "yaml", "Formats of files"))
    rules = block(README, "yaml", "3. Write the rules of your channel")
    assert kvit("rules", "apply", write(tmp_path / "eshop.yaml", rules))["channels"][0]["version"] == 1
    stock = block(FORMATS, "csv", "Stock as CSV")
    assert kvit("stock", "import", write(tmp_path / "stock.csv", stock))["new"] == 2
    as_json = block(FORMATS, "json", "Orders as JSON")
    assert kvit("orders", "import", write(tmp_path / "orders.json", as_json))["new"] == 1
    as_csv = block(FORMATS, "csv", "Orders as CSV")
    assert kvit("orders", "import", write(tmp_path / "orders.csv", as_csv))["new"] == 3
    assert kvit("orders", "show", "E1002")["total"] == "16.90"
    statement = block(FORMATS, "csv", "Statement as CSV")
    read = kvit("payments", "import", write(tmp_path / "statement.csv", statement))["files"][0]
    assert (read["format"], read["new"], read["refused"]) == ("csv", 3, [])
    remittance = block(FORMATS, "csv", "Remittance as CSV")
    read = kvit("payments", "import", write(tmp_path / "remittance.csv", remittance))["files"][0]
    assert (read["format"], read["new"], read["refused"]) == ("cod-csv", 1, [])
    report = block(FORMATS, "csv", "Payout report as CSV")
    read = kvit("payments", "import", write(tmp_path / "report.csv", report))["files"][0]
    assert (read["format"], read["new"], read["refused"]) == ("payout-csv", 1, [])
    assert kvit("payouts", "show", "P-2026-118")["fee"] == "5.70"


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("Stock as CSV", ["sku", "title", "on_hand"]),
        ("Orders as CSV", CSV_COLUMNS),
        ("Statement as CSV", CsvStatementConfig.FIELDS),
        ("Remittance as CSV", CodRemittanceConfig.FIELDS),
        ("Payout report as CSV", PayoutReportConfig.FIELDS),
    ],
)
def test_every_column_is_told_in_order(heading: str, columns: list[str]) -> None:
    section = FORMATS.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(columns)


def test_every_field_of_an_order_is_told_in_order() -> None:
    section = FORMATS.read_text(encoding="utf-8").partition("\n## Orders as JSON\n")[2].partition("\n## ")[0]
    parts: list[type[BaseModel]] = [OrderDocument, CustomerDocument, DeliveryDocument, LineDocument]
    fields = [name for part in parts for name in part.model_fields]
    needed = [name for part in parts for name, field in part.model_fields.items() if field.is_required()]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == fields
    assert re.findall(r"^\| `(\w+)` \| \*\*Needed", section, re.MULTILINE) == needed


def test_the_example_connector_reads_its_bank(tmp_path: Path) -> None:
    module = ModuleType("pipes")
    sys.modules["pipes"] = module  # pydantic looks there for what the annotations mean
    try:
        exec(compile(block(CONTRIBUTING, "python", "Add a connector"), "pipes.py", "exec"), module.__dict__)  # noqa: S102
        pipes = module.CONNECTOR(module.CONFIG(name="bank", home=tmp_path, account="IE24", currency="EUR"))
    finally:
        del sys.modules["pipes"]
    assert isinstance(pipes, StatementReader)
    assert pipes.recognises(b"", "2026-11-23.pipes")
    read = pipes.read(b"2026-11-23|16.90|20261123-1|Order E1002\n2026-11-23|sixteen|2|x\n", "2026-11-23.pipes")
    assert [entry.amount for entry in read.statements[0].entries] == [Money(1690, "EUR")]
    assert [refusal.where for refusal in read.refused] == ["line 2"]


def test_the_example_channel_is_a_whole_one() -> None:
    rules = parse_rules(yaml.safe_load(block(CONTRIBUTING, "yaml", "Add a channel")))
    assert rules.channel == "corner-shop"


def test_the_example_subject_takes_the_place_of_the_built_in_one(tmp_path: Path) -> None:
    file = re.search(r"KVIT_HOME/(templates/\w+/\w+\.subject\.j2)", prose(CONTRIBUTING))
    assert file
    (tmp_path / file[1]).parent.mkdir(parents=True)
    write(tmp_path / file[1], block(CONTRIBUTING, "jinja", "Add a message"))
    templates = Templates([tmp_path / "templates", ROOT / "deployments" / "templates"])
    rendered = templates.render(
        "payment_received",
        "en",
        {
            "shop": {"title": "Corner Shop", "email": "corner@example.com"},
            "customer": {"name": "Anna Byrne"},
            "order": {"number": "C10001", "total": Money(100, "EUR"), "status_label": "paid", "lines": []},
        },
    )
    assert rendered.subject == "Thank you! Order C10001 is on its way to you"


@pytest.mark.parametrize("page", ["reliability.md", "security.md"])
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 30
    for file, test in named:
        code = (ROOT / file).read_text(encoding="utf-8")
        assert not test or re.search(rf"^(async )?def {test}\(", code, re.MULTILINE), f"{file} has no {test}"


def test_every_threat_names_its_test() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [
        line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| What could", "| ---"))
    ]
    assert len(rows) > 50
    for row in rows:
        threat, defence, tests = (cell.strip() for cell in row.strip("|").split(" | "))
        assert threat
        assert defence
        assert all(re.fullmatch(r"`tests/[\w/]+\.py::\w+`", test) for test in tests.split(", ")), threat
