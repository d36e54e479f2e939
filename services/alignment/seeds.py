"""Everything that is drawn in a job: seeds, subsets and ids, as pure functions of the job's seed.

Hashing rather than a generator with state makes each draw independent of order, restarts and neighbours.
"""

import hashlib
import math
import uuid
from collections.abc import Iterable

_NAMESPACE = uuid.UUID("6f2d1c3e-8a54-5b7e-9c10-0d4f5a6b7c8d")


def record_seed(seed: int, *, stage: str, record_id: str) -> int:
    """Seed of one record's own random stream in one stage; below 2**63, which every engine can take."""
    digest = hashlib.sha256(f"{seed}\0{stage}\0{record_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def subset(ids: Iterable[str], *, seed: int, count: int) -> list[str]:
    """`count` of the ids, drawn without regard to their order; a larger count holds every smaller one."""
    return sorted(sorted(ids, key=lambda i: (record_seed(seed, stage="subset", record_id=i), i))[:count])


def share(total: int, *, fraction: float) -> int:
    """How many records a share of them is: rounded up, so that a share above zero is never empty."""
    return min(total, math.ceil(round(total * fraction, 9)))


def request_id(uid: str, purpose: str) -> str:
    """The UUID under which a job asks for something once, however often it is restarted."""
    return str(uuid.uuid5(_NAMESPACE, f"{uid}/{purpose}"))
