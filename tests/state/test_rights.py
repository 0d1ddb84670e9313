"""Least rights on PostgreSQL: what the running product does it may do, and nothing else; reports may only read."""

from __future__ import annotations

import ast
import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from deployments.cli import app
from store.database import StoreError, open_store
from store.rights import USES, RightsError, product_rights, report_rights
from store.tables import Table

ROOT = Path(__file__).parents[2]
OWNER, APP, REPORTS = "kvit_owner", "kvit_app", 'kvit "reports" of O\'Brien: all'
NOT_ALLOWED = "42501"
TABLES = sorted(Table.metadata.tables)


class Server(Protocol):
    """The running PostgreSQL of the tests."""

    def new(self) -> str: ...

    async def run(self, database: str, *statements: str) -> None: ...


@dataclass(frozen=True)
class Database:
    """A database with Kvit's tables, whose owner is no superuser."""

    url: str

    def url_of(self, role: str) -> str:
        return make_url(self.url).set(username=role).render_as_string(hide_password=False)

    async def _run(self, role: str, statements: list[str]) -> list[Any]:
        engine = create_async_engine(make_url(self.url_of(role)).set(drivername="postgresql+asyncpg"))
        try:
            async with engine.begin() as connection:
                found = [await connection.execute(text(one.replace(":", r"\:"))) for one in statements]
                return [row for result in found if result.returns_rows for row in result.all()]
        finally:
            await engine.dispose()

    def run(self, role: str, *statements: str) -> list[Any]:
        """Run statements as a role, in one transaction; return the rows of all."""
        return asyncio.run(self._run(role, [*statements]))

    def refusal(self, role: str, statement: str) -> str | None:
        """Return PostgreSQL's code for why it refuses a role a statement."""
        with pytest.raises(DBAPIError) as refused:
            self.run(role, statement)
        return getattr(refused.value.orig, "sqlstate", None)

    def script(self, role: str, script: str) -> None:
        """Run a script as a role, as psql does."""

        async def run() -> None:
            engine = create_async_engine(make_url(self.url_of(role)).set(drivername="postgresql+asyncpg"))
            async with engine.connect() as connection:
                raw = await connection.get_raw_connection()
                await cast("Any", raw.driver_connection).execute(script)
            await engine.dispose()

        asyncio.run(run())

    def open(self, role: str) -> None:
        """Open the database as a process does that is run with a role's URL."""

        async def open_and_close() -> None:
            await (await open_store(self.url_of(role))).close()

        asyncio.run(open_and_close())


@pytest.fixture(scope="module")
def new(postgres: Server) -> Callable[[], Database]:
    """Return a function that makes a database without tables, for an owner who is no superuser."""
    roles = [f'CREATE ROLE "{name}" LOGIN' for name in (OWNER, APP, REPORTS.replace('"', '""'))]
    asyncio.run(postgres.run("postgres", *(role.replace(":", r"\:") for role in roles)))

    def make() -> Database:
        url = postgres.new()
        name = make_url(url).database
        asyncio.run(postgres.run("postgres", f"ALTER DATABASE {name} OWNER TO {OWNER}"))
        return Database(url)

    return make


@pytest.fixture(scope="module")
def database(new: Callable[[], Database]) -> Database:
    """Make a database as the documents say: tables by its owner, rights by what the product says it needs."""
    made = new()
    made.open(OWNER)
    made.run(OWNER, *product_rights(APP))
    made.run(OWNER, *report_rights(REPORTS))
    return made


def on(table: str, statement: str) -> str:
    return statement.replace("?", table)


# What is decided.


def test_every_table_is_decided_about() -> None:
    mapped = {mapper.class_ for mapper in Table.registry.mappers}
    assert set(USES) == mapped, "say in store/rights.py what the running product does with it"


def _columns(call: ast.Call, module: ast.Module) -> Iterator[str]:
    """Yield the columns that the values of a statement name."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg
            continue
        # values(**details): what the dictionary of that name has.
        assert isinstance(keyword.value, ast.Name)
        for node in ast.walk(module):
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [keyword.value.id]:
                assert isinstance(node.value, ast.Dict)
                yield from (str(ast.literal_eval(key)) for key in node.value.keys if key is not None)


def _table_of(call: ast.expr, kind: str) -> str | None:
    """Return the table of `update(X)`, with whatever is called on it."""
    while isinstance(call, ast.Call):
        if isinstance(call.func, ast.Name):
            return ast.unparse(call.args[0]) if call.func.id == kind and call.args else None
        call = call.func.value if isinstance(call.func, ast.Attribute) else call.func
    return None


def test_the_rights_are_those_of_the_statements_in_the_code() -> None:
    changes: dict[str, set[str]] = defaultdict(set)
    deletes: set[str] = set()
    files = [file for room in ("store", "tasks", "web", "deployments") for file in sorted((ROOT / room).glob("*.py"))]
    for file in files:
        module = ast.parse(file.read_text(encoding="utf-8"))
        for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "delete":
                deletes.add(ast.unparse(call.args[0]))
            if (
                isinstance(call.func, ast.Attribute)
                and call.func.attr == "values"
                and (table := _table_of(call.func.value, "update"))
            ):
                changes[table].update(_columns(call, module))
    assert len(changes) > 15
    assert {model.__name__: set(use.changes) for model, use in USES.items() if use.changes} == dict(changes)
    assert {model.__name__ for model, use in USES.items() if use.deletes} == deletes


def test_every_column_that_may_be_changed_is_there() -> None:
    for model, use in USES.items():
        assert set(use.changes) <= set(Table.metadata.tables[model.__tablename__].columns.keys())


# What the running product may not.


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET actor = 'nobody'",
        "UPDATE journal SET hash = ''",
        "DELETE FROM journal",
        "TRUNCATE journal",
        "DELETE FROM journal_heads",
        "UPDATE journal_heads SET chain = 'order:1'",
        "UPDATE status_history SET after = 'paid'",
        "DELETE FROM status_history",
        "UPDATE rule_versions SET document = '{}'",
        "UPDATE allocations SET amount_minor = 0",
        "DELETE FROM allocations",
        "UPDATE payments SET amount_minor = 1",
        "DELETE FROM payments",
        "UPDATE orders SET number = '1'",
        "UPDATE documents SET content = '{}'",
        "UPDATE effects SET order_id = 1",
        "DELETE FROM effects",
        "UPDATE stock_moves SET quantity = 0",
        "UPDATE open_items SET order_id = 1",
        "UPDATE alembic_version SET version_num = '0000'",
        "SELECT setval('journal_id_seq', 1)",
        "DROP TABLE journal",
        "ALTER TABLE journal ADD COLUMN more text",
        "ALTER TABLE journal DISABLE TRIGGER ALL",
        "CREATE TABLE mine (id int)",
        "CREATE INDEX mine ON journal (actor)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA mine",
        "SET session_replication_role = replica",
        "COPY journal TO PROGRAM 'cat'",
    ],
)
def test_what_the_running_product_does_not_do_it_may_not(database: Database, statement: str) -> None:
    assert database.refusal(APP, statement) == NOT_ALLOWED


@pytest.mark.parametrize("table", TABLES)
def test_nothing_can_be_emptied_and_little_be_deleted_from(database: Database, table: str) -> None:
    assert database.refusal(APP, on(table, "TRUNCATE ? CASCADE")) == NOT_ALLOWED
    if table not in {model.__tablename__ for model, use in USES.items() if use.deletes}:
        assert database.refusal(APP, on(table, "DELETE FROM ?")) == NOT_ALLOWED


def test_every_number_that_the_database_gives_can_be_had(database: Database) -> None:
    query = "SELECT relname, has_sequence_privilege('{}', oid, 'USAGE') FROM pg_class WHERE relkind = 'S'"
    found = dict(tuple(row) for row in database.run(OWNER, query.format(APP)))
    assert "journal_id_seq" in found
    assert all(found.values()), found


# Reports.


@pytest.mark.parametrize("table", TABLES)
def test_reports_read_everything_and_write_nothing(database: Database, table: str) -> None:
    assert database.run(REPORTS, on(table, "SELECT count(*) FROM ?")) == [(0,)]
    update = "UPDATE ? SET # = NULL".replace("#", Table.metadata.tables[table].columns.keys()[0])
    for statement in ("INSERT INTO ? DEFAULT VALUES", update, "DELETE FROM ?"):
        assert database.refusal(REPORTS, on(table, statement)) == NOT_ALLOWED


# Opening.


@pytest.mark.parametrize("role", [OWNER, APP, REPORTS])
def test_a_database_that_is_up_to_date_is_opened_without_any_right_to_change_tables(
    database: Database, role: str
) -> None:
    database.open(role)


def test_who_may_not_make_the_tables_is_told_who_must(new: Callable[[], Database]) -> None:
    empty = new()
    with pytest.raises(
        StoreError, match=r"run `kvit check` with the URL of their owner.*`kvit database rights`"
    ) as said:
        empty.open(APP)
    assert "permission denied for schema public" in str(said.value)
    assert "\n" not in str(said.value)


def test_who_may_not_bring_the_tables_up_to_date_is_told_who_must(new: Callable[[], Database]) -> None:
    old = new()
    old.open(OWNER)
    old.run(OWNER, *product_rights(APP))
    old.run(OWNER, "DELETE FROM alembic_version")  # as before the first migration
    with pytest.raises(StoreError, match="the tables are not up to date"):
        old.open(APP)


def test_who_has_no_rights_yet_is_told_so(new: Callable[[], Database]) -> None:
    made = new()
    made.open(OWNER)
    with pytest.raises(StoreError, match=r"has no rights on them .*permission denied for table alembic_version"):
        made.open(APP)


# Giving.


def test_rights_that_were_too_many_are_taken_back(database: Database) -> None:
    database.run(OWNER, f"GRANT ALL ON journal TO {APP}", f"GRANT CREATE ON SCHEMA public TO {APP}")
    database.run(APP, "DELETE FROM journal", "CREATE TABLE mine (id int)", "DROP TABLE mine")
    database.run(OWNER, *product_rights(APP))
    assert database.refusal(APP, "DELETE FROM journal") == NOT_ALLOWED
    assert database.refusal(APP, "CREATE TABLE mine (id int)") == NOT_ALLOWED


@pytest.mark.parametrize("role", [OWNER, "postgres"])
def test_who_may_do_everything_anyway_is_refused(database: Database, role: str) -> None:
    with pytest.raises(DBAPIError, match="nothing can be kept from it; make another"):
        database.run("postgres", *product_rights(role))


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("", "1 to 63 bytes"),
        ("k" * 64, "1 to 63 bytes"),
        ("ж" * 32, "1 to 63 bytes"),
        ("kvit\napp", "on one line"),
        ("kvit\0app", "on one line"),
        ("public", "everybody"),
        ("PUBLIC", "everybody"),
        ("none", "everybody or nobody"),
        ("pg_monitor", "PostgreSQL's own"),
    ],
)
def test_a_name_that_is_no_roles_is_refused_in_a_sentence(role: str, said: str) -> None:
    for rights in (product_rights, report_rights):
        with pytest.raises(RightsError, match=said):
            rights(role)


@pytest.mark.parametrize(("options", "role"), [((), APP), (("--reports",), REPORTS)])
def test_what_the_command_prints_can_be_given_to_psql(
    new: Callable[[], Database], capsys: pytest.CaptureFixture[str], options: tuple[str, ...], role: str
) -> None:
    made = new()
    made.open(OWNER)
    arguments = ["database", "rights", role, *options]
    assert app(arguments, exit_on_error=False, print_error=False, result_action="return_value") == 0
    made.script(OWNER, capsys.readouterr().out)
    made.open(role)
    assert made.refusal(role, "DELETE FROM journal") == NOT_ALLOWED
    assert bool(made.run(OWNER, f"SELECT 1 WHERE has_table_privilege('{APP}', 'journal', 'INSERT')")) is (role == APP)
