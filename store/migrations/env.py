"""How alembic runs our migrations: on the connection it is given, inside the caller's transaction."""

from alembic import context

from store.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    compare_type=True,
    transactional_ddl=True,
)
context.run_migrations()
