"""`/docs` (Swagger UI), `/redoc` and `/llms.txt`; the scripts of both pages come with the package fastapi-offline."""

from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

_HTML: Final = "text/html; charset=utf-8"
_SCRIPT: Final = "text/javascript; charset=utf-8"
_STYLE: Final = "text/css; charset=utf-8"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "img-src 'self' data:; "  # icons in the style of Swagger UI
    # Hashes of what ReDoc adds: an empty style element, filled through the CSSOM, and the style of its scroll bar.
    "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' "
    "'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='"
)
# ReDoc loads a logo, which the policy forbids, so that browsers log a message. In its place is an image that cannot be
# shown, which ReDoc removes.
_LOGO: Final = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_FILES: Final = {
    "/docs": ("app.web", "reference/docs.html", _HTML),
    "/redoc": ("app.web", "reference/redoc.html", _HTML),
    "/llms.txt": ("app.web", "llms.txt", "text/plain; charset=utf-8"),
    "/web/reference/docs.js": ("app.web", "reference/docs.js", _SCRIPT),
    "/web/reference/redoc.js": ("app.web", "reference/redoc.js", _SCRIPT),
    "/web/reference/swagger-ui.js": ("fastapi_offline", "static/swagger-ui-bundle.js", _SCRIPT),
    "/web/reference/swagger-ui.css": ("fastapi_offline", "static/swagger-ui.css", _STYLE),
    "/web/reference/redoc-standalone.js": ("fastapi_offline", "static/redoc.standalone.js", _SCRIPT),
}

router = APIRouter(include_in_schema=False)


def _add_route(path: str, package: str, name: str, media_type: str) -> None:
    file = files(package).joinpath(name)
    headers = {"Content-Type": media_type}
    if media_type == _HTML:
        headers["Content-Security-Policy"] = _POLICY

    @router.get(path, name=path)
    async def show_file() -> Response:
        # Read at each request: the scripts are 3 MB, and seldom asked for.
        return Response(file.read_bytes().replace(_LOGO, b"data:,"), headers=headers)


for _path, _file in _FILES.items():
    _add_route(_path, *_file)
