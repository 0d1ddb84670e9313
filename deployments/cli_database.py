"""`kvit database rights`: what a database user of Kvit's needs on PostgreSQL, as SQL."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from deployments import shown
from deployments.command import DONE, AsJson, Wrong


def database_rights(
    role: Annotated[str, Parameter(help="The database user that gets the rights, such as kvit_app.")],
    /,
    *,
    reports: Annotated[
        bool, Parameter(negative="", show_default=False, help="Let it read everything, and nothing else.")
    ] = False,
    schema: Annotated[str, Parameter(help="The schema that Kvit's tables are in.")] = "public",
    as_json: AsJson = False,
) -> int:
    """Print the SQL that gives a database user what the running product needs on PostgreSQL, and no more.

        kvit database rights kvit_app | psql -v ON_ERROR_STOP=1 "$OWNERS_URL"

    Whoever owns the tables runs it, after `kvit check` has made them, and again after each update of Kvit. It makes no
    user. Nothing is changed by this command itself.
    """
    from store.rights import RightsError, product_rights, report_rights

    try:
        statements = (report_rights if reports else product_rights)(role, schema=schema)
    except RightsError as error:
        raise Wrong(str(error)) from None
    if as_json:
        shown.as_json({"role": role, "statements": statements})
    else:
        for statement in ("BEGIN", *statements, "COMMIT"):
            shown.line(f"{statement};")
    return DONE
