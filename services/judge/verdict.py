"""The verdict over both orders of a comparison: the gate's truth table."""

from omnialign.v1 import record_pb2

EQUAL, FIRST, SECOND = 0, 1, 2


def verdict(forward: int | None, backward: int | None) -> record_pb2.Verdict.ValueType:
    """What two answers say about the candidate.

    `forward` is the answer with the baseline shown first, `backward` the one with the candidate shown first: 1 or 2 for
    the response shown in that place, 0 for equal, None for an answer that could not be read.

    The candidate wins only if it is preferred in both places. A judge that merely likes a place answers 1 and 1, or 2
    and 2, which is a tie.
    """
    if forward is None or backward is None:
        return record_pb2.VERDICT_ABSTAIN
    if (forward, backward) == (SECOND, FIRST):
        return record_pb2.VERDICT_WIN
    if (forward, backward) == (FIRST, SECOND):
        return record_pb2.VERDICT_LOSS
    return record_pb2.VERDICT_TIE
