"""Migrating: how alembic makes a database's tables, or brings them up to date. Loaded only where they are not."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

# Taken on PostgreSQL, so that processes that start together don't migrate twice.
_LOCK = 0x6B766974
_MIGRATIONS = Path(__file__).parent / "migrations"


def config() -> Config:
    """Return where alembic finds the migrations."""
    made = Config()
    made.set_main_option("script_location", str(_MIGRATIONS))
    made.set_main_option("path_separator", "os")
    return made


def upgrade(connection: Connection) -> None:
    """Carry out in the connection's transaction what is missing.

    Raises alembic.util.CommandError for a database that has revisions nobody here knows.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    bound = config()
    bound.attributes["connection"] = connection
    command.upgrade(bound, "head")
