import base64

import pytest

from omnialign.errors import InvalidArgument
from omnialign.v1.content_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER
from services.console.door.messages import AUDIO, IMAGE, VIDEO, InlineMedium, Message, StoredMedium, read_messages

DATA = base64.b64encode(b"bytes").decode()
DIGEST = "ab" * 32


def asked(*content, **fields):
    return [{"role": "user", "content": list(content), **fields}]


def refused(messages):
    with pytest.raises(InvalidArgument) as caught:
        read_messages(messages)
    return caught.value.reason, caught.value.violations[0][0]


def test_roles_and_texts_are_kept_in_their_order():
    found = read_messages(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None, "annotations": []},
            {"role": "user", "content": [{"type": "text", "text": "Name"}, {"type": "text", "text": " a lake."}]},
        ]
    )
    assert found == (
        Message(ROLE_SYSTEM, ("Be brief.",)),
        Message(ROLE_SYSTEM, ("Be kind.",)),
        Message(ROLE_USER, ("Hello",)),
        Message(ROLE_ASSISTANT, ("Hi",)),
        Message(ROLE_USER, ("Name", " a lake.")),
    )


@pytest.mark.parametrize(
    ("part", "modality", "param"),
    [
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}}, IMAGE, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": f"data:;base64,{DATA}", "detail": "auto"}}, IMAGE, "image_url.url"),
        ({"type": "image_url", "image_url": f"data:image/png;base64,{DATA}"}, IMAGE, "image_url"),
        ({"type": "video_url", "video_url": {"url": f"data:video/mp4;x=1;base64,{DATA}"}}, VIDEO, "video_url.url"),
        ({"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{DATA}"}}, AUDIO, "audio_url.url"),
        ({"type": "input_audio", "input_audio": {"data": DATA, "format": "mp3"}}, AUDIO, "input_audio.data"),
        ({"type": "input_audio", "input_audio": {"data": f"data:audio/wav;base64,{DATA}"}}, AUDIO, "input_audio.data"),
    ],
)
def test_media_come_as_bytes(part, modality, param):
    (message,) = read_messages(asked({"type": "text", "text": "Look"}, part))
    assert message.pieces == ("Look", InlineMedium(f"messages[0].content[1].{param}", modality, b"bytes"))


def test_media_that_are_stored_are_named_by_their_digest():
    reference = f"omnialign://media/{DIGEST}"
    parts = (
        {"type": "image_url", "image_url": {"url": reference}},
        {"type": "input_audio", "input_audio": {"data": reference}},
    )
    (message,) = read_messages(asked(*parts))
    assert [(piece.modality, piece.sha256) for piece in message.pieces] == [(IMAGE, DIGEST), (AUDIO, DIGEST)]
    assert refused(asked({"type": "image_url", "image_url": {"url": "omnialign://media/../x"}})) == (
        "PARAMETER_INVALID",
        "messages[0].content[0].image_url.url",
    )


def test_an_earlier_answer_can_be_sent_back_as_it_came():
    reference = f"omnialign://media/{DIGEST}"
    picture = {"type": "image_url", "image_url": {"url": reference}}
    answer = {
        "role": "assistant",
        "content": "Here it is.",
        "images": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}}],
        "parts": [picture, {"type": "text", "text": "Here it is."}],
    }
    _, found, _ = read_messages([*asked(), answer, *asked({"type": "text", "text": "Again."})])
    assert found.pieces == (StoredMedium("messages[1].parts[0].image_url.url", IMAGE, DIGEST), "Here it is.")
    # clients that keep only what they know
    del answer["parts"]
    answer["audio"] = {"id": reference, "data": DATA}
    _, found, _ = read_messages([*asked(), answer, *asked()])
    assert found.pieces == (
        "Here it is.",
        InlineMedium("messages[1].images[0].image_url.url", IMAGE, b"bytes"),
        StoredMedium("messages[1].audio.id", AUDIO, DIGEST),
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "https://example.org/x.png",
        "file:///etc/passwd",
        "data:image/png,plain",
        "x.png",
    ],
)
def test_no_address_is_fetched(url):
    reason, param = refused(asked({"type": "image_url", "image_url": {"url": url}}))
    assert (reason, param) == ("MEDIA_URL_FOREIGN", "messages[0].content[0].image_url.url")


@pytest.mark.parametrize(
    ("messages", "reason", "param"),
    [
        (None, "PARAMETER_INVALID", "messages"),
        ([], "PARAMETER_INVALID", "messages"),
        (["hello"], "PARAMETER_INVALID", "messages[0]"),
        ([{"role": "tool", "content": "x"}], "PARAMETER_INVALID", "messages[0].role"),
        ([{"role": [], "content": "x"}], "PARAMETER_INVALID", "messages[0].role"),
        ([{"role": "user", "content": 3}], "PARAMETER_INVALID", "messages[0].content"),
        ([{"role": "user", "content": "\ud800"}], "PARAMETER_INVALID", "messages[0].content"),
        ([{"role": "user", "content": "x", "name": "ann"}], "PARAMETER_UNSUPPORTED", "messages[0].name"),
        ([{"role": "assistant", "content": "x"}], "PARAMETER_INVALID", "messages[0].role"),
        (asked("x"), "PARAMETER_INVALID", "messages[0].content[0].type"),
        (asked({"type": "file", "file": {}}), "PARAMETER_INVALID", "messages[0].content[0].type"),
        (asked({"type": "text"}), "PARAMETER_INVALID", "messages[0].content[0].text"),
        (asked({"type": "input_audio", "input_audio": {"data": "?"}}), "MEDIA_UNDECODABLE", None),
        (asked({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}), "MEDIA_EMPTY", None),
        (
            asked({"type": "image_url", "image_url": {"url": f"data:;base64,{DATA}", "detail": "low"}}),
            "PARAMETER_UNSUPPORTED",
            "messages[0].content[0].image_url.detail",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(messages, reason, param):
    found = refused(messages)
    assert found[0] == reason
    assert param in (None, found[1])
