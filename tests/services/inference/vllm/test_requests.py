"""What is sent to vLLM, without vLLM: media with their names, spans as plain lists, an order that its caches like."""

import json

from hypothesis import given
from hypothesis import strategies as st

from omnialign.modeling.inputs import MediaBytes, MediaPolicy, Turn
from omnialign.modeling.spans import MediaSpan, slot
from omnialign.v1 import content_pb2, generation_pb2
from services.inference.constrained_decoding import spans_from_config, spans_to_config
from services.inference.engine import EngineRequest
from services.inference.vllm.requests import order_of, prompt_of
from tests.model_factory.families import FAMILIES

slots = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda ends: slot(min(ends), max(ends))[0]), max_size=3
).map(tuple)
spans = st.builds(
    MediaSpan,
    begin_id=st.integers(0, 9),
    end_id=st.integers(0, 9),
    unit=st.lists(slots, min_size=1, max_size=3).map(tuple),
    min_units=st.integers(0, 9),
    max_units=st.integers(0, 9),
    codes=slots,
    head=st.lists(slots, max_size=2).map(tuple),
)


@given(st.lists(spans, max_size=3))
def test_spans_survive_the_way_to_the_worker(found):
    assert spans_from_config(json.loads(json.dumps(spans_to_config(found)))) == found
    assert spans_from_config({}) == []


def request(*pieces, policy=None):
    sampling = generation_pb2.SamplingParams()
    return EngineRequest("0", "model", (Turn("user", pieces),), sampling, policy=policy or MediaPolicy())


def test_requests_with_the_same_media_and_beginning_follow_each_other():
    one, two = (MediaBytes(content_pb2.MODALITY_IMAGE, bytes([number])) for number in (1, 2))
    asked = [request(one, "b"), request("text"), request(two, "a"), request(one, "a"), request(two, "b")]
    ordered = [r.turns[0].pieces for r in sorted(asked, key=order_of)]
    starts = [pieces[0] for pieces in ordered]
    assert starts[0] == "text"
    assert starts[1] == starts[2] != starts[3] == starts[4]
    assert [pieces[1] for pieces in ordered[1:3]] == ["a", "b"]


def test_a_medium_is_named_by_its_digest_and_the_policy_it_was_read_by(tmp_path):
    import numpy as np

    from omnialign.media import write_image
    from omnialign.modeling.adapters import load_adapter

    adapter = load_adapter(FAMILIES["qwen2_5_vl"].build(tmp_path / "model"))
    medium = MediaBytes(content_pb2.MODALITY_IMAGE, write_image(np.zeros((56, 84, 3), dtype=np.uint8)))
    names = []
    for policy in (MediaPolicy(), MediaPolicy(max_pixels=1000)):
        fields = prompt_of(adapter, request(medium, "What?", medium, policy=policy)).fields
        assert [item.size for item in fields["multi_modal_data"]["image"]] == [
            fields["multi_modal_data"]["image"][0].size
        ] * 2
        names.append(fields["multi_modal_uuids"]["image"])
    assert names[0][0] == names[0][1] != names[1][0]
    assert all(name.startswith(medium.sha256) for pair in names for name in pair)
    assert set(prompt_of(adapter, request("What?")).fields) == {"prompt_token_ids"}
