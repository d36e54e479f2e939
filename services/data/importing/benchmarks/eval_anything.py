"""The files of eval-anything, with exactly the published columns.

EvalAnything-AMU, EvalAnything-InstructionFollowing (four configs) and EvalAnything-Selection_Synergy of PKU-Alignment.
"""

import json
import mimetypes
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omnialign.combinations import check_shares
from omnialign.content import content
from omnialign.modeling.benchmark_items import CATEGORIES
from omnialign.v1.record_pb2 import KeyTerms, MultipleChoiceQuestion, Record, ReferenceAnswer
from services.data.importing.benchmarks.choices import read_choices, read_letter
from services.data.importing.benchmarks.values import Given, identifier, is_list_of_text, needed
from services.data.importing.columns import AUDIO, IMAGE, VIDEO, Row
from services.data.importing.refusal import described, in_column, in_row, refusal
from services.data.importing.scales import as_number

DIMENSIONS = {name.replace("_", "-"): name for name in CATEGORIES}
"""The categories as the published files spell them."""
VISUAL, AUDITORY = "visual_modality_path", "auditory_modality_path"
ANNOTATIONS, SELECTION = "annotations", "selection"
MAX_REFERENCES = 64
QUESTIONS = "questions"
"""The column of a joined row that holds the rows it was joined from. Exported rows of a quarantine have it."""
ROW = "row"
"""In each of these rows, its number in the file."""

AMU_COLUMNS = ("question_id", "evaluation_dimension", "question", VISUAL, AUDITORY, ANNOTATIONS)
INSTRUCTION_COLUMNS = ("prompt_id", "question_id", "prompt", "question", "choice", "answer", QUESTIONS)
SELECTION_COLUMNS = ("instruction_uid", "instruction", SELECTION)


def join_rows(rows: Iterable[tuple[int, Any]], key: str) -> Iterator[tuple[int, Any]]:
    """Rows of one prompt as one row: files with one question per row have several rows for each prompt.

    They come in the order of each group's first, whose number they have. A row that cannot belong to a group, such as
    one without a question, stays a row of its own, and is refused or read as such.
    """
    joined: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, row in rows:
        name = row.get(key) if isinstance(row, Mapping) else None
        if not isinstance(name, int | str) or "question" not in row:
            yield number, row
            continue
        first = {column: row.get(column) for column in (key, "prompt", "split", "labels") if column in row}
        _, group = joined.setdefault(f"{type(name).__name__}/{name}", (number, {**first, QUESTIONS: []}))
        group[QUESTIONS].append({ROW: number, **{column: found for column, found in row.items() if column != key}})
    yield from joined.values()


def fill_amu(record: Record, row: Row, given: Given) -> None:
    """An item of understanding: a question about something to look at and something to hear, and references."""
    record.subtask = "tia2t"
    dimension = needed(row, ("evaluation_dimension",))
    if dimension not in DIMENSIONS:
        message = f"the dimension is {dimension[:100]!r}, and {', '.join(DIMENSIONS)} are taken"
        raise refusal("CATEGORY_UNKNOWN", message, column="evaluation_dimension")
    record.benchmark_item.category = DIMENSIONS[dimension]
    question = needed(row, ("question",))
    visual = _visual(row)
    record.subtask = "tia2t" if visual == IMAGE else "tav2t"
    record.prompt.CopyFrom(content(question))
    media = [*given.media(row, (VISUAL,), visual), *given.media(row, (AUDITORY,), AUDIO)]
    record.prompt.CopyFrom(content(*media, question))
    with in_column(ANNOTATIONS, None):
        name = "image" if visual == IMAGE else "video"
        record.benchmark_item.references.extend(_references(row.get(ANNOTATIONS), name, given.references))


def fill_instruction(record: Record, row: Row, given: Given) -> None:
    """An instruction, and for audio and video the questions that a listener or viewer of the answer is asked."""
    identifier(row, "prompt_id")
    prompt = needed(row, ("prompt",))
    record.prompt.CopyFrom(content(prompt))
    if given.written in ("t", "i"):
        return
    entries = row.get(QUESTIONS)
    if not isinstance(entries, list) or not entries:
        message = "the row has no question, choice and answer, which audio and video are judged by"
        raise refusal("VALUE_MISSING", message, column="question")
    for entry in entries:
        with in_row(entry.get(ROW) if isinstance(entry, Mapping) else None):
            question = _question(entry, prompt)
            if any(question.id == other.id for other in record.benchmark_item.questions):
                message = f"the question {question.id} of the prompt stands twice"
                raise refusal("QUESTION_REPEATED", message, column="question_id")
            record.benchmark_item.questions.append(question)


def fill_selection(record: Record, row: Row, given: Given) -> None:
    """An instruction, and the share of votes for each combination of modalities in the answer."""
    record.subtask = "t2tia"
    record.prompt.CopyFrom(content(needed(row, ("instruction",))))
    with in_column(SELECTION, None):
        shares = _shares(row.get(SELECTION))
        check_shares(shares)
    record.benchmark_item.selection_shares.update(shares)


def _visual(row: Row) -> int:
    """Whether the visual medium is an image or a video, by the name of its file."""
    path = needed(row, (VISUAL,))
    kind = (mimetypes.guess_type(path, strict=False)[0] or "").partition("/")[0]
    if kind not in ("image", "video"):
        with in_column(VISUAL, path):
            raise refusal("MEDIA_TYPE_UNSUPPORTED", "the name of the file is neither that of an image nor of a video")
    return IMAGE if kind == "image" else VIDEO


def _references(found: Any, visual: str, wanted: int) -> list[ReferenceAnswer]:
    """The references, ten unless the import was told otherwise."""
    if not isinstance(found, list):
        raise refusal("REFERENCES_INVALID", f"the annotations are {described(found)}, and a list is taken")
    lowest, highest = (wanted, wanted) if wanted else (1, MAX_REFERENCES)
    if not lowest <= len(found) <= highest:
        taken = f"exactly {wanted} are" if wanted else f"1 to {MAX_REFERENCES} are"
        message = f"there are {len(found)} annotations, and {taken} taken (`--references 0` takes any number)"
        raise refusal("REFERENCES_COUNT", message)
    return [_reference(one, number, visual) for number, one in enumerate(found, 1)]


def _reference(found: Any, number: int, visual: str) -> ReferenceAnswer:
    answer = found.get("answer") if isinstance(found, Mapping) else None
    if not isinstance(answer, str) or not answer.strip():
        raise refusal("REFERENCES_INVALID", f"annotation {number} has no text in `answer`")
    keywords = found.get("keywords")
    if not isinstance(keywords, Mapping):
        raise refusal("REFERENCES_INVALID", f"annotation {number} has no object `keywords` with visual and auditory")
    reference = ReferenceAnswer(answer=answer.strip())
    for theirs, ours in (("visual", visual), ("auditory", "audio")):
        terms = keywords.get(theirs)
        if not is_list_of_text(terms):
            raise refusal("REFERENCES_INVALID", f"annotation {number} has no list of texts in `keywords.{theirs}`")
        reference.key_terms[ours].CopyFrom(KeyTerms(terms=[term.strip() for term in terms if term.strip()]))
    return reference


def _question(entry: Any, prompt: str) -> MultipleChoiceQuestion:
    if not isinstance(entry, Mapping):
        raise refusal("VALUE_MISSING", f"a question is {described(entry)}, and an object with columns is taken")
    if needed(entry, ("prompt",)) != prompt:
        raise refusal("PROMPT_CONFLICTS", "another row with this prompt_id has another prompt", column="prompt")
    choices = read_choices(entry.get("choice"), "choice")
    return MultipleChoiceQuestion(
        id=identifier(entry, "question_id"),
        question=needed(entry, ("question",)),
        choices=choices,
        correct=read_letter(entry.get("answer"), choices, "answer"),
    )


def _shares(found: Any) -> dict[str, float]:
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except (ValueError, RecursionError) as error:
            raise refusal("SHARES_INVALID", f"the votes are not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise refusal("SHARES_INVALID", f"the votes are {described(found)}, and an object is taken")
    shares = dict[str, float]()
    for name, share in found.items():
        number = as_number(share) if not isinstance(share, str) else None
        if number is None and share is not None:  # a file in columns has None where a row lacks a combination
            raise refusal("SHARES_INVALID", f"the share of {str(name)[:20]} is {described(share)}, no number")
        if number is not None:
            shares[str(name)] = number
    return shares
