"""The one sandbox of a process, and media in it: what `omnialign.modeling.decoding` does, in a child process.

All services of a process share the sandbox: they share its processors and its memory, too.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from omnialign.errors import OmnialignError
from omnialign.media import MediaError
from omnialign.modeling.decoding import DecodedMedia, decode_here, use_decoder
from omnialign.modeling.inputs import MediaBytes, MediaPolicy
from omnialign.v1 import content_pb2
from services.sandbox.limits import Limits
from services.sandbox.pool import Sandbox, SandboxMetrics

LIMITS: Mapping[int, Limits] = {
    content_pb2.MODALITY_IMAGE: Limits(cpu_seconds=10),
    content_pb2.MODALITY_AUDIO: Limits(cpu_seconds=30),
    content_pb2.MODALITY_VIDEO: Limits(cpu_seconds=120, wall_seconds=600),
}
"""What decoding one medium may use, by modality."""


def killed_decoder(cause: str) -> MediaError:
    """The error for a medium whose decoding ended its process."""
    message = f"The medium cannot be decoded safely: its process {cause}; convert the file with another program."
    return MediaError(message, reason="MEDIA_KILLED_DECODER", metadata={"cause": cause})


class SandboxedDecoder:
    """Decodes media in children of a sandbox (blocking)."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def __call__(self, medium: MediaBytes, policy: MediaPolicy) -> DecodedMedia:
        """Decodes a medium. Raises MediaError: what `decode_here` raises, and MEDIA_KILLED_DECODER."""
        data = np.frombuffer(medium.data, dtype=np.uint8)  # unlike bytes, an array travels through shared memory
        limits = LIMITS.get(medium.modality, Limits())
        return self._sandbox.call(
            decode_array, medium.modality, data, policy, refusal=killed_decoder, key=medium.sha256, limits=limits
        )


def decode_array(modality: int, data: NDArray[np.uint8], policy: MediaPolicy) -> DecodedMedia:
    """`decode_here` for bytes in an array. Whatever decoders raise is a MediaError."""
    try:
        return decode_here(MediaBytes(modality, data.tobytes()), policy)
    except (OmnialignError, MemoryError):
        raise
    except Exception as error:  # hostile bytes make decoders raise all kinds of errors
        raise MediaError(f"The medium does not decode: {type(error).__name__}: {error}.") from error


_shared: Sandbox | None = None
_num_users = 0
_lock = threading.Lock()


@contextmanager
def open_sandbox(registry: CollectorRegistry | None = None) -> Iterator[Sandbox]:
    """The sandbox of this process, where `omnialign.modeling.decoding.decode` decodes while anybody holds it open.

    Its metrics are in the `registry` of whoever opens it first.
    """
    global _shared, _num_users
    with _lock:
        if _shared is None:
            _shared = Sandbox(metrics=SandboxMetrics(registry) if registry else None)
            use_decoder(SandboxedDecoder(_shared))
        _num_users += 1
        sandbox = _shared
    try:
        yield sandbox
    finally:
        with _lock:
            _num_users -= 1
            if is_last := not _num_users:
                use_decoder(None)
                _shared = None
        if is_last:
            sandbox.close()


def current_sandbox() -> Sandbox | None:
    """The sandbox that is open in this process, if one is."""
    return _shared
