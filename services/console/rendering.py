"""Makes pages of templates: what all of them need, and how numbers, times and names read in them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import jinja2
from google.protobuf.timestamp_pb2 import Timestamp
from starlette.requests import Request
from starlette.responses import HTMLResponse

from omnialign import names
from omnialign.content import ROLES
from omnialign.wording import size_text
from services.console.assets import Asset
from services.console.config import ConsoleConfig
from services.console.job_kinds import QUESTIONS
from services.console.job_view import stage_rate, stage_state
from services.console.previews import SHOWN
from services.pipeline.pages.template import environment

SECTIONS = (
    ("jobs", "Jobs"),
    ("datasets", "Datasets"),
    ("models", "Models"),
    ("evaluations", "Evaluations"),
    ("campaigns", "Annotation"),
)
"""Where a person can go, within a project."""


class Pages:
    """Renders templates."""

    def __init__(self, config: ConsoleConfig, assets: Mapping[str, Asset]) -> None:
        self._config = config
        self._templates = environment("services.console.templates")
        self._templates.filters.update(when=when, moment=moment, id=names.id_of, short=names.short_name, link=link)
        self._templates.filters["bytes"] = size_text
        self._templates.filters.update(rate=stage_rate, stage_state=stage_state)
        self._templates.globals.update(
            assets={name.replace(".", "_"): asset.path for name, asset in assets.items()},
            sections=SECTIONS,
            roles=ROLES,
            questions=QUESTIONS,
            shown_types=SHOWN,
        )

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """A page."""
        return HTMLResponse(self.text(request, template, **values), status)

    def text(self, request: Request, template: str, **values: Any) -> str:
        """The same as text, for a part of a page."""
        session = request.state.session
        project = request.path_params.get("project") or self._config.project
        return self._templates.get_template(template).render(
            values,
            project=project,
            path=request.url.path,
            csrf=session.csrf,
            signs_in=self._config.sign_in,
            is_signed_in=bool(session.token),
        )

    @property
    def templates(self) -> jinja2.Environment:
        """For what is rendered without a request."""
        return self._templates


def link(name: str) -> str:
    """The page of a resource: its name is its path. Empty for what has no page, such as a model in a folder."""
    return f"/{quote(name)}" if names.is_resource(name) else ""


def when(moment_: Timestamp) -> str:
    """A time for people, in UTC; a dash for none."""
    return f"{moment_.ToDatetime():%Y-%m-%d %H:%M}" if moment_.seconds else "–"


def moment(moment_: Timestamp) -> str:
    """A time for programs."""
    return datetime.fromtimestamp(moment_.seconds, UTC).isoformat()
