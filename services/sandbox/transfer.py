"""Arguments and results between a service and its child processes.

A message is a pickle, whose large buffers (protocol 5, out of band) travel in an anonymous file that the receiver maps:
they are copied once, by the sender. Whatever a child sends may have been forged by the file that it read, so pickles
are only allowed to name data: arrays, tables, and the data classes and errors of this project.
"""

import fcntl
import io
import mmap
import os
import pickle
import struct
from collections.abc import Sequence
from dataclasses import is_dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from omnialign.errors import OmnialignError

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
SHARED_BYTES = 64 * 1024
"""Size from which a buffer is cheaper to share than to send through the socket."""
MAX_MESSAGE_BYTES = 512 * 1024 * 1024
OWN_PACKAGES = ("omnialign", "services", "training")
DATA = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy._core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"), ("_codecs", "encode"),
    ("datetime", "datetime"), ("datetime", "date"), ("datetime", "time"), ("datetime", "timedelta"),
    ("decimal", "Decimal"), ("collections", "Counter"), ("collections", "OrderedDict"), ("pathlib", "PosixPath"),
    ("builtins", "frozenset"), ("builtins", "set"), ("builtins", "bytearray"), ("builtins", "range"),
}  # fmt: skip
"""What a pickle from a child may name beside the data classes of this project."""


def send(connection: Connection, message: object) -> None:
    """Sends a message. Raises OSError when the other side is gone."""
    buffers: list[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        if (view := buffer.raw()).nbytes < SHARED_BYTES:
            return True
        buffers.append(view)
        return False

    body = pickle.dumps(message, protocol=5, buffer_callback=keep_in_band)
    sizes = struct.pack(f"<I{len(buffers)}Q", len(buffers), *map(len, buffers))
    connection.send_bytes(sizes + body)
    if buffers:
        _send_buffers(connection, buffers)


def receive(connection: Connection, *, trusted: bool) -> Any:
    """The next message. Raises EOFError or OSError when the other side is gone, UnpicklingError if it is forged."""
    packed = connection.recv_bytes(MAX_MESSAGE_BYTES)
    (count,) = struct.unpack_from("<I", packed)
    sizes = struct.unpack_from(f"<{count}Q", packed, 4)
    buffers = _receive_buffers(connection, sizes)
    body = memoryview(packed)[4 + 8 * count :]
    unpickler = pickle.Unpickler if trusted else _DataUnpickler
    return unpickler(io.BytesIO(body), buffers=buffers).load()


def _send_buffers(connection: Connection, buffers: Sequence[memoryview]) -> None:
    handle = os.memfd_create("omnialign-transfer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for buffer in buffers:
            while buffer:
                buffer = buffer[os.write(handle, buffer) :]
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, SEALS)
        send_handle(connection, handle, None)
    finally:
        os.close(handle)


def _receive_buffers(connection: Connection, sizes: Sequence[int]) -> list[memoryview]:
    """Writable views of shared memory that live as long as the arrays over them. Raises UnpicklingError if forged."""
    total = sum(sizes)
    if not total:
        return []
    handle = recv_handle(connection)
    try:
        # Without the seals a child could shorten the file later, and reading the mapping would end this process.
        if fcntl.fcntl(handle, fcntl.F_GET_SEALS) & SEALS != SEALS or os.fstat(handle).st_size != total:
            raise pickle.UnpicklingError("the shared memory is not sealed, or not as large as announced")
        view, start, views = memoryview(mmap.mmap(handle, total, flags=mmap.MAP_PRIVATE)), 0, []
    finally:
        os.close(handle)
    for size in sizes:
        views.append(view[start : start + size])
        start += size
    return views


class _DataUnpickler(pickle.Unpickler):
    """Loads data alone: a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in DATA:
            return super().find_class(module, name)
        if module.partition(".")[0] in OWN_PACKAGES and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and (is_dataclass(found) or issubclass(found, OmnialignError)):
                return found
        raise pickle.UnpicklingError(f"a child process may not send {module}.{name}")
