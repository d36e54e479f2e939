"""What benchmarks that judges rate share: ratings from 1 to 10, and answers to multiple-choice questions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omnialign.v1 import content_pb2, judge_service_pb2, record_pb2
from services.evaluation.benchmarks.benchmark import assess
from services.evaluation.job import SCORE
from services.evaluation.works import seeds_of_items
from services.pipeline.item_calls import ItemCall, ItemCaller, extended
from services.pipeline.kind import JobContext, Record, Records
from services.pipeline.model_calls import Judge
from services.pipeline.quarantine import rejected

LOWEST, HIGHEST = 1.0, 10.0
EMPTY = "The answer is empty."
RIGHT, WRONG = 10.0, 0.0
"""What an answered question counts, on the scale of the ratings."""


def rating_call(
    *,
    judge: Judge,
    aspect: str,
    rpc: str,
    answer: type[Any],
    build: Callable[[JobContext, Record], Any],
    request: Callable[[JobContext, Sequence[Any]], Any],
    settle: Callable[[Record], bool],
) -> ItemCall[Any, Any]:
    """A judge's ratings of the last responses, as assessments of an aspect."""

    def apply(context: JobContext, record: Record, answer: Any) -> Record:
        if answer.WhichOneof("result") == "abstention":
            abstention = answer.abstention
            words = {"abstain_reason": abstention.reason, "rationale": abstention.text}
            assess(record, aspect, 0.0, judge=judge.model, **words)
        else:
            rating = answer.rating
            made = assess(record, aspect, float(rating.score), rationale=rating.reason, judge=judge.model)
            made.generation.CopyFrom(rating.generation)
        return record

    return ItemCall(
        service="judge", rpc=rpc, answer=answer, stage=SCORE, build=build, request=request, apply=apply, settle=settle
    )


async def ask_questions(
    caller: ItemCaller,
    context: JobContext,
    records: Records,
    *,
    model: Judge,
    shown: Callable[[Record], content_pb2.Content],
    with_history: bool = False,
    max_retries: int | None = None,
) -> tuple[list[tuple[Record, Mapping[str, Any]]], Records]:
    """Has a model answer the questions of each item about what it is shown, after the item's history if that is told.

    Returns copies of the records with the answers by the question's id, and the records of which one is an error, as
    they go to the quarantine.
    """
    seed = seeds_of_items(SCORE)
    items = [
        judge_service_pb2.QuestionItem(
            id=f"{number}/{place}",
            history=record.history if with_history else (),
            shown=shown(record),
            question=question.question,
            choices=question.choices,
            seed=seed(context, record) ^ place,
        )
        for number, record in enumerate(records)
        for place, question in enumerate(record.benchmark_item.questions)
    ]
    answers = await caller.ask(context, items, call=_question_call(model, max_retries)) if items else {}
    answered, failed = list[tuple[Record, Mapping[str, Any]]](), Records()
    for number, record in enumerate(map(extended, records)):
        questions = record.benchmark_item.questions
        found = {question.id: answers[f"{number}/{place}"] for place, question in enumerate(questions)}
        if errors := [answer for answer in found.values() if answer.WhichOneof("result") == "error"]:
            failed.append(rejected(record, errors[0], stage=SCORE))
        else:
            answered.append((record, found))
    return answered, failed


def _question_call(model: Judge, max_retries: int | None) -> ItemCall[Any, Any]:
    def request(context: JobContext, items: Sequence[Any]) -> judge_service_pb2.AnswerQuestionsRequest:
        return judge_service_pb2.AnswerQuestionsRequest(
            model=model.model,
            sampling=model.sampling,
            media_policy=context.plan.media_policy,
            items=items,
            max_retries=max_retries,
        )

    return ItemCall(
        service="judge",
        rpc="answer_questions",
        answer=judge_service_pb2.AnswerQuestionsResponse,
        stage=SCORE,
        build=lambda context, record: judge_service_pb2.QuestionItem(),
        request=request,
        apply=lambda context, record, answer: record,
    )


def assess_choice(
    record: Record, question: record_pb2.MultipleChoiceQuestion, answer: Any, *, judge: str
) -> record_pb2.Assessment:
    """Adds what a judge's answer to a question about the response says of it: 10 if it is right, 0 if it is wrong."""
    if answer.WhichOneof("result") == "abstention":
        abstention = answer.abstention
        words = {"abstain_reason": abstention.reason, "rationale": abstention.text}
        return assess(record, question.id, WRONG, judge=judge, **words)
    right = answer.choice.number == question.correct
    chosen = question.choices[answer.choice.number - 1] if answer.choice.number <= len(question.choices) else ""
    made = assess(
        record, question.id, RIGHT if right else WRONG, rationale=f"{question.question} {chosen}", judge=judge
    )
    made.generation.CopyFrom(answer.choice.generation)
    return made
