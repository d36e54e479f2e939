"""A labeling configuration for Label Studio, made from a rubric and the parts of a pair.

Scores are choices and no `Rating`, which has no 0. Every question is about the tag `pair`, so that it needs no medium.
Marks are labels in the media: rectangles in pictures, regions of sounds, and in videos a timeline whose frames are
hundredths of a second whatever the video's own rate.
"""

import re
import xml.etree.ElementTree as ET  # only written; nothing of anybody else is parsed

from omnialign.exchange.pairs import BEFORE, TEXT, Field, Pair, mark_fields
from omnialign.exchange.questions import SIDES, Kind, Question, questions

PAIR = "pair"
NO_DIMENSION = "(none)"
"""The label of a mark that is about no dimension; no dimension is called so."""
FRAMES_PER_SECOND = 100
TAGS = {"text": "Text", "image": "Image", "audio": "Audio", "video": "Video"}
MARKS = {"image": "RectangleLabels", "audio": "Labels", "video": "TimelineLabels"}
COLOURS = {1: "#0b63ce", 2: "#b35900"}
SIDE_BY_SIDE = "display: flex; gap: 1em"
HALF = "flex: 1; min-width: 0"
TITLES = {BEFORE: "Earlier messages", 0: "Prompt", 1: "Response 1", 2: "Response 2"}
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VARIABLE = re.compile(r"\$(?=\S)")


def mark_name(side: int, field: Field) -> str:
    """The tag of the marks that feedback on a response has in a medium."""
    return f"marks_{side}_{field.name}"


def note_name(field: Field) -> str:
    """The tag of what is to be seen or heard at a mark."""
    return f"note_{field.name}"


def labeling_config(pair: Pair, *, instructions: str = "") -> str:
    """The configuration as XML, for all pairs of the same shape and rubric."""
    view = ET.Element("View")
    if instructions:
        _header(view, instructions, size="6")
    ET.SubElement(view, "Text", name=PAIR, value=f"${PAIR}")
    for message in (BEFORE, 0) if pair.record.history else (0,):
        _message(view, pair, message)
    row = ET.SubElement(view, "View", style=SIDE_BY_SIDE)
    for side in SIDES:
        _message(ET.SubElement(row, "View", style=HALF), pair, side)
    form = questions(pair.rubric)
    for dimension in pair.rubric.dimensions:
        title = dimension.name.replace("_", " ").capitalize()
        _header(view, f"{title}: {dimension.description}" if dimension.description else title)
        of_dimension = [question for question in form if question.dimension == dimension.name]
        row = ET.SubElement(view, "View", style=SIDE_BY_SIDE)
        for side in SIDES:
            column = ET.SubElement(row, "View", style=HALF)
            _questions(column, [question for question in of_dimension if question.side == side])
        _questions(view, [question for question in of_dimension if not question.side])
    row = ET.SubElement(view, "View", style=SIDE_BY_SIDE)
    for side in SIDES:
        column = ET.SubElement(row, "View", style=HALF)
        _questions(column, [q for q in form if q.side == side and q.kind in (Kind.CRITIQUE, Kind.REFINEMENT)])
    _questions(view, [question for question in form if question.kind in (Kind.PREFERRED, Kind.REASON)])
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def literal(text: str) -> str:
    """A text for an attribute: what XML cannot hold is replaced, and a `$` is no variable of Label Studio."""
    return _VARIABLE.sub("$\u2060", _FORBIDDEN.sub("\ufffd", text))


def _message(parent: ET.Element, pair: Pair, message: int) -> None:
    """The parts of a message, and the labels of marks in them."""
    _header(parent, TITLES[message])
    for field in pair.fields:
        if field.message != message:
            continue
        for side in SIDES:
            if field in mark_fields(pair, side):
                _marks(parent, pair, side, field)
        attributes = {"name": field.name, "value": f"${field.name}"}
        if field.kind == "video":
            attributes["framerate"] = str(FRAMES_PER_SECOND)
        ET.SubElement(parent, TAGS[field.kind], attributes)
        if field.kind != TEXT:
            note = {"name": note_name(field), "toName": field.name, "perRegion": "true", "editable": "true"}
            ET.SubElement(parent, "TextArea", note | {"maxSubmissions": "1", "placeholder": "What is there"})


def _marks(parent: ET.Element, pair: Pair, side: int, field: Field) -> None:
    _header(parent, f"Marks for response {side}", size="6")
    tag = ET.SubElement(parent, MARKS[field.kind], name=mark_name(side, field), toName=field.name)
    for label in (NO_DIMENSION, *(dimension.name for dimension in pair.rubric.dimensions)):
        ET.SubElement(tag, "Label", value=label, background=COLOURS[side])


def _questions(parent: ET.Element, asked: list[Question]) -> None:
    for question in asked:
        _header(parent, question.title, size="5")
        required = "true" if question.is_required else "false"
        attributes = {"name": question.name, "toName": PAIR, "required": required}
        if question.choices is None:
            ET.SubElement(parent, "TextArea", attributes | {"rows": "3", "maxSubmissions": "1", "editable": "true"})
            continue
        tag = ET.SubElement(parent, "Choices", attributes | {"choice": "single", "showInline": "true"})
        for value, words in question.choices.items():
            ET.SubElement(tag, "Choice", value=literal(words), alias=value)


def _header(parent: ET.Element, text: str, *, size: str = "4") -> None:
    ET.SubElement(parent, "Header", value=literal(text), size=size)
