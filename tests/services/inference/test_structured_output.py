"""Which form of answers a model is asked for, and what is not in that form."""

import pytest

from omnialign.errors import InvalidArgument
from omnialign.modeling.answers import read_judgement
from omnialign.modeling.inputs import MediaBytes
from omnialign.v1.content_pb2 import MODALITY_IMAGE
from omnialign.v1.generation_pb2 import (
    ANSWER_FORM_JSON,
    ANSWER_FORM_SECTIONS,
    ANSWER_FORM_UNSPECIFIED,
    FINISH_REASON_LENGTH,
    GenerationInfo,
)
from services.inference.engine import EngineResult
from services.inference.structured_output import form_of, read_answer

CHAT = "openai+http://h/v1#general"
REGISTERED = "projects/p/models/critic/versions/1"


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (CHAT, ANSWER_FORM_JSON),
        (f"{CHAT}?adapter={REGISTERED}", ANSWER_FORM_SECTIONS),
        (REGISTERED, ANSWER_FORM_SECTIONS),
        ("file:///models/critic", ANSWER_FORM_SECTIONS),
    ],
)
def test_only_a_model_behind_a_chat_is_asked_for_json_unless_somebody_says_so(model, form):
    assert form_of(ANSWER_FORM_UNSPECIFIED, model) == form
    for wanted in (ANSWER_FORM_JSON, ANSWER_FORM_SECTIONS):
        assert form_of(wanted, model) == wanted


def test_a_name_that_is_no_endpoint_is_refused():
    with pytest.raises(InvalidArgument) as caught:
        form_of(ANSWER_FORM_UNSPECIFIED, "openai+http://h/v1")
    assert caught.value.reason == "MODEL_NAME_INVALID"


GOOD = "##Reason: both are good ##Preferred: 1"
CUT = GenerationInfo(finish_reason=FINISH_REASON_LENGTH)


@pytest.mark.parametrize(
    ("pieces", "info", "reason"),
    [
        ((GOOD,), CUT, "ANSWER_TRUNCATED"),
        ((GOOD, MediaBytes(MODALITY_IMAGE, b"")), GenerationInfo(), "ANSWER_UNPARSABLE"),
        ((f"{GOOD} or 2",), GenerationInfo(), "VERDICT_INVALID"),
    ],
)
def test_an_answer_that_is_not_in_the_form_that_was_asked_for_abstains(pieces, info, reason):
    assert read_answer(EngineResult("0", (GOOD,)), read_judgement).value.preferred == 1
    reading = read_answer(EngineResult("0", pieces, info=info), read_judgement)
    assert reading.value is None
    assert reading.abstention.reason == reason
