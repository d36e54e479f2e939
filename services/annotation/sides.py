"""Which response an annotator sees first, and annotations in the order that is shown and in that of the record.

Chance decides, so that a liking for the first place cancels out and can be told from a liking for a response. What is
stored is always in the order of the record: the swap happens where annotators come in, and nowhere else.
"""

import hashlib

from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Campaign
from omnialign.v1.record_pb2 import Feedback, Record

OTHER = {0: 0, 1: 2, 2: 1}


def is_swapped(campaign: Campaign, number: int, annotator: str) -> bool:
    """Whether an annotator sees the second response of an item first: the same whenever it is asked."""
    if campaign.keep_sides:
        return False
    key = "\0".join((campaign.uid, str(number), annotator))
    return bool(hashlib.sha256(key.encode()).digest()[0] & 1)


def turned(annotation: Annotation) -> Annotation:
    """The annotation with the responses in the other order; its own inverse, up to empty feedback at the end."""
    made = Annotation(preferred=OTHER[annotation.preferred], reason=annotation.reason)
    made.winners.update({name: OTHER[side] for name, side in annotation.winners.items()})
    feedback = [*annotation.feedback, *(Feedback() for _ in range(2 - len(annotation.feedback)))][::-1]
    while feedback and feedback[-1] == Feedback():
        feedback.pop()
    made.feedback.extend(feedback)
    return made


def turned_pair(record: Record) -> Record:
    """A pair with its second response first."""
    made = Record()
    made.CopyFrom(record)
    del made.responses[:]
    made.responses.extend(reversed(record.responses))
    return made
