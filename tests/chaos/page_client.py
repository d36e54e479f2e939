"""An annotator who works in the pages of the console, as a browser without scripts or with them would send it.

It takes the place of a client in `benchmarks.annotators`: what is in a page's form is what it says of a task.
"""

import re
from collections.abc import Mapping
from html.parser import HTMLParser

import httpx2

from omnialign.errors import Unavailable
from omnialign.v1.annotation_pb2 import Annotation, Dimension, Rubric
from omnialign.v1.annotation_service_pb2 import LeaseTaskResponse, Task
from omnialign.v1.record_pb2 import Record
from services.console.annotation_form import fields_of, read_form

AWAY = frozenset({429, 503, 504})
"""Answers after which a person tries again."""
FORM, SCORE, HELD = "task", "score.1.", r"others have (\d[\d,]*) in work"


class Form(HTMLParser):
    """The form of a task in a page: its fields with what they hold, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.task = ""
        self.fields: dict[str, str] = {}
        self._text, self._is_inside = "", False
        self.feed(html)

    @property
    def dimensions(self) -> list[str]:
        """What is scored."""
        return [name.removeprefix(SCORE) for name in self.fields if name.startswith(SCORE)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form" and "data-task" in found:
            self.task, self._is_inside = found["data-task"], True
        name = found.get("name", "")
        if not self._is_inside or not name:
            return
        if tag == "textarea":
            self._text = name
        if tag in ("input", "textarea"):
            is_chosen = found.get("type") != "radio" or "checked" in found
            self.fields[name] = found.get("value", "") if is_chosen else self.fields.get(name, "")

    def handle_endtag(self, tag: str) -> None:
        self._text = "" if tag == "textarea" else self._text
        self._is_inside = self._is_inside and tag != "form"

    def handle_data(self, data: str) -> None:
        if self._text:
            self.fields[self._text] += data


class PageClient:
    """Leases, saves and submits through pages."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http, self._secret = http, ""

    async def lease_task(self, campaign: str, *, annotator: str = "") -> LeaseTaskResponse:
        """What the page of the next pair holds. Raises Unavailable, as all of these do."""
        page = await self._ask("GET", f"/{campaign}/annotate", annotator)
        form = Form(page)
        if not form.task:
            held = re.search(HELD, page)
            return LeaseTaskResponse(held_by_others_count=int(held[1].replace(",", "")) if held else 0)
        self._secret = form.fields["csrf"]
        question = re.search(r"question (\d+)", page)
        assert question, page
        rubric = Rubric(dimensions=[Dimension(name=name) for name in form.dimensions])
        task = Task(name=form.task, revision=int(form.fields["revision"]), rubric=rubric)
        task.record.CopyFrom(Record(id=f"pair-{int(question[1]):05d}"))
        task.annotation.CopyFrom(read_form(form.fields).annotation)
        return LeaseTaskResponse(task=task)

    async def save_draft(self, name: str, annotation: Annotation, *, revision: int, annotator: str = "") -> Task:
        """Saves as the script of the page does."""
        headers = {"hx-request": "true", "x-csrf-token": self._secret}
        fields = {**fields_of(annotation), "revision": str(revision)}
        part = await self._ask("POST", f"/{name}/draft", annotator, fields, headers)
        saved = re.search(r'id="revision" value="(\d+)"', part)
        assert saved and "Saved" in part, part
        return Task(name=name, revision=int(saved[1]))

    async def submit_task(self, name: str, annotation: Annotation, *, revision: int, annotator: str = "") -> Task:
        """Sends the form, and is led on to the next pair."""
        fields = {**fields_of(annotation), "revision": str(revision), "csrf": self._secret}
        await self._ask("POST", f"/{name}/submit", annotator, fields, status=303)
        return Task(name=name, state=Task.STATE_SUBMITTED)

    async def _ask(
        self,
        method: str,
        path: str,
        annotator: str,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        status: int = 200,
    ) -> str:
        try:
            answer = await self._http.request(
                method, path, params={"annotator": annotator}, data=fields, headers=headers or {}
            )
        except httpx2.TransportError as error:
            raise Unavailable(f"The console is away: {error!r}", reason="CONSOLE_AWAY") from None
        if answer.status_code in AWAY:
            raise Unavailable("The services are away.", reason="SERVICES_AWAY")
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.text
