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
    found = said(forward, candidate=SECOND), said(backward, candidate=FIRST)
    if record_pb2.VERDICT_ABSTAIN in found:
        return record_pb2.VERDICT_ABSTAIN
    return found[0] if found[0] == found[1] else record_pb2.VERDICT_TIE


def said(preferred: int | None, *, candidate: int) -> record_pb2.Verdict.ValueType:
    """What one answer says about the candidate, which was shown in the place `candidate`."""
    if preferred is None:
        return record_pb2.VERDICT_ABSTAIN
    if preferred == EQUAL:
        return record_pb2.VERDICT_TIE
    return record_pb2.VERDICT_WIN if preferred == candidate else record_pb2.VERDICT_LOSS
