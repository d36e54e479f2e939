"""Styles and scripts: read once, named by their digest, and so cached for good.

htmx comes from the files of a package; nothing is ever loaded from elsewhere.
"""

import gzip
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.pipeline import pages

STYLE, SCRIPT, ICON = "text/css; charset=utf-8", "text/javascript; charset=utf-8", "image/svg+xml"
FOR_GOOD = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """A file that pages load."""

    name: str
    kind: str
    data: bytes

    @property
    def path(self) -> str:
        """Where it is on this server: another place for another content."""
        return f"/static/{hashlib.sha256(self.data).hexdigest()[:16]}/{self.name}"


def load_assets() -> Mapping[str, Asset]:
    """All of them by name. Raises FileNotFoundError if a package lacks its files."""
    here, shared = Path(__file__).parent / "static", Path(pages.__file__).parent
    style = (shared / "page.css").read_bytes() + b"\n" + (here / "console.css").read_bytes()
    found = (
        Asset("console.css", STYLE, style),
        Asset("console.js", SCRIPT, (here / "console.js").read_bytes()),
        Asset("annotate.js", SCRIPT, (here / "annotate.js").read_bytes()),
        Asset("try.js", SCRIPT, (here / "try.js").read_bytes()),
        Asset("upload.js", SCRIPT, (here / "upload.js").read_bytes()),
        Asset("htmx.js", SCRIPT, _htmx()),
        Asset("icon.svg", ICON, (here / "icon.svg").read_bytes()),
    )
    return {asset.name: asset for asset in found}


def assets_route(assets: Mapping[str, Asset]) -> Route:
    """Answers for the files."""
    by_path = {asset.path: asset for asset in assets.values()}
    packed = {path: gzip.compress(asset.data, 9, mtime=0) for path, asset in by_path.items()}

    async def serve(request: Request) -> Response:
        path = request.url.path
        if (asset := by_path.get(path)) is None:
            raise HTTPException(404)
        headers = {"cache-control": FOR_GOOD, "vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed[path], headers=headers | {"content-encoding": "gzip"}, media_type=asset.kind)
        return Response(asset.data, headers=headers, media_type=asset.kind)

    return Route("/static/{digest}/{name}", serve)


def _htmx() -> bytes:
    """htmx, from the package that ships it. The package itself, made for Django, is not imported."""
    found = importlib.util.find_spec("js_lib_htmx")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("htmx.min.js: install django-js-lib-htmx")
    return (Path(found.submodule_search_locations[0]) / "static" / "htmx" / "htmx.min.js").read_bytes()
