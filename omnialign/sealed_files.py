"""Files that say of themselves that nobody has changed them since they were checked and stored.

A seal is an extended attribute with what the file was then: its inode, its size and the time of its last change. A copy
is another inode, and who writes into the file changes the time, so neither keeps a valid seal. Where there is none, as
on a file system without extended attributes, nothing is known of the file.

It tells of mistakes, not of attacks: whoever may write the file may also seal it. Nor does it tell of a disk that
forgets: only a digest does.
"""

import os
import struct
from contextlib import suppress

NAME = "user.omnialign.sealed"
TICK_NS = 10_000_000
"""More than between two ticks of the clock that the kernel takes times of files from."""
_SEAL = struct.Struct(">QQQ")


def seal(file: int) -> None:
    """Seals an open file, whose bytes are on the disk, if its file system can keep that."""
    with suppress(OSError, AttributeError):  # AttributeError: not Linux
        found = os.fstat(file)
        # Earlier than it was: a write within the tick of the last one would leave no other time.
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns - TICK_NS))
        os.setxattr(file, NAME, _state(os.fstat(file)))


def is_sealed(file: int, found: os.stat_result) -> bool:
    """Whether an open file, which is as `found` says, is as it was when it was sealed."""
    try:
        return os.getxattr(file, NAME) == _state(found)
    except (OSError, AttributeError):
        return False


def _state(found: os.stat_result) -> bytes:
    return _SEAL.pack(found.st_ino, found.st_size, found.st_mtime_ns)
