import json

import pytest

from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2, generation_pb2
from services.console.door.parameters import CHAT, COMPLETION, IGNORED, NEUTRAL, read_parameters


def read(known=CHAT, **given):
    return read_parameters({"model": "base", **given}, known)


def refused(known=CHAT, **given):
    with pytest.raises(InvalidArgument) as caught:
        read(known, **given)
    return caught.value.reason, caught.value.violations[0][0]


def test_what_is_given_is_carried_out():
    found = read(
        n=3,
        seed=7,
        stop=["\n", "END"],
        temperature=0.5,
        top_p=0.9,
        max_completion_tokens=12,
        logprobs=True,
        top_logprobs=0,
        modalities=["text", "image"],
        stream=True,
        stream_options={"include_usage": True},
    )
    sampling = generation_pb2.SamplingParams(temperature=0.5, top_p=0.9, max_new_tokens=12, stop=["\n", "END"])
    assert found.sampling == sampling
    assert (found.num_samples, found.seed, found.return_tokens) == (3, 7, True)
    assert found.modalities == {content_pb2.MODALITY_TEXT, content_pb2.MODALITY_IMAGE}
    assert (found.stream, found.wants_usage) == (True, True)


def test_the_defaults_are_those_of_the_api():
    found, other = read(), read()
    assert found.sampling == generation_pb2.SamplingParams(temperature=1.0, top_p=1.0)
    assert (found.num_samples, found.json_schema, found.return_tokens, found.modalities) == (1, "", False, None)
    assert (found.stream, found.wants_usage) == (False, True)
    assert not read(stream=True).wants_usage
    assert found.seed != other.seed  # random


def test_null_is_as_good_as_nothing():
    assert read(n=None, stop=None, temperature=None, tools=None, mirostat=None).num_samples == 1


def test_seeds_of_both_signs_are_numbers_of_64_bits():
    assert [read(seed=seed).seed for seed in (0, -1, 1 << 63)] == [0, (1 << 64) - 1, 1 << 63]


@pytest.mark.parametrize(("name", "values"), [(name, values) for name, values in NEUTRAL.items() if name not in CHAT])
def test_what_is_not_carried_out_is_taken_only_where_it_changes_nothing(name, values):
    for value in values:
        read(**{name: value})
    assert refused(**{name: {"other": 1}}) == ("PARAMETER_UNSUPPORTED", name)


def test_what_says_nothing_about_the_answer_is_taken():
    for name in IGNORED:
        read(**{name: "x"})


def test_what_is_unknown_is_refused_by_name_instead_of_being_dropped():
    assert refused(mirostat=2) == ("PARAMETER_UNKNOWN", "mirostat")
    assert refused(COMPLETION, messages=[]) == ("PARAMETER_UNKNOWN", "messages")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"model": None}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 65}, "n"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 1 << 64}, "seed"),
        ({"stop": [3]}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"logprobs": 5}, "logprobs"),
        ({"top_logprobs": 3, "logprobs": True}, "top_logprobs"),
        ({"modalities": []}, "modalities"),
        ({"modalities": ["smell"]}, "modalities"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage"),
        ({"stream_options": {"chunks": 1}, "stream": True}, "stream_options.chunks"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"x": "y" * 70_000}}}},
            "response_format",
        ),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(given, param):
    assert refused(**given)[1] == param


def test_a_response_format_becomes_a_schema():
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    asked = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert json.loads(read(response_format=asked).json_schema) == schema
    assert json.loads(read(response_format={"type": "json_object"}).json_schema) == {"type": "object"}
    assert read(response_format={"type": "text"}).json_schema == ""
