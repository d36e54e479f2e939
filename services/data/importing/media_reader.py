"""The media of rows, hashed and decoded in the child process that reads the rows."""

import ctypes
import hashlib
import io
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.media import MediaError
from omnialign.v1 import content_pb2
from services.data.importing.identity import Digests
from services.data.media_types import modality_of
from services.data.media_validation import (
    MediaLimits,
    check_claim,
    too_large,
    type_of_picture,
    validate,
    validate_bytes,
)
from services.sandbox.limits import NO_MEMORY_EXIT_CODE, Limits, cause_of, enforce, enforce_processor_time
from services.sandbox.media import LIMITS, killed_decoder

SENT_BYTES = 1024 * 1024
"""Size up to which the bytes of a file are sent; a larger one is copied by the service itself."""
MAX_KNOWN = 100_000
PR_SET_PDEATHSIG = 1
OK, REFUSED = b"=", b"!"
MAX_ANSWER_BYTES = 65_536
AHEAD_SECONDS = 0.05
"""How long pictures are decoded ahead of their rows at a time: the sandbox slows a child that is silent for long."""
RENEWED_SECONDS = 1.0
"""Time for which media share a limit on processor time: to set it takes as long as to decode a small picture."""


class ReadMedium(NamedTuple):
    """A medium that decodes."""

    sha256: str
    mime_type: str
    size_bytes: int
    path: str = ""
    """The file, if its bytes are not sent along."""


class MediaReader:
    """Hashes and decodes media, and collects them until they are taken."""

    def __init__(self, limits: MediaLimits, digests: Digests) -> None:
        """`digests` are those of the bytes in the row that is being read."""
        self._limits, self._digests = limits, digests
        self._known: dict[str, str] = {}
        self._media: dict[str, ReadMedium] = {}
        self._data: list[bytes] = []
        self.size_bytes = 0
        """Bytes that wait to be taken."""
        self.is_careful = False
        """Whether media are decoded in processes of their own."""
        self.has_found_killer = False
        """Whether one of them has ended its process."""
        self._limited = 0.0, 0.0
        """The limit on processor time that holds now, and when it was set; 0 if it is another one's."""

    def put(self, data: bytes, modality: int) -> content_pb2.Media:
        """The reference of a medium given as bytes. Raises the reasons of `media_validation`, MEDIA_KILLED_DECODER."""
        if len(data) > self._limits.size_bytes:
            raise too_large("bytes", found=len(data), limit=self._limits.size_bytes)
        sha256 = self._digests.of(data).hex()
        mime_type = self._type(sha256, modality, lambda: validate_bytes(io.BytesIO(data), self._limits, modality))
        if sha256 not in self._media:
            self._media[sha256] = ReadMedium(sha256, mime_type, len(data))
            self._data.append(data)
            self.size_bytes += len(data)
        return _reference(self._media[sha256])

    def put_file(self, path: Path, modality: int) -> content_pb2.Media:
        """The reference of a medium in a file. Raises what `put` raises."""
        size_bytes = path.stat().st_size
        if size_bytes > self._limits.size_bytes:
            raise too_large("bytes", found=size_bytes, limit=self._limits.size_bytes)
        if size_bytes <= SENT_BYTES:
            return self.put(path.read_bytes(), modality)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        mime_type = self._type(sha256, modality, lambda: validate(path, self._limits, modality))
        self._media.setdefault(sha256, ReadMedium(sha256, mime_type, size_bytes, str(path)))
        return _reference(self._media[sha256])

    def decode_ahead(self, pictures: Iterable[bytes]) -> None:
        """Decodes what are pictures, for a while; what is wrong with others is said when they are put."""
        end = time.monotonic() + AHEAD_SECONDS
        for data in pictures:
            if time.monotonic() > end:
                return
            if (sha256 := self._digests.of(data).hex()) not in self._known:
                self._limit(LIMITS.get(content_pb2.MODALITY_IMAGE, Limits()).cpu_seconds)
                if mime_type := type_of_picture(data, self._limits):
                    self._remember(sha256, mime_type)

    def take(self) -> tuple[list[tuple[str, str, int, str]], NDArray[np.uint8]]:
        """What was collected, and the bytes of all that have no path, in the same order."""
        media, data = [one[:] for one in self._media.values()], np.frombuffer(b"".join(self._data), dtype=np.uint8)
        self._media, self._data, self.size_bytes = {}, [], 0
        self._limited = 0.0, 0.0  # the next piece has another one
        return media, data

    def _type(self, sha256: str, modality: int, validated: Callable[[], str]) -> str:
        """The type of a medium, which is decoded unless it was before."""
        if (known := self._known.get(sha256)) is not None:
            check_claim(known, modality=modality, mime_type="")
            return known
        limits = LIMITS.get(modality, Limits())
        if self.is_careful:
            try:
                found = in_process(validated, limits)
            except MediaError:
                self.has_found_killer = True
                raise
        else:
            self._limit(limits.cpu_seconds)
            found = _decoded(validated)
        self._remember(sha256, found)
        return found

    def _remember(self, sha256: str, mime_type: str) -> None:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[sha256] = mime_type

    def _limit(self, seconds: float) -> None:
        """Limits the processor time of the next medium: a piece may have many."""
        now = time.monotonic()
        if self._limited[0] != seconds or now - self._limited[1] > RENEWED_SECONDS:
            enforce_processor_time(seconds + RENEWED_SECONDS)  # what those before it may have used up
            self._limited = seconds, now


def _reference(medium: ReadMedium) -> content_pb2.Media:
    modality = content_pb2.Modality.ValueType(modality_of(medium.mime_type))
    return content_pb2.Media(
        modality=modality, mime_type=medium.mime_type, sha256=medium.sha256, size_bytes=medium.size_bytes
    )


def _decoded(validated: Callable[[], str]) -> str:
    """What a validation returns. Whatever decoders raise is a refusal of the medium."""
    try:
        return validated()
    except (OmnialignError, OSError, MemoryError):
        raise
    except Exception as error:  # hostile bytes make decoders raise all kinds of errors
        message = f"The medium does not decode: {type(error).__name__}: {error}."
        raise InvalidArgument(message, reason="MEDIA_UNDECODABLE") from error


def in_process(validated: Callable[[], str], limits: Limits) -> str:
    """What a validation returns in a process of its own. Raises its refusal, and MEDIA_KILLED_DECODER."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        _answer(validated, writer, limits)
    os.close(writer)
    answer, cause = _await(reader, limits.wall_seconds), ""
    os.close(reader)
    if answer is None:
        os.kill(pid, signal.SIGKILL)
        cause = "took too long"
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not answer:
        raise killed_decoder(cause or cause_of(code))
    if answer[:1] == OK:
        return answer[1:].decode()
    reason, _, message = answer[1:].decode().partition("\n")
    raise InvalidArgument(message, reason=reason)


def _answer(validated: Callable[[], str], writer: int, limits: Limits) -> None:
    """The new process: validates, says what it found, and ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    enforce(limits)
    try:
        found = OK + _decoded(validated).encode()
    except MemoryError:
        os._exit(NO_MEMORY_EXIT_CODE)
    except OmnialignError as error:
        found = REFUSED + f"{error.reason}\n{error.message}".encode("utf-8", "replace")[: MAX_ANSWER_BYTES - 1]
    except BaseException as error:
        found = REFUSED + f"MEDIA_UNDECODABLE\nThe medium does not decode: {error}.".encode("utf-8", "replace")[:8000]
    os.write(writer, found)
    os._exit(0)


def _await(reader: int, seconds: float) -> bytes | None:
    """All that comes through a pipe until it is closed; None if it stays open for too long."""
    found, end = b"", time.monotonic() + seconds
    while True:
        if not select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
            return None
        if not (more := os.read(reader, MAX_ANSWER_BYTES)):
            return found
        found += more
