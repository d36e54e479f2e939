"""The time of writing, as the messages and the tables want it."""

import time

from google.protobuf import timestamp_pb2


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def timestamp(microseconds: int) -> timestamp_pb2.Timestamp:
    """The same moment as a message."""
    moment = timestamp_pb2.Timestamp()
    moment.FromMicroseconds(microseconds)
    return moment
