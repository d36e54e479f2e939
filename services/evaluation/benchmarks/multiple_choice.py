"""`multiple_choice`: models answer questions with choices about the media of a prompt.

The first answer counts. One that names no choice, or several, is the model's fault: it is wrong, and not `readable`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from omnialign.content import content
from omnialign.v1 import content_pb2, generation_pb2, record_pb2
from services.evaluation.benchmarks.benchmark import Benchmark, assess
from services.evaluation.benchmarks.ratings import ask_questions
from services.evaluation.job import Part, Spec
from services.evaluation.works import MODEL, number_of, works_of
from services.pipeline.kind import JobContext, Outcome, Record, Records
from services.pipeline.model_calls import Judge

ACCURACY, READABLE = "accuracy", "readable"


class MultipleChoice(Benchmark):
    """Questions about media, with choices of which one is right."""

    name = "multiple_choice"
    main = ACCURACY
    takes = frozenset({"ablation"})
    is_answered = False

    @classmethod
    def problem(cls, item: Record) -> str:
        """An item needs questions."""
        return "" if item.benchmark_item.questions else "QUESTIONS_MISSING"

    @classmethod
    def tasks(cls, plan: Spec, part: Part, records: Sequence[Record]) -> Iterator[Record]:
        """Each item, for each model."""
        for item in records:
            yield from works_of(plan, part, item)

    async def score(self, context: JobContext, part: Part, records: Records) -> Outcome:
        """The `accuracy` over questions, and whether the answer is `readable`."""
        model = context.plan.models[number_of(records[0], MODEL) - 1]
        asked = Judge(model, context.plan.sampling, generation_pb2.ANSWER_FORM_UNSPECIFIED)
        answered, failed = await ask_questions(
            self._caller, context, records, model=asked, shown=shown_of, with_history=True, max_retries=0
        )
        outcome = Outcome(rejected=failed)
        for record, answers in answered:
            record.responses.add(source=model)
            for question in record.benchmark_item.questions:
                _assess(record, question, answers[question.id])
            outcome.records.append(record)
        return outcome


def shown_of(record: Record) -> content_pb2.Content:
    """What the questions are about: the prompt without the questions themselves; all of it if nothing else is there."""
    questions = {question.question for question in record.benchmark_item.questions}
    kept = [part for part in record.prompt.parts if part.text not in questions or part.WhichOneof("part") == "media"]
    return content_pb2.Content(parts=kept) if kept else record.prompt


def _assess(record: Record, question: record_pb2.MultipleChoiceQuestion, answer: Any) -> None:
    response, is_read = record.responses[-1], answer.WhichOneof("result") == "choice"
    number = answer.choice.number if is_read else 0
    words = question.choices[number - 1] if 1 <= number <= len(question.choices) else answer.abstention.text
    response.content.MergeFrom(content(f"{question.question} {words}".strip()))
    assess(record, ACCURACY, float(is_read and number == question.correct))
    assess(record, READABLE, float(is_read))
