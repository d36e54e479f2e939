"""What models are asked: versioned prompt templates, and for each question the reader of its answer.

A template is a file `{name}.v{n}.md`: turns that begin with `@user` or `@assistant`, with slots in braces for text or
media. A changed text is a new version. The hash of the text goes into every record that it produced, for lineage.

Where a model answers a prompt, the messages that came before it are turns of their own. Where a model is asked about
the prompt, they are written out with it, by role: there the message of a system must not pass for one to the reader.

Feedback, judgements and ratings are asked for in one of two forms: `critique` is for models that learnt the form of the
answer in training, `critique_json` describes it in words and comes with a JSON schema. A `Question` holds the template,
the schema and the reader of one form together, so that nobody asks in one form and reads in the other.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from typing import Generic, TypeAlias, TypeVar, cast

from omnialign.content import NAMES, Role
from omnialign.modeling import answers, answers_json
from omnialign.modeling.answers import Judgement, Rating, write_advice
from omnialign.modeling.benchmark_items import (
    INSTRUCTION_FOLLOWING,
    SAFETY,
    known_category,
    write_references,
)
from omnialign.modeling.choices import read_choice, write_choices
from omnialign.modeling.inputs import Piece, Pieces, Turn
from omnialign.modeling.sections import write_form
from omnialign.v1 import content_pb2, generation_pb2, record_pb2

Turns: TypeAlias = Sequence[Turn]
AND = "+"
"""Between the identities of templates that made one conversation."""
_SLOT = re.compile(r"\{(\w+)\}")
VERSIONS = {
    "response": 1,
    "refinement": 1,
    "critique": 1,
    "critique_json": 1,
    "score": 1,
    "score_json": 1,
    "comparison": 1,
    "comparison_json": 1,
    "understanding": 1,
    "understanding_json": 1,
    "understanding_instruction_following_json": 1,
    "understanding_safety_json": 1,
    "generation": 1,
    "generation_text_json": 1,
    "generation_media_json": 1,
    "choice": 1,
    "agents": 1,
    "conversation": 1,
}
CONVERSATION = "conversation"
"""How a prompt is written out with the messages that came before it."""


@dataclass(frozen=True)
class Rendered:
    """A conversation for a model, and the `template` it came from as `name@version:hash`.

    One that writes out earlier messages ends with how: `+conversation@version:hash`.
    """

    turns: tuple[Turn, ...]
    template: str


@dataclass(frozen=True)
class _Template:
    identity: str
    turns: tuple[tuple[Role, str], ...]


def render_response(prompt: Pieces, history: Turns = ()) -> Rendered:
    """Asks for a response, y ~ pi(x), to a prompt that `history` may precede."""
    return _continued(history, _render("response", {"prompt": prompt}))


def render_agents(prompt: Pieces, modalities: Sequence[int], history: Turns = ()) -> Rendered:
    """Asks for a response with instructions for generators of `modalities` (`sections.read_sections`)."""
    names = [NAMES[modality] for modality in modalities]
    letters = [NAMES[modality][0] for modality in modalities]
    words = {"modalities": (", ".join(names),), "sections": (write_form(letters),)}
    return _continued(history, _render("agents", {"prompt": prompt, **words}))


def render_refinement(prompt: Pieces, response: Pieces, feedback: record_pb2.Feedback, history: Turns = ()) -> Rendered:
    """Asks for a refinement, y* ~ pi(x, y, c). The model gets the words of the feedback, not the scores."""
    slots = {"prompt": prompt, "response": response, "advice": (write_advice(feedback),)}
    return _continued(history, _render("refinement", slots))


def render_critique(
    prompt: Pieces, response: Pieces, rubric: Sequence[str], history: Turns = (), *, template: str = "critique"
) -> Rendered:
    """Asks for language feedback, c ~ p_phi(x, y)."""
    return _render(template, {"prompt": prompt, "response": response, "rubric": (", ".join(rubric),)}, history)


def render_score(
    prompt: Pieces, response: Pieces, rubric: Sequence[str], history: Turns = (), *, template: str = "score"
) -> Rendered:
    """Asks for scores only."""
    return _render(template, {"prompt": prompt, "response": response, "rubric": (", ".join(rubric),)}, history)


def render_comparison(
    prompt: Pieces, first: Pieces, second: Pieces, history: Turns = (), *, template: str = "comparison"
) -> Rendered:
    """Asks which of two responses is better; they are shown in the order given."""
    return _render(template, {"prompt": prompt, "first": first, "second": second}, history)


def render_understanding(
    prompt: Pieces,
    response: Pieces,
    references: Sequence[record_pb2.ReferenceAnswer],
    category: str,
    history: Turns = (),
    *,
    template: str = "understanding",
) -> Rendered:
    """Asks how well a response answers a question about media, against answers that people gave."""
    words = {"references": (write_references(references),), "category": (known_category(category),)}
    return _render(template, {"prompt": prompt, "response": response, **words}, history)


def render_generation(
    prompt: Pieces, response: Pieces, modality: int, history: Turns = (), *, template: str = "generation"
) -> Rendered:
    """Asks how well the part of a response that is in `modality` follows an instruction."""
    return _render(template, {"prompt": prompt, "response": response, "modality": (NAMES[modality],)}, history)


def render_choice(
    shown: Pieces, question: str, choices: Sequence[str], history: Turns = (), *, template: str = "choice"
) -> Rendered:
    """Asks a multiple-choice question about what is shown."""
    slots = {"shown": shown, "question": (question,), "choices": (write_choices(choices),)}
    return _continued(history, _render(template, slots))


def write_conversation(history: Turns, prompt: Pieces) -> Pieces:
    """A prompt with the messages that came before it, as one text by role with its media in their places."""
    forms = dict(_load(CONVERSATION).turns)
    written = list[Piece]()
    for turn in (*history, Turn("user", prompt)):
        for piece in (*(["\n"] if written else []), *fill(forms[turn.role], {"message": turn.pieces})):
            _append(written, piece)
    return tuple(written)


def _render(name: str, slots: Mapping[str, Pieces], history: Turns = ()) -> Rendered:
    """A template with its slots filled; earlier messages are written out with the prompt."""
    template = _load(name)
    identity = template.identity
    if history:
        slots = {**slots, "prompt": write_conversation(history, slots["prompt"])}
        identity = f"{identity}{AND}{_load(CONVERSATION).identity}"
    return Rendered(tuple(Turn(role, fill(text, slots)) for role, text in template.turns), identity)


def _continued(history: Turns, rendered: Rendered) -> Rendered:
    """A conversation with the turns that came before it."""
    return replace(rendered, turns=(*history, *rendered.turns))


def fill(text: str, slots: Mapping[str, Pieces]) -> Pieces:
    """Replaces each slot of a text, such as `{prompt}`, by the text and media in `slots`."""
    filled: list[Piece] = []
    for index, chunk in enumerate(_SLOT.split(text)):
        for piece in slots[chunk] if index % 2 else (chunk,):
            _append(filled, piece)
    return tuple(filled)


def _append(filled: list[Piece], piece: Piece) -> None:
    """Appends a piece; joins neighbouring texts, so that tokenization does not depend on where a slot ended."""
    if isinstance(piece, str) and filled and isinstance(filled[-1], str):
        filled[-1] += piece
    elif piece != "":
        filled.append(piece)


def identities() -> tuple[str, ...]:
    """All templates of this release, as `name@version:hash`."""
    return tuple(_load(name).identity for name in sorted(VERSIONS))


def is_current(template: str) -> bool:
    """Whether all templates that a `Rendered.template` names are of this release."""
    return set(template.split(AND)) <= set(identities())


@cache
def _load(name: str) -> _Template:
    text = files(__package__).joinpath(f"{name}.v{VERSIONS[name]}.md").read_text("utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    chunks = re.split(r"^@(system|user|assistant)\n", text, flags=re.MULTILINE)[1:]
    turns = tuple((cast("Role", role), body.rstrip("\n")) for role, body in zip(chunks[::2], chunks[1::2], strict=True))
    return _Template(f"{name}@{VERSIONS[name]}:{digest}", turns)


T = TypeVar("T")
Form: TypeAlias = generation_pb2.AnswerForm.ValueType


@dataclass(frozen=True)
class Question(Generic[T]):
    """How one thing is asked: `template` names the prompt, `read` parses the answer or raises AnswerUnparsable.

    `json_schema` is the schema to which engines constrain the answer, where they can; "" for answers in sections.
    """

    template: str
    read: Callable[[str], T]
    json_schema: str = ""


def ask_feedback(form: Form, rubric: Sequence[str]) -> Question[record_pb2.Feedback]:
    """Asks for critique, refinement advice and scores, in JSON or else in sections."""
    if form == generation_pb2.ANSWER_FORM_JSON:
        read = partial(answers_json.read_feedback, rubric=rubric)
        return Question("critique_json", read, answers_json.feedback_schema(rubric))
    return Question("critique", partial(answers.read_feedback, rubric=rubric))


def ask_scores(form: Form, rubric: Sequence[str]) -> Question[record_pb2.Feedback]:
    """Asks for scores only."""
    if form == generation_pb2.ANSWER_FORM_JSON:
        read = partial(answers_json.read_scores, rubric=rubric)
        return Question("score_json", read, answers_json.scores_schema(rubric))
    return Question("score", partial(answers.read_scores, rubric=rubric))


def ask_judgement(form: Form) -> Question[Judgement]:
    """Asks which of two responses is better."""
    if form == generation_pb2.ANSWER_FORM_JSON:
        return Question("comparison_json", answers_json.read_judgement, answers_json.judgement_schema())
    return Question("comparison", answers.read_judgement)


def ask_understanding(form: Form, category: str) -> Question[Rating]:
    """Asks how well a response answers a question; in JSON, the template says what counts in the category.

    Raises InvalidArgument CATEGORY_UNKNOWN.
    """
    special = f"_{category}" if known_category(category) in (INSTRUCTION_FOLLOWING, SAFETY) else ""
    return _ask_rating(form, "understanding", f"understanding{special}_json")


def ask_generation(form: Form, modality: int) -> Question[Rating]:
    """Asks how well a response follows an instruction; in JSON, the template says what counts in the modality."""
    kind = "text" if modality == content_pb2.MODALITY_TEXT else "media"
    return _ask_rating(form, "generation", f"generation_{kind}_json")


def _ask_rating(form: Form, in_sections: str, in_json: str) -> Question[Rating]:
    if form == generation_pb2.ANSWER_FORM_JSON:
        return Question(in_json, answers_json.read_rating, answers_json.rating_schema())
    return Question(in_sections, answers.read_rating)


def ask_choice(choices: Sequence[str]) -> Question[int]:
    """Asks which choice is right, by its letter: a form so short that every model knows it."""
    return Question("choice", partial(read_choice, choices=choices))


def write_judgement(form: Form, judgement: Judgement) -> str:
    """A judgement in the form in which `ask_judgement` asks for it."""
    if form == generation_pb2.ANSWER_FORM_JSON:
        return answers_json.write_judgement(judgement.reason, judgement.preferred)
    return answers.write_judgement(judgement.reason, judgement.preferred)
