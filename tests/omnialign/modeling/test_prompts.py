"""Prompt templates put text and media where they belong and name themselves."""

import json

import pytest

from omnialign.errors import InvalidArgument
from omnialign.modeling.answers_json import VERDICTS, feedback_schema
from omnialign.modeling.benchmark_items import CATEGORIES
from omnialign.modeling.inputs import MediaBytes, Turn
from omnialign.modeling.prompts import (
    VERSIONS,
    ask_generation,
    ask_understanding,
    is_current,
    render_comparison,
    render_critique,
    render_generation,
    render_refinement,
    render_response,
    render_score,
    render_understanding,
)
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1.generation_pb2 import ANSWER_FORM_JSON, ANSWER_FORM_SECTIONS

PICTURE = MediaBytes(content_pb2.MODALITY_IMAGE, b"png")


def test_a_response_prompt_is_the_prompt_itself():
    rendered = render_response((PICTURE, "What is this?"))
    assert [turn.pieces for turn in rendered.turns] == [(PICTURE, "What is this?")]


def test_a_refinement_shows_prompt_response_and_advice_as_turns():
    feedback = record_pb2.Feedback(critique="too dark.", refinement="lighten it.")
    turns = render_refinement(("Draw.",), (PICTURE,), feedback).turns
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert turns[1].pieces == (PICTURE,)
    assert "##Critique: too dark. ##Refinement: lighten it." in turns[2].pieces[0]


def test_media_stand_where_their_slot_is():
    (turn,) = render_comparison(("Draw.",), (PICTURE,), ("no",)).turns
    assert [isinstance(piece, MediaBytes) for piece in turn.pieces] == [False, True, False]
    assert turn.pieces[0].endswith("##Response 1: ")
    assert turn.pieces[2].startswith("\n##Response 2: no")


def test_braces_in_a_prompt_are_text_and_open_no_slot():
    (turn,) = render_critique(("{response} {rubric}",), ("fine",), ["clarity"]).turns
    assert "##Prompt: {response} {rubric}\n##Response: fine" in turn.pieces[0]


def test_templates_that_explain_json_name_all_its_fields_and_hold_the_same_media():
    schema = json.loads(feedback_schema(["clarity"]))
    (turn,) = render_critique(("Draw.",), (PICTURE,), ["clarity"], template="critique_json").turns
    assert turn.pieces[1] == PICTURE
    assert all(f'"{name}"' in turn.pieces[2] for name in (*schema["properties"], "rationale", "score"))
    (turn,) = render_score(("Draw.",), (PICTURE,), ["clarity"], template="score_json").turns
    assert all(f'"{name}"' in turn.pieces[2] for name in ("scores", "rationale", "score"))
    (turn,) = render_comparison(("Draw.",), (PICTURE,), ("no",), template="comparison_json").turns
    assert all(f'"{name}"' in turn.pieces[2] for name in ("reason", "preferred", *VERDICTS))


REFERENCES = [
    record_pb2.ReferenceAnswer(
        answer="A red circle beeps.",
        key_terms={
            "image": record_pb2.KeyTerms(terms=["red", "circle"]),
            "audio": record_pb2.KeyTerms(terms=["beep"]),
            "video": record_pb2.KeyTerms(),
        },
    ),
    record_pb2.ReferenceAnswer(answer="Red."),
]


def understanding(form, category, references=REFERENCES):
    question = ask_understanding(form, category)
    return render_understanding(("Why?", PICTURE), ("It beeps.",), references, category, template=question.template)


def test_references_are_shown_with_the_key_terms_of_each_medium():
    question, response = understanding(ANSWER_FORM_SECTIONS, "safety").turns[0].pieces[::2]
    assert question == "##Category: safety\n##Question: Why?"
    references = "1. A red circle beeps. (audio: beep; image: red, circle)\n2. Red."
    assert response.startswith(f"\n##References: {references}\n##Response: It beeps.\n")


def test_each_category_is_judged_by_what_counts_in_it():
    found = {category: understanding(ANSWER_FORM_JSON, category).template for category in ("", *CATEGORIES)}
    assert found[""] == found["perception"] == found["reasoning"]
    assert len(set(found.values())) == 3
    for category, words in (("safety", "declin"), ("instruction_following", "form"), ("perception", "correct")):
        pieces = understanding(ANSWER_FORM_JSON, category).turns[0].pieces
        assert pieces[1] == PICTURE
        assert words in pieces[2]
        assert '"reason"' in pieces[2] and '"rating"' in pieces[2]
    for form in (ANSWER_FORM_JSON, ANSWER_FORM_SECTIONS):
        with pytest.raises(InvalidArgument) as caught:
            understanding(form, "instruction-following")
        assert caught.value.reason == "CATEGORY_UNKNOWN"


def test_a_medium_is_judged_by_points_and_a_text_by_its_use():
    for modality, name in enumerate(("text", "image", "audio", "video"), start=1):
        question = ask_generation(ANSWER_FORM_JSON, modality)
        (turn,) = render_generation(("Draw.",), (PICTURE,), modality, template=question.template).turns
        assert ("useful" in turn.pieces[2]) == (name == "text")
        assert (f"generated {name}" in turn.pieces[0]) == (name != "text")
        assert '"reason"' in turn.pieces[2] and '"rating"' in turn.pieces[2]
        (turn,) = render_generation(("Draw.",), (PICTURE,), modality).turns
        assert turn.pieces[0].startswith(f"##Modality: {name}\n")


def test_templates_that_have_made_records_never_change():
    feedback = record_pb2.Feedback()
    assert render_response(("x",)).template == "response@1:b8fe9223565e"
    assert render_refinement(("x",), ("y",), feedback).template == "refinement@1:3fad8707869f"
    assert render_critique(("x",), ("y",), []).template == "critique@1:efee23a72229"
    assert render_score(("x",), ("y",), []).template == "score@1:d0bf530aa8e1"
    assert render_comparison(("x",), ("y",), ("z",)).template == "comparison@1:a1af26cdf62c"


def test_every_template_is_named_by_version_and_hash_and_the_names_differ():
    feedback = record_pb2.Feedback()
    names = {
        render_response(("x",)).template,
        render_refinement(("x",), ("y",), feedback).template,
        render_critique(("x",), ("y",), []).template,
        render_comparison(("x",), ("y",), ("z",)).template,
    }
    assert len(names) == 4
    for name in names:
        family, _, rest = name.partition("@")
        version, _, digest = rest.partition(":")
        assert int(version) == VERSIONS[family]
        assert len(digest) == 12


EARLIER = (
    Turn("system", ("Be brief.",)),
    Turn("user", ("Look: ", PICTURE)),
    Turn("assistant", ("A lake.",)),
)


def test_the_model_that_answers_reads_earlier_messages_as_turns_of_their_own():
    rendered = render_response(("Whose?",), EARLIER)
    assert rendered.turns == (*EARLIER, Turn("user", ("Whose?",)))
    assert rendered.template == render_response(("Whose?",)).template
    refined = render_refinement(("Whose?",), ("Mine.",), record_pb2.Feedback(critique="No."), EARLIER)
    assert refined.turns[:3] == EARLIER
    assert [turn.role for turn in refined.turns[3:]] == ["user", "assistant", "user"]


def test_a_model_that_is_asked_about_a_prompt_reads_earlier_messages_written_out_by_role():
    asked = ("[system]: Be brief.\n[user]: Look: ", PICTURE, "\n[assistant]: A lake.\n[user]: Whose?")
    for rendered in (
        render_critique(("Whose?",), ("Mine.",), ["clarity"], EARLIER),
        render_critique(("Whose?",), ("Mine.",), ["clarity"], EARLIER, template="critique_json"),
        render_score(("Whose?",), ("Mine.",), ["clarity"], EARLIER),
        render_comparison(("Whose?",), ("Mine.",), ("Ours.",), EARLIER),
        render_understanding(("Whose?",), ("Mine.",), [], "perception", EARLIER),
        render_generation(("Whose?",), ("Mine.",), content_pb2.MODALITY_TEXT, EARLIER),
    ):
        (turn,) = rendered.turns
        before, medium, after = turn.pieces
        assert turn.role == "user" and medium is PICTURE
        assert before.endswith(asked[0]) and after.startswith(asked[2])


def test_how_earlier_messages_are_written_out_is_a_template_of_its_own_in_the_name():
    alone = render_comparison(("x",), ("y",), ("z",)).template
    named = render_comparison(("x",), ("y",), ("z",), EARLIER).template
    assert named == f"{alone}+conversation@1:b0dfd222ff04"
    assert is_current(alone) and is_current(named)
    assert not is_current(f"{alone}+conversation@2:0123456789ab") and not is_current("")
