"""The page ``/docs``: the API's description for people, with every asset served from here."""

from pathlib import Path
from typing import Any

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
    """Answers the page itself; it fetches ``openapi.json`` beside it."""

    def __init__(self) -> None:
        super().__init__(path="/", media_type=MediaType.HTML)
        self._page = (_ASSETS / "docs.html").read_bytes()

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002  # Litestar's signature
        """The page."""
        return self._page
