"""Multiple-choice questions about the media of a prompt, in the columns of OmniBench (m-a-p/OmniBench)."""

from omnialign.combinations import combination
from omnialign.content import NAMES, content
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import MultipleChoiceQuestion, Record
from services.data.importing.benchmarks.choices import read_answer, read_choices
from services.data.importing.benchmarks.values import PROMPT_MEDIA, Given, category, needed
from services.data.importing.columns import Row, first
from services.data.importing.feedback import text

QUESTION = ("question", "prompt")
OPTIONS = ("options", "choices", "choice")
CATEGORY = ("task type", "task_type", "category")
AUDIO_TYPE = ("audio type", "audio_type")
COLUMNS = (*QUESTION, *OPTIONS, "answer", *CATEGORY, *AUDIO_TYPE)
COLUMNS_WITH_MEDIA = (*COLUMNS, *(name for names in PROMPT_MEDIA.values() for name in names))


def fill_multiple_choice(record: Record, row: Row, given: Given) -> None:
    """A question with choices, after what it is about."""
    question = needed(row, QUESTION)
    record.prompt.CopyFrom(content(question))
    media = prompt_media(row, given)
    record.subtask = f"{combination(['t', *(NAMES[one.modality][0] for one in media)])}2t"
    record.prompt.CopyFrom(content(*media, question))
    name = first(row, CATEGORY)
    record.benchmark_item.category = category(text(row, name), name)
    if kind := text(row, first(row, AUDIO_TYPE)):
        record.labels["audio_type"] = kind
    options = first(row, OPTIONS) or OPTIONS[0]
    choices = read_choices(row.get(options), options)
    correct = read_answer(row.get("answer"), choices, "answer")
    record.benchmark_item.questions.append(
        MultipleChoiceQuestion(id="1", question=question, choices=choices, correct=correct)
    )


def prompt_media(row: Row, given: Given) -> list[Media]:
    """The media of a prompt, of all modalities that have a column with a value: images, then audio, then video."""
    there = [(names, modality) for modality, names in PROMPT_MEDIA.items() if first(row, names)]
    return [one for names, modality in there for one in given.media(row, names, modality)]
