"""Until when datasets are kept. Nothing without an expiry ever goes, and what is in use goes once the use has ended."""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy import Connection

from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.v1.dataset_pb2 import Dataset
from services.data.store import DATASETS, Check, DatasetChange, now_us, timestamp
from services.data.uses import unless_used

EXPIRATION = ("expire_time", "ttl")
FIELDS = ("display_name", *EXPIRATION)
"""What can be changed of a dataset."""


def unless_kept(name: str) -> Check:
    """What is to be done before a dataset is removed because it has expired, in the same transaction.

    Raises FailedPrecondition: DATASET_IN_USE, and DATASET_KEPT if its expiry was changed meanwhile.
    """
    used = unless_used(name, force=False)
    query = sa.select(DATASETS.c.expire_us).where(DATASETS.c.name == name)

    def check(connection: Connection) -> None:
        used(connection)  # first, since it locks the dataset
        expire_us = connection.scalar(query)
        if expire_us is None or expire_us > now_us():
            message = f"{name} is kept for longer now."
            raise FailedPrecondition(message, reason="DATASET_KEPT", metadata={"name": name})

    return check


def with_expiry(dataset: Dataset, wanted: Dataset) -> Dataset:
    """The dataset, which expires when `wanted` says: a `ttl` counts from now. Raises EXPIRE_TIME_PAST."""
    match wanted.WhichOneof("expiration"):
        case "ttl":
            dataset.expire_time.CopyFrom(timestamp(now_us() + wanted.ttl.ToMicroseconds()))
        case "expire_time":
            if wanted.expire_time.ToMicroseconds() <= now_us():
                problem = "must be in the future; to delete a dataset now, call DeleteDataset"
                violations = [("dataset.expire_time", problem)]
                raise InvalidArgument(f"expire_time {problem}", reason="EXPIRE_TIME_PAST", violations=violations)
            dataset.expire_time.CopyFrom(wanted.expire_time)
        case _:
            dataset.ClearField("expire_time")
    return dataset


def change_to(wanted: Dataset, fields: Collection[str]) -> DatasetChange:
    """The change of some fields of a dataset to those of `wanted`. Raises UPDATE_MASK_INVALID."""
    if not fields or not set(fields) <= set(FIELDS):
        problem = f"must name one or more of {', '.join(FIELDS)}; the rest of a dataset stays as it is"
        violations = [("update_mask", problem)]
        raise InvalidArgument(f"update_mask {problem}", reason="UPDATE_MASK_INVALID", violations=violations)

    def change(dataset: Dataset) -> None:
        if "display_name" in fields:
            dataset.display_name = wanted.display_name
        if set(EXPIRATION) & set(fields):
            with_expiry(dataset, wanted)

    return change
