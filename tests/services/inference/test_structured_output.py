"""Which form of answers a model is asked for."""

import pytest

from omnialign.errors import InvalidArgument
from omnialign.v1.generation_pb2 import ANSWER_FORM_JSON, ANSWER_FORM_SECTIONS, ANSWER_FORM_UNSPECIFIED
from services.inference.structured_output import form_of

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
