"""The page ``/docs``: the API's description for people, with every asset served from here."""

from pathlib import Path
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import CacheControlHeader
from litestar.enums import MediaType
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.static_files import create_static_files_router

_ASSETS = Path(__file__).with_name("assets")

ASSETS = create_static_files_router(
    "/assets", [_ASSETS], include_in_schema=False, cache_control=CacheControlHeader(max_age=3_600)
)


class Page(OpenAPIRenderPlugin):
    """Answers the page itself; it fetches ``openapi.json`` beside ``/docs``, also where ``/docs/`` was asked for."""

    def __init__(self) -> None:
        super().__init__(path="/", media_type=MediaType.HTML)
        self._page = (_ASSETS / "docs.html").read_text()

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002  # Litestar's signature
        """The page."""
        base = "../" if request.scope["raw_path"].endswith(b"/") else "./"  # a proxy may have put it anywhere
        return self._page.replace('<base href="./">', f'<base href="{base}">').encode()


class Description(OpenAPIRenderPlugin):
    """Answers our own description below ``/docs``, where Litestar would answer its own."""

    def __init__(self) -> None:
        super().__init__(path="/openapi.json", media_type=MediaType.JSON)

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002  # Litestar's signature
        """The description."""
        return msgspec.json.encode(request.app.state.description)
