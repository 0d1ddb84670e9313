"""Forms: how a deployment's parameters look in the Prefect UI."""

from __future__ import annotations

from typing import Any

from pydantic import Field


def form_field(title: str, description: str, default: Any, **bounds: Any) -> Any:
    """Return a flow parameter's default that carries the title and description of its field in the form.

    bounds are what pydantic's Field takes, such as ge and le.

    Prefect names a field by its parameter unless the schema's own extra says otherwise. A default is needed: a call
    that leaves a required parameter out would get this object instead of an error.
    """
    return Field(default=default, description=description, json_schema_extra={"title": title}, **bounds)
