"""Annotated records as people would make them: answers with feedback, ratings and a preference, and pairs for synergy.

They hold more than the columns of align-anything-200k have room for: references, ratings from 1 to 10, answers in
several media. So they are records, which `append` adds to a dataset beside those that were imported.
"""

import asyncio
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from examples.tinyworld import oracle, presenting, understanding
from examples.tinyworld.choices import choices_about
from examples.tinyworld.dataset import Sizes
from examples.tinyworld.examiners import synergy
from examples.tinyworld.faults import Message, prompt_pieces
from examples.tinyworld.presenting import clash, random_invitation
from examples.tinyworld.tasks import AnyTask, faulty_answer, random_task
from examples.tinyworld.understanding import Question
from examples.tinyworld.world import Thing, draw, random_thing
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.modeling.inputs import MediaBytes, Piece, Pieces
from omnialign.modeling.prompts import render_choice
from omnialign.v1 import content_pb2, record_pb2

MIME_TYPES = {
    content_pb2.MODALITY_IMAGE: "image/png",
    content_pb2.MODALITY_AUDIO: "audio/wav",
    content_pb2.MODALITY_VIDEO: "video/mp4",
}
PAIRS = ("ti", "ta", "ia", "tia")
"""The combinations of modalities that are compared for synergy."""
CALM, WILD = 0.05, 0.6
"""Least and greatest probability of each clash in an answer that is compared for synergy."""

Annotated = tuple[record_pb2.Record, Mapping[str, MediaBytes]]
"""A record, and its media by digest."""


async def append(client: AsyncClient, dataset: str, items: Iterable[Annotated]) -> None:
    """Uploads the media of records, and writes the records to the head of a dataset, a resource name."""
    found, media = list[record_pb2.Record](), dict[str, MediaBytes]()
    for record, shown in await asyncio.to_thread(list, items):  # media are rendered, which takes a while
        found.append(record)
        media |= shown
    for medium in media.values():
        await client.upload_media(medium.data, modality=medium.modality)
    await client.append_records(dataset, found)


def annotated_records(subtask: str, number: int, *, seed: int, split: str = "train") -> Iterator[Annotated]:
    """So many tasks with two answers of a misaligned model, one of which is better.

    In the split `test`, every second task shows what is held out.
    """
    rng = random.Random(f"{seed}/annotations/{subtask}/{split}")
    for index in range(number):
        task = random_task(rng, subtask, held_out=split == "test" and index % 2 == 1)
        yield _annotated(rng, task, f"{subtask}-{split}-{index}", split)


def scene_records(seed: int, sizes: Sizes) -> Iterator[Annotated]:
    """What the demo learns from and is tested on beside the imported subtasks: scenes, and open instructions.

    Answers have feedback and a preference, as in the imported columns, and no ratings.
    """
    for subtask in (*understanding.SUBTASKS, *presenting.SUBTASKS):
        for record, media in annotated_records(subtask, sizes.train, seed=seed):
            for response in record.responses:
                del response.assessments[:]
            yield record, media
        for split in ("prompts", "validation", "test"):
            yield from prompt_records(subtask, getattr(sizes, split), seed=seed, split=split)


def prompt_records(subtask: str, number: int, *, seed: int, split: str) -> Iterator[Annotated]:
    """So many tasks without answers; in the splits `validation` and `test`, every second one shows what is held out."""
    rng = random.Random(f"{seed}/prompts/{subtask}/{split}")
    for index in range(number):
        task = random_task(rng, subtask, held_out=split in ("validation", "test") and index % 2 == 1)
        yield _record(task, (), f"{subtask}-{split}-{index}", split)


def synergy_pairs(number: int, *, seed: int, split: str = "train") -> Iterator[Annotated]:
    """So many pairs of answers in the same modalities, of which one goes together better, by the mean of its pairs."""
    rng = random.Random(f"{seed}/synergy/{split}")
    for index in range(number):
        task = random_invitation(rng, "t2tia", held_out=split == "test" and index % 2 == 1)
        combination = PAIRS[index % len(PAIRS)]
        while True:
            answers = [_clashing(rng, task.picture, combination) for _ in range(2)]
            found = [synergy(answer) for answer in answers]
            means = [sum(shares.values()) / len(shares) for shares in found]
            if means[0] != means[1]:
                break
        record, media = _record(task, answers, f"synergy-{split}-{index}", split)
        record.labels["combination"] = combination
        record.preference.preferred = 1 + (means[1] > means[0])
        for response, shares in zip(record.responses, found, strict=True):
            response.assessments.extend(
                record_pb2.Assessment(aspect=f"synergy-{pair}", score=share) for pair, share in shares.items()
            )
        yield record, media


def choice_records(number: int, *, seed: int) -> Iterator[Annotated]:
    """So many questions about a sound or a video, as a judge is asked them, with the letter of the right choice."""
    rng = random.Random(f"{seed}/choices")
    for index in range(number):
        subtask, kind = (("ta2t", "sound"), ("tv2t", "clip"))[index % 2]
        thing = random_thing(rng, kind, held_out=False)
        asked = rng.choice(choices_about(rng, thing))
        (medium,) = Message(None, ((kind, draw(thing)),)).pieces()
        assert isinstance(medium, MediaBytes)
        (turn,) = render_choice((medium,), asked.question, asked.values).turns
        record = record_pb2.Record(
            id=f"choice-{index}", subtask=subtask, split="train", prompt=content(*map(_part, turn.pieces))
        )
        record.responses.add(content=content(asked.letter), source="people")
        yield record, {medium.sha256: medium}


def _clashing(rng: random.Random, picture: Thing, combination: str) -> Pieces:
    strength = rng.uniform(CALM, WILD)
    return clash(rng, combination, picture, unfit=strength, unlike=strength).pieces()


def _annotated(rng: random.Random, task: AnyTask, record_id: str, split: str) -> Annotated:
    prompt = prompt_pieces(task)
    while True:
        answers = [faulty_answer(rng, task).pieces() for _ in range(2)]
        findings = [oracle.examine(prompt, answer, task.subtask) for answer in answers]
        feedbacks = [oracle.check(prompt, answer, task.subtask) for answer in answers]
        totals = [oracle.total(feedback) for feedback in feedbacks]
        if totals[0] != totals[1]:
            break
    record, media = _record(task, answers, record_id, split)
    aspect = "understanding" if isinstance(task, Question) else "instruction_following"
    for response, found, feedback in zip(record.responses, findings, feedbacks, strict=True):
        response.feedback.CopyFrom(feedback)
        response.assessments.add(aspect=aspect, score=found.rating(), rationale=found.critique())
    record.preference.preferred = 1 + (totals[1] > totals[0])
    record.preference.reason = feedbacks[record.preference.preferred - 1].critique
    if isinstance(task, Question):
        record.benchmark_item.category = task.category
        record.benchmark_item.references.extend(task.references(rng))
    return record, media


def _record(task: AnyTask, answers: Sequence[Pieces], record_id: str, split: str) -> Annotated:
    prompt = prompt_pieces(task)
    record = record_pb2.Record(id=record_id, subtask=task.subtask, split=split, prompt=content(*map(_part, prompt)))
    record.labels["held_out"] = str(task.held_out).lower()
    for answer, side in zip(answers, "ab", strict=False):
        record.responses.add(content=content(*map(_part, answer)), source=f"tinyworld-{side}")
    media = [piece for pieces in (prompt, *answers) for piece in pieces if isinstance(piece, MediaBytes)]
    return record, {medium.sha256: medium for medium in media}


def _part(piece: Piece) -> str | content_pb2.Media:
    if isinstance(piece, str):
        return piece
    return content_pb2.Media(
        modality=content_pb2.Modality.ValueType(piece.modality),
        mime_type=MIME_TYPES[content_pb2.Modality.ValueType(piece.modality)],
        sha256=piece.sha256,
        size_bytes=len(piece.data),
    )
