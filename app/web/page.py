"""The web page at `/` and its static files, loaded into memory once; nothing is requested from another origin."""

from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/web/style.css": ("style.css", "text/css; charset=utf-8"),
    "/web/icon.svg": ("icon.svg", "image/svg+xml"),
    "/web/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

router = APIRouter(include_in_schema=False)


def _add_route(path: str, name: str, media_type: str) -> None:
    content = files("app.web").joinpath(name).read_bytes()

    @router.get(path, name=name)
    async def show_file() -> Response:
        return Response(content, headers={"Content-Type": media_type})


for _path, (_name, _media_type) in _FILES.items():
    _add_route(_path, _name, _media_type)
