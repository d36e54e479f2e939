"""Pairs of all eight subtasks with annotations that have everything; their media are only referred to."""

import copy
from typing import Any

from omnialign import rubrics
from omnialign.content import LETTERS, NAMES, content
from omnialign.exchange.pairs import Pair
from omnialign.exchange.reading import Source
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Answer, Task
from omnialign.v1.content_pb2 import Content, Media
from omnialign.v1.record_pb2 import DimensionScore, Feedback, Mark, Record, Region, Response, TimeSpan

CAMPAIGN = "projects/demo/campaigns/people"
WORDS = "<script>alert('x')</script> & \"מצוין\" 👍\nin two lines, $prompt_0"
TYPES = {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}


def medium(letter: str, number: int) -> Media:
    """A medium that is nowhere."""
    modality = LETTERS[letter]
    return Media(modality=modality, mime_type=TYPES[NAMES[modality]], sha256=f"{number:064x}", size_bytes=10)


def message(letters: str, number: int) -> Content:
    """A message with a part of each modality."""
    return content(*(WORDS if letter == "t" else medium(letter, number) for letter in letters))


def record_of(subtask: str, number: int = 1) -> Record:
    """A pair."""
    read, _, written = subtask.partition("2")
    responses = [Response(content=message(written, 10 * number + side)) for side in (1, 2)]
    return Record(id=f"{subtask}-{number}", subtask=subtask, prompt=message(read, 10 * number), responses=responses)


def marks_of(record: Record, side: int) -> list[Mark]:
    """A mark in every medium that feedback on a response may mark."""
    found = list[Mark]()
    for is_prompt, whole in ((True, record.prompt), (False, record.responses[side - 1].content)):
        for number, part in enumerate(whole.parts):
            mark = Mark(in_prompt=is_prompt, part=number, dimension="safety", note=WORDS)
            if part.media.mime_type == TYPES["image"]:
                mark.region.CopyFrom(Region(left=1 / 3, top=0.07, width=0.333, height=0.29))
                found.append(mark)
            elif part.WhichOneof("part") == "media":
                mark.span.CopyFrom(TimeSpan(start_seconds=0.29, end_seconds=1.5))
                found += [mark, Mark(in_prompt=is_prompt, part=number, span=TimeSpan(start_seconds=0, end_seconds=0.1))]
    return found


def annotation_of(record: Record, *, preferred: int = 1) -> Annotation:
    """A complete annotation."""
    names = [dimension.name for dimension in rubrics.form(record.subtask).dimensions]
    made = Annotation(preferred=preferred, reason=WORDS, winners={name: n % 3 for n, name in enumerate(names)})
    for side in (1, 2):
        scores = [
            DimensionScore(dimension=name, score=(n + side) % 4, rationale=WORDS if n else "")
            for n, name in enumerate(names)
        ]
        feedback = Feedback(scores=scores, critique=WORDS, refinement=f"{WORDS} {side}")
        feedback.marks.extend(marks_of(record, side))
        made.feedback.append(feedback)
    return made


def pair_of(subtask: str, *, annotators: tuple[str, ...] = ("ann@example.com", "bob"), item: int = 1) -> Pair:
    """A pair with an annotation of each annotator."""
    record = record_of(subtask)
    answers = [
        Answer(annotator=who, state=Task.STATE_SUBMITTED, annotation=annotation_of(record, preferred=1 + n % 2))
        for n, who in enumerate(annotators)
    ]
    for n, answer in enumerate(answers):
        answer.answer_time.FromMicroseconds(1_700_000_000_123_456 + n)
    return Pair(CAMPAIGN, f"{CAMPAIGN}/items/{item}", record, rubrics.form(subtask), answers)


def source_of(*pairs: Pair, **fields: Any) -> Source:
    """The campaign of these pairs."""
    known = {pair.record.id: pair for pair in pairs}
    return Source(**{"campaign": CAMPAIGN, "pairs": known, "pair_count": len(known), "names": {}} | fields)


def changed(value: Any, *path: str | int, to: Any) -> Any:
    """A copy of a JSON value with another value at a place; a function changes what is there."""
    made = copy.deepcopy(value)
    inner = made
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to(inner[path[-1]]) if callable(to) else to
    return made
