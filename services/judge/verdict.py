"""The verdict over both orders of a comparison."""

from omnialign.v1 import record_pb2

EQUAL, FIRST, SECOND = 0, 1, 2


def verdict(forward: int | None, backward: int | None) -> record_pb2.Verdict.ValueType:
    """What two answers say of the candidate.

    `forward` is the answer with the baseline shown first, `backward` that with the candidate shown first: 1, 2, 0 for
    equal, or None where it could not be read. A judge that merely likes a place gives 1 and 1, or 2 and 2: a tie.
    """
    if forward is None or backward is None:
        return record_pb2.VERDICT_ABSTAIN
    if (forward, backward) == (SECOND, FIRST):
        return record_pb2.VERDICT_WIN
    if (forward, backward) == (FIRST, SECOND):
        return record_pb2.VERDICT_LOSS
    return record_pb2.VERDICT_TIE
