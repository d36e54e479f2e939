"""The forms that records are written in: which rows, and which kind of files."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from google.protobuf import json_format

from omnialign.content import contents_of, media_of
from omnialign.errors import InvalidArgument
from omnialign.exporting.align_anything import align_anything_row, lost_of_align_anything, subtask_name
from omnialign.exporting.exchanges import (
    Write,
    exchange_row,
    llama_factory_row,
    lost_of_exchange,
    messages_row,
    ms_swift_row,
    rlaif_v_row,
    sharegpt_row,
    trl_row,
)
from omnialign.exporting.ratings import (
    argilla_row,
    helpsteer3_row,
    helpsteer_row,
    lost_of_argilla,
    lost_of_helpsteer,
    lost_of_helpsteer3,
    lost_of_ultrafeedback,
    ultrafeedback_row,
)
from omnialign.exporting.rows import Row
from omnialign.v1.content_pb2 import Content, Media
from omnialign.v1.record_pb2 import Record

Kind = Literal["jsonl", "parquet", "tar"]
RECORDS, WEBDATASET, PARQUET, ALIGN_ANYTHING = "records", "webdataset", "datasets", "align-anything"
NUMBERED = re.compile(r"(-\d+-of-\d+)+$")
"""The ending that tells the files of one name apart."""


@dataclass(frozen=True)
class Form:
    """How records are written."""

    row: Callable[[Record], Row]
    """The columns of a record. Raises Unwritable."""
    lost: Callable[[Record], Iterable[str]]
    """What of a record is not written."""
    name: Callable[[Record], str]
    """The file that a record belongs in, without its suffix."""
    kind: Kind = "jsonl"
    """What files are of: lines with media beside them, tables or tar files with media within."""
    messages: Callable[[Record], Iterable[Content]] = contents_of
    """The messages whose media are written."""

    def media(self, record: Record) -> list[Media]:
        """The media that are written with a record, each once, in order."""
        return list({medium.sha256: medium for medium in media_of(self.messages(record))}.values())


def split_name(record: Record) -> str:
    """The split as the name of a file, which an import reads it from as well."""
    name = "".join(one if one.isalnum() or one in "-_" else "_" for one in record.split)
    return NUMBERED.sub("", name).strip("_") or "train"


def _subtask_name(record: Record) -> str:
    return subtask_name(record.subtask)


def _whole(record: Record) -> Row:
    return json_format.MessageToDict(record, preserving_proto_field_name=True)


def _all_contents(record: Record) -> Iterable[Content]:
    yield from contents_of(record)
    for response in record.responses:
        yield from (one.content for one in response.made_of)


def _nothing(record: Record) -> Iterable[str]:
    del record
    return ()


def _exchange(write: Write, kind: Kind = "jsonl") -> Form:
    return Form(partial(exchange_row, write=write), lost_of_exchange, split_name, kind)


FORMS: Mapping[str, Form] = {
    RECORDS: Form(_whole, _nothing, lambda _: RECORDS, messages=_all_contents),
    WEBDATASET: Form(_whole, _nothing, split_name, "tar", _all_contents),
    ALIGN_ANYTHING: Form(align_anything_row, lost_of_align_anything, _subtask_name),
    "trl": _exchange(trl_row),
    PARQUET: _exchange(trl_row, "parquet"),
    "messages": _exchange(messages_row),
    "ms-swift": _exchange(ms_swift_row),
    "sharegpt": _exchange(sharegpt_row),
    "llama-factory": _exchange(llama_factory_row),
    "rlaif-v": _exchange(rlaif_v_row),
    "ultrafeedback": Form(ultrafeedback_row, lost_of_ultrafeedback, split_name),
    "helpsteer": Form(helpsteer_row, lost_of_helpsteer, split_name),
    "helpsteer3": Form(helpsteer3_row, lost_of_helpsteer3, split_name),
    "argilla": Form(argilla_row, lost_of_argilla, split_name),
}


def form_of(name: str) -> Form:
    """The form with a name. Raises InvalidArgument FORMAT_UNKNOWN."""
    if name not in FORMS:
        message = f"Records are not written as {name[:64]!r}: choose one of {', '.join(FORMS)}."
        raise InvalidArgument(message, reason="FORMAT_UNKNOWN", violations=[("format", "is not known")])
    return FORMS[name]
