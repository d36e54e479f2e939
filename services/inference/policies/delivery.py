"""Takes new weights in: the files of a stream, or those of a folder on a disk that is shared with the trainer.

Nothing about them is trusted. Names are plain, and files are written into one new folder; their number, sizes and
digests are checked while they come. What is no part of the weights is counted and dropped.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO

from omnialign.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from omnialign.folders import FileEntry, file_entry
from omnialign.modeling.lora import CONFIG as LORA_CONFIG
from omnialign.modeling.lora import WEIGHTS as LORA_WEIGHTS
from omnialign.modeling.model_files import WEIGHTS
from omnialign.v1 import policy_service_pb2 as pb
from services.inference.models.resolver import path_of
from services.inference.policies.errors import files_invalid, malformed
from services.inference.policies.weights import is_wanted, link_or_copy

Entries = dict[str, FileEntry]
"""The files of weights by their names."""

MAX_FILES = 1024


async def receive(messages: AsyncIterator[pb.UpdatePolicyRequest], folder: Path, *, max_bytes: int) -> Entries:
    """Writes the files of a stream, whose header has been read, into a folder.

    Raises POLICY_UPDATE_MALFORMED, POLICY_FILES_INVALID, POLICY_TOO_LARGE.
    """
    incoming = Incoming(folder, max_bytes=max_bytes)
    try:
        async for message in messages:
            match message.WhichOneof("message"):
                case "file":
                    incoming.begin(message.file)
                case "chunk":
                    await asyncio.to_thread(incoming.write, message.chunk)
                case _:
                    raise malformed("after the header come files, each followed by its bytes")
        return incoming.finish()
    finally:
        incoming.close()


class Incoming:
    """Files on their way into a folder, one after the other. Blocking."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._entries: Entries = {}
        self._names: set[str] = set()
        self._total_bytes = 0
        self._file: pb.PolicyFile | None = None
        self._output: IO[bytes] | None = None

    def begin(self, file: pb.PolicyFile) -> None:
        """Begins a file, and ends the one before it."""
        self._end_file()
        is_kept = is_wanted(file.path)
        if file.path in self._names:
            raise files_invalid(file.path, "comes twice", "send each file once")
        self._names.add(file.path)
        self._total_bytes += file.size_bytes
        check_size(len(self._names), self._total_bytes, max_bytes=self._max_bytes)
        self._file, self._size_bytes, self._digest = file, 0, hashlib.sha256()
        self._output = (self._folder / file.path).open("xb") if is_kept else None

    def write(self, chunk: bytes) -> None:
        """Appends to the file that was begun."""
        if self._file is None:
            raise malformed("the bytes of a file must follow its description")
        self._size_bytes += len(chunk)
        if self._size_bytes > self._file.size_bytes:
            raise self._refusal(f"has more than the announced {self._file.size_bytes} bytes")
        self._digest.update(chunk)
        if self._output is not None:
            self._output.write(chunk)

    def finish(self) -> Entries:
        """Ends the last file; the files of the weights."""
        self._end_file()
        return checked(self._entries)

    def close(self) -> None:
        """Closes the file that was being written."""
        if self._output is not None:
            self._output.close()

    def _end_file(self) -> None:
        file = self._file
        if file is None:
            return
        if self._size_bytes != file.size_bytes:
            raise self._refusal(f"ended after {self._size_bytes} of {file.size_bytes} bytes")
        if (sha256 := self._digest.hexdigest()) != file.sha256:
            raise self._refusal(f"has the digest {sha256} instead of the announced {file.sha256}")
        if self._output is not None:
            self._output.close()
            self._entries[file.path] = FileEntry(file.path, file.size_bytes, file.sha256)

    def _refusal(self, problem: str) -> InvalidArgument:
        return files_invalid(self._file.path if self._file else "", problem, "send it again")


def take(uri: str, folder: Path, *, roots: Sequence[Path], max_bytes: int) -> Entries:
    """Links the weights of a `file://` folder into another, or copies them (blocking). `roots` bound where it may be.

    On a CPU, `transformers` maps weights of the engine's own type from their file. So linked ones are in memory once,
    as pages of the file, whoever reads them; and whoever changed the file would change the model.

    Raises MODEL_URI_UNSUPPORTED, POLICY_URI_NOT_ALLOWED, POLICY_URI_NOT_FOUND, POLICY_FILES_INVALID, POLICY_TOO_LARGE.
    """
    source = path_of(uri, model="the policy").resolve()
    check_within(source, roots, uri=uri)
    if not source.is_dir():
        message = (
            f"The field uri names {uri}, which is no folder of this machine; mount the disk here, or send the files."
        )
        raise NotFound(message, reason="POLICY_URI_NOT_FOUND", metadata={"uri": uri})
    wanted = [path for path in sorted(source.iterdir()) if path.is_file() and is_wanted(path.name)]
    for path in wanted:
        check_within(path.resolve(), roots, uri=uri)
    check_size(len(wanted), sum(path.stat().st_size for path in wanted), max_bytes=max_bytes)
    for path in wanted:
        link_or_copy(path, folder / path.name)
    return checked({path.name: file_entry(folder / path.name, folder=folder) for path in wanted})


def check_within(path: Path, roots: Sequence[Path], *, uri: str) -> None:
    """Raises PermissionDenied POLICY_URI_NOT_ALLOWED for a resolved path that is in none of the folders."""
    if not any(path.is_relative_to(root.resolve()) for root in roots):
        raise PermissionDenied(
            f"The field uri names {uri}, which is in none of the folders that weights may be read from; send the "
            "files, or have the operator add the folder to OMNIALIGN_REFINEMENT_POLICY_ROOTS.",
            reason="POLICY_URI_NOT_ALLOWED",
            metadata={"uri": uri},
        )


def check_size(num_files: int, size_bytes: int, *, max_bytes: int) -> None:
    """Raises ResourceExhausted POLICY_TOO_LARGE for more than the weights of the base can be."""
    if num_files > MAX_FILES or size_bytes > max_bytes:
        raise ResourceExhausted(
            f"The weights of the policy have {size_bytes} bytes in {num_files} files, and its base model leaves room "
            f"for {max_bytes} bytes in {MAX_FILES} files; send its weights alone, in float32 or shorter.",
            reason="POLICY_TOO_LARGE",
            metadata={"size_bytes": str(size_bytes), "max_bytes": str(max_bytes), "files": str(num_files)},
        )


def checked(entries: Entries) -> Entries:
    """The files, if there are weights among them. Raises POLICY_UPDATE_MALFORMED."""
    if not any(path.endswith(WEIGHTS) for path in entries):
        raise malformed(f"it has no {WEIGHTS} file")
    if (LORA_CONFIG in entries) != (LORA_WEIGHTS in entries):
        raise malformed(f"a LoRA is {LORA_CONFIG} and {LORA_WEIGHTS}, and one of them is missing")
    return entries
