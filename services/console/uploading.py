"""Files from a browser as a dataset: they go to the data service as an upload, which it then imports as it does for the
command line, with the same checks and words.

A file must be announced with its size and digest, which a form does not tell, so each is kept in a temporary file until
it is whole; only so many uploads go on at a time. An upload that breaks off does not exist, and nothing was imported.
"""

import asyncio
import hashlib
import re
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.client.uploads import CHUNK_BYTES
from omnialign.errors import InvalidArgument, OmnialignError, ResourceExhausted
from omnialign.folders import FileEntry
from omnialign.rubrics import SUBTASKS
from services.console.context import Context
from services.console.failures import status_of
from services.console.multipart import IncomingForm, Part
from services.console.places import Places
from services.console.security import CSRF_FIELD, CSRF_HEADER, check_csrf
from services.runtime.errors import as_omnialign_error

PATH = "/projects/{project}/new-dataset"
GONE = 499
FORM_BYTES = 1024 * 1024
"""What a form may hold besides its files."""
STEP_SECONDS = 0.5
PROGRESS = "<!--progress-->"
"""Where the template of an import leaves room for it; no value can hold it, for values are escaped."""
DATASET_ID = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]")
"""As the contract has it."""
PAIRS = (("lowest", "highest"), ("first", "second"))


def upload_routes(context: Context) -> list[Route]:
    """The form, and what it sends."""
    message = "Others are uploading; try again when they are done."
    # Each may take up as much of the disk as the largest file.
    places = Places(context.config.max_uploads, message, reason="UPLOADS_BUSY")

    async def show(request: Request) -> Response:
        context.client(request)
        return page(request, {"dataset": request.query_params.get("dataset", "")[:200]})

    def page(request: Request, fields: Mapping[str, str], *, error: OmnialignError | None = None) -> Response:
        values: dict[str, Any] = {"section": "datasets", "fields": fields, "subtasks": SUBTASKS, "error": error}
        return context.pages.page(
            request,
            "new_dataset.html.j2",
            status=status_of(error) if error else 200,
            most=context.config.max_upload_bytes,
            is_away=False,
            **values,
        )

    async def upload(request: Request) -> Response:
        client, form, fields = context.client(request), IncomingForm(request), dict[str, str]()
        try:
            fields = await form.fields()
            check_csrf(request, request.headers.get(CSRF_HEADER) or fields.get(CSRF_FIELD, ""))
            wanted = read_options(fields)
            if not (arrived := fields.get("arrived", "")):
                with places.one():
                    arrived = names.id_of(await client.upload_pieces(_pieces(form)))
        except ClientDisconnect:
            return Response(status_code=GONE)  # which nobody reads
        except OmnialignError as error:
            await form.drain()
            if not fields or error.reason.startswith("CSRF"):
                raise
            return page(request, fields, error=error)
        body = imported(request, client, wanted, {**fields, "arrived": arrived})
        return StreamingResponse(body, media_type="text/html")

    async def imported(
        request: Request, client: AsyncClient, wanted: dict[str, Any], fields: Mapping[str, str]
    ) -> AsyncIterator[str]:
        """The page of an import, which grows while it goes on."""
        values: dict[str, Any] = {"section": "datasets", "fields": fields, "subtasks": SUBTASKS, "is_away": False}
        values["dataset"] = f"{client.parent}/datasets/{wanted['dataset_id']}"
        before, after = context.pages.text(request, "import.html.j2", **values).split(PROGRESS)
        yield before
        part, shown = "import_part.html.j2", 0.0
        try:
            progress = None
            async for progress in client.import_dataset(
                source_uri=f"{client.parent}/uploads/{fields['arrived']}", **wanted
            ):
                if time.monotonic() - shown >= STEP_SECONDS:
                    shown = time.monotonic()
                    yield context.pages.text(request, part, progress=progress, error=None, is_done=False, **values)
            yield context.pages.text(request, part, progress=progress, error=None, is_done=True, **values)
        except Exception as error:  # the page has begun, so it must say what went wrong
            found = as_omnialign_error(error)
            yield context.pages.text(request, part, progress=None, error=found, is_done=False, **values)
        yield after

    most = context.config.max_upload_bytes + FORM_BYTES
    return [Route(PATH, show, methods=["GET"]), Route(PATH, upload, methods=["POST"], max_body_size=most)]


def read_options(fields: Mapping[str, str]) -> dict[str, Any]:
    """What `import_dataset` is asked for. Raises InvalidArgument UPLOAD_FORM_INVALID for what cannot be read; the rest
    is for the data service to say."""
    given = {name: value.strip() for name, value in fields.items()}
    problems: list[tuple[str, str]] = []
    if not DATASET_ID.fullmatch(given.get("dataset", "")):
        problems.append(("dataset", "must be an id: 2 to 63 small letters, digits and hyphens, a letter first"))
    if (arrived := given.get("arrived", "")) and not re.fullmatch(r"[0-9a-f]{32}", arrived):
        problems.append(("arrived", "is no upload"))
    renamed = dict[str, str]()
    for pair in _listed(given.get("rename", "")):
        theirs, _, ours = pair.partition("=")
        renamed[theirs.strip()] = ours.strip()
        if not theirs.strip() or not ours.strip():
            problems.append(("rename", "must be THEIRS=OURS, separated by commas"))
    references = given.get("references", "")
    if references and not (references.isascii() and references.isdigit() and len(references) < 5):
        problems.append(("references", "must be a whole number"))
    score_range, labels = (_pair(given, *pair, problems) for pair in PAIRS)
    good, bad = given.get("good", ""), given.get("bad", "")
    if bool(good) != bool(bad):
        problems.append(("good", "must be two labels, or both empty"))
    if problems:
        raise InvalidArgument("The form is not complete.", reason="UPLOAD_FORM_INVALID", violations=problems)
    return {
        "dataset_id": given["dataset"],
        "subtask": given.get("subtask", ""),
        "split": given.get("split", ""),
        "format": given.get("format", ""),
        "append": "append" in given,
        "ignored_columns": _listed(given.get("ignore", "")),
        "renamed_columns": renamed,
        "reference_count": int(references) if references else None,
        "score_range": score_range,
        "winner_labels": labels and (int(labels[0]), int(labels[1])),
        "answer_labels": (good, bad) if good else None,
    }


def _pair(
    given: Mapping[str, str], first: str, second: str, problems: list[tuple[str, str]]
) -> tuple[float, float] | None:
    """Two numbers, or None if neither is given; winner labels are whole ones."""
    texts = (given.get(first, ""), given.get(second, ""))
    if not any(texts):
        return None
    try:
        found = tuple(float(int(text) if first == "first" else float(text)) for text in texts)
        return found[0], found[1]
    except (ValueError, OverflowError):
        problems.append((first, "must be two numbers, or both empty"))
        return None


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


async def _pieces(form: IncomingForm) -> AsyncIterator[FileEntry | bytes]:
    """Each file of a form as its entry and then its bytes, once it is whole."""
    file: _Spooled | None = None
    try:
        async for item in form.files():
            if isinstance(item, bytes):
                assert file is not None
                await asyncio.to_thread(file.write, item)
                continue
            if file is not None:
                async for piece in file.pieces():
                    yield piece
                file.close()
            file = _Spooled(item)
        if file is not None:
            async for piece in file.pieces():
                yield piece
    finally:
        if file is not None:
            file.close()


class _Spooled:
    """A file that is arriving, on the disk under no name: nothing is left of it, whatever ends the process."""

    def __init__(self, part: Part) -> None:
        self._path, self._file = part.filename or "", tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self._digest, self._size = hashlib.sha256(), 0

    def write(self, chunk: bytes) -> None:
        """Appends (blocking)."""
        try:
            self._file.write(chunk)
        except OSError as error:
            raise ResourceExhausted("The console has no room for this file.", reason="UPLOAD_NO_ROOM") from error
        self._digest.update(chunk)
        self._size += len(chunk)

    async def pieces(self) -> AsyncIterator[FileEntry | bytes]:
        """Its entry and its bytes; nothing for a field of files in which none was chosen."""
        if not self._path and not self._size:
            return
        yield FileEntry(self._path, self._size, self._digest.hexdigest())
        await asyncio.to_thread(self._file.seek, 0)
        while chunk := await asyncio.to_thread(self._file.read, CHUNK_BYTES):
            yield chunk

    def close(self) -> None:
        """Removes it."""
        self._file.close()
