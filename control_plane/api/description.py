"""The API's OpenAPI description: operations as Litestar sees them, bodies and answers as msgspec reads them.

Litestar's own schemas leave out what msgspec refuses: unknown fields, limits inside of lists and optional fields, keys
of objects that are no ids.
"""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from control_plane.api.docs import Description, Page
from control_plane.api.examples import examples_of
from control_plane.api.fields import describe_fields
from control_plane.api.problems import Problem

CONFIG = OpenAPIConfig(
    title="Countermand",
    version=version("countermand"),
    description="Cancel running data jobs, and know that they stopped.",
    path="/docs",
    render_plugins=[Page(), Description()],
    use_handler_docstrings=True,
    security=[{"bearer": []}],
    components=Components(
        security_schemes={
            "bearer": SecurityScheme(type="http", scheme="bearer", description="`countermand tokens create`")
        }
    ),
)


def describe(app: Litestar) -> dict[str, Any]:
    """The description as plain data."""
    document: dict[str, Any] = app.openapi_schema.to_schema()
    _, kinds = msgspec.json.schema_components({Problem, *_kinds(app)}, ref_template="#/components/schemas/{name}")
    document["components"]["schemas"] |= kinds
    describe_fields(document["components"]["schemas"])
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["summary"] = operation["operationId"].replace("_", " ").capitalize()
            _say_what_may_be_left_out(operation)
            _show_examples(operation)
    return document


def _kinds(app: Litestar) -> Iterator[Any]:
    """What the operations take and answer."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            if isinstance(handler, HTTPRouteHandler) and handler.resolve_include_in_schema():
                yield handler.parsed_return_field.annotation
                if handler.parsed_data_field:
                    yield handler.parsed_data_field.annotation


def _show_examples(operation: dict[str, Any]) -> None:
    body, answer = examples_of(operation["operationId"])
    told = next(response for status, response in operation["responses"].items() if status.startswith("2"))
    for contents, example in ((operation.get("requestBody", {}), body), (told, answer)):
        for content in contents.get("content", {}).values():
            content["example"] = example


def _say_what_may_be_left_out(operation: dict[str, Any]) -> None:
    """Litestar calls a parameter that may be left out null, which no query can say, and every body required."""
    for parameter in operation.get("parameters", ()):
        schema = parameter["schema"]
        for alternative in schema.pop("oneOf", ())[:1]:
            schema |= alternative
    for content in operation.get("requestBody", {}).get("content", {}).values():
        operation["requestBody"]["required"] = {"type": "null"} not in content["schema"].get("oneOf", ())
