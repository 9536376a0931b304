"""The web page at `/` and its static files, loaded into memory once; nothing is requested from another origin."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

_MEDIA_TYPES: Final = {
    ".csv": "text/csv; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".ogg": "audio/ogg",
    ".svg": "image/svg+xml",
    ".vtt": "text/vtt; charset=utf-8",
}
_SCRIPTS: Final = ("page", "dom", "cards", "answer", "subsets", "history", "recording")
_WEB: Final = files("app.web")
_FILES: Final = {
    "/": _WEB / "index.html",
    "/web/style.css": _WEB / "style.css",
    "/web/timeline.css": _WEB / "timeline" / "timeline.css",
    "/web/icon.svg": _WEB / "icon.svg",
    **{f"/web/{name}.js": _WEB / f"{name}.js" for name in _SCRIPTS},
    "/web/timeline.js": _WEB / "timeline" / "timeline.js",
    **{f"/web/examples/{file.name}": file for file in (_WEB / "examples").iterdir()},
}
"""Path → file. `examples/make.py` makes the examples."""

router = APIRouter(include_in_schema=False)


def _add_route(path: str, file: Traversable) -> None:
    content = file.read_bytes()
    headers = {"Content-Type": _MEDIA_TYPES[PurePath(file.name).suffix]}

    @router.get(path, name=path)
    async def show_file() -> Response:
        return Response(content, headers=headers)


for _path, _file in _FILES.items():
    _add_route(_path, _file)
