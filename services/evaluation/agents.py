"""`agents` mode: a model that does not write media writes instructions, which generators carry out.

The model is asked for sections (`omnialign.modeling.sections`): a response, and an instruction, or None, for each
modality that it does not write. Each instruction goes to the generator of its modality. What comes of all is one
answer, judged like any other; its response is `made_of` the model's words and what the generators made.

Words that are not these sections are the model's fault: the answer is empty. A generator that fails, or makes something
else, is no fault of the model: the item is quarantined. All of it is one step of a chunk, with a seed for each item and
modality, so a chunk that is done again comes to the same.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

from omnialign.content import LETTERS, NAMES, content, media_of, text_of
from omnialign.errors import InvalidArgument, from_status
from omnialign.modeling.answers import AnswerUnparsable
from omnialign.modeling.sections import Sections, read_sections
from omnialign.modeling.written import Modality
from omnialign.v1 import content_pb2, evaluation_service_pb2, refinement_service_pb2
from services.evaluation.job import ANSWER
from services.evaluation.works import INSTRUCTED, seeds_of_items
from services.pipeline.item_calls import ItemCall, ItemCaller
from services.pipeline.kind import JobContext, Outcome, Record, Records
from services.pipeline.model_calls import Answer, AnswerCall
from services.pipeline.quarantine import quarantined

UNREADABLE = "evaluation.unreadable"
"""Label of an answer whose words are not the sections that were asked for: the reason, in UPPER_SNAKE."""
MISSING = "GENERATOR_MODALITY_MISSING"
NO_SECTIONS = Sections("", {})

Manifest = evaluation_service_pb2.EvaluationManifest
Mode = evaluation_service_pb2.MediaMode
Item = refinement_service_pb2.GenerateItem
GeneratorCall = ItemCall[Item, Answer]


# ---- which mode ----


def modes_of(manifest: Manifest, letters: Iterable[str]) -> Iterator[Mode]:
    """How each model gets media of these modalities into its answers.

    It writes what it can write, or else instructs a generator; of a model of which nobody knows what it writes, that
    decides whether there is a generator. Raises InvalidArgument (`GENERATOR_MISSING`).
    """
    generators = {one.generator.modality: one.model.model for one in manifest.generators}
    for identity in manifest.models:
        for modality in map(LETTERS.__getitem__, letters):
            name = NAMES[modality]
            mode = Mode(model=identity.model, modality=name)
            if modality not in identity.writes and name in generators:
                mode.generator = generators[name]
            elif identity.writes and modality not in identity.writes:
                raise _generator_missing(identity.model, name)
            yield mode


def instructed(work: Record, letters: str, modes: Iterable[Mode], *, model: str) -> Record:
    """A unit of work with the label of the modalities among `letters` for which the model writes instructions."""
    by_generators = {mode.modality[0] for mode in modes if mode.model == model and mode.generator}
    if found := "".join(letter for letter in letters if letter in by_generators):
        work.labels[INSTRUCTED] = found
    return work


def _generator_missing(model: str, modality: str) -> InvalidArgument:
    message = (
        f"'{model}' does not write {modality}, which items ask for or offer, and there is no generator of {modality}"
    )
    return InvalidArgument(
        f"{message}; name one in `generators` (--generator {modality}=MODEL), or leave these items out with `subtasks`",
        reason="GENERATOR_MISSING",
        metadata={"field": "generators", "model": model, "modality": modality},
        violations=[("evaluation.spec.generators", message)],
    )


# ---- answers ----


class Agents:
    """Answers of models that instruct generators."""

    def __init__(self, caller: ItemCaller) -> None:
        self._caller = caller

    async def answer(self, context: JobContext, records: Records, call: AnswerCall) -> Outcome:
        """What a model and its generators make of records with the label INSTRUCTED. `call` asks the model."""

        def build(context: JobContext, record: Record) -> Item:
            item = call.build(context, record)
            item.instructed_modalities.extend(map(_modality, record.labels[INSTRUCTED]))
            return item

        outcome = await self._caller.run(context, records, replace(call, build=build))
        told, outcome.records = outcome.records, []
        chosen = [_read(record) for record in told]
        made = await self._make(context, told, chosen)
        for place, (record, sections) in enumerate(zip(told, chosen, strict=True)):
            found = {letter: made[f"{place}/{letter}"] for letter in sections.instructions}
            if problem := next(filter(None, map(_problem, found, found.values())), None):
                outcome.rejected.append(quarantined(record, stage=ANSWER, reason=problem[0], message=problem[1]))
            else:
                outcome.records.append(_put_together(record, sections, found))
        return outcome

    async def _make(
        self, context: JobContext, records: Sequence[Record], chosen: Sequence[Sections]
    ) -> dict[str, Answer]:
        """What the generators answer, by `place/letter` of an instruction: one call for each modality."""
        made: dict[str, Answer] = {}
        for identity in context.job.manifest.generators:
            letter = identity.generator.modality[0]
            seed = seeds_of_items(f"{ANSWER}-{letter}")
            items = [
                Item(
                    id=f"{place}/{letter}",
                    prompt=content(sections.instructions[letter]),
                    seed=seed(context, record),
                )
                for place, (record, sections) in enumerate(zip(records, chosen, strict=True))
                if letter in sections.instructions
            ]
            if items:
                made |= await self._caller.ask(context, items, call=_generator_call(identity.generator))
        return made


def _modality(letter: str) -> Modality:
    return cast("Modality", LETTERS[letter])


def _generator_call(generator: evaluation_service_pb2.MediaGenerator) -> GeneratorCall:
    def request(context: JobContext, items: Sequence[Item]) -> refinement_service_pb2.GenerateRequest:
        return refinement_service_pb2.GenerateRequest(
            model=generator.model,
            sampling=generator.sampling,
            media_policy=context.plan.media_policy,
            items=items,
        )

    return ItemCall(
        service="refinement",
        rpc="generate",
        answer=Answer,
        stage=ANSWER,
        build=lambda context, record: Item(),
        request=request,
        apply=lambda context, record, answer: record,
    )


def _read(record: Record) -> Sections:
    """What a model's words say; nothing, and a label, if they are not the sections that were asked for."""
    try:
        return read_sections(text_of(record.responses[-1].content), record.labels[INSTRUCTED])
    except AnswerUnparsable as error:
        record.labels[UNREADABLE] = error.reason
        return NO_SECTIONS


def _problem(letter: str, answer: Answer) -> tuple[str, str] | None:
    """Why a generator's answer is none, as a reason and a sentence."""
    modality = NAMES[LETTERS[letter]]
    if answer.WhichOneof("result") == "error":
        error = from_status(answer.error)
        return error.reason, f"the generator of {modality} failed: {error.message}"
    if _medium(letter, answer) is None:
        return MISSING, f"'{answer.response.source}' was to make {modality}, and its answer has none; name another one"
    return None


def _medium(letter: str, answer: Answer) -> content_pb2.Media | None:
    """The first medium of the modality in a generator's answer; whatever else it wrote is not the model's."""
    return next((m for m in media_of([answer.response.content]) if m.modality == LETTERS[letter]), None)


def _put_together(record: Record, sections: Sections, made: Mapping[str, Answer]) -> Record:
    """The record with one answer in the place of the model's words: its text, its own media, and the generators'."""
    words = record.responses.pop()
    wrote = [words, *(one.response for one in made.values())]
    answer = record.responses.add(source=words.source)
    for one in wrote:
        answer.made_of.add(content=one.content, source=one.source, generation=one.generation)
    own = [] if UNREADABLE in record.labels else media_of([words.content])
    generated = [medium for letter, one in made.items() if (medium := _medium(letter, one)) is not None]
    answer.content.CopyFrom(content(*filter(None, [sections.response]), *own, *generated))
    return record
