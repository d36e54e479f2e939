"""Rules for media spans: whatever the logits, what is written decodes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.modeling.adapters import AnswerMalformed, TokenAdapter
from omnialign.modeling.messages import MediaBytes
from services.inference.spans import OUTSIDE, Place, SpanRules
from tests.services.inference.world import make_tokenizer


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    make_tokenizer(folder)
    return TokenAdapter.load(folder)


def written(adapter, logits, rules):
    """Greedy tokens of random logits, constrained, until the end or the last row of logits."""
    place, ids = Place(), []
    for row in logits:
        token = int(rules.constrain(row[None], [place]).argmax())
        ids.append(token)
        place.write(token, rules.spans)
        if token == adapter.end_id:
            break
    return ids, place


@given(seed=st.integers(0, 10_000), favour=st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_any_answer_that_does_not_end_inside_a_span_decodes(adapter, seed, favour):
    (span,) = adapter.media_spans
    logits = torch.randn(40, span.last_id + 3, generator=torch.Generator().manual_seed(seed))
    logits[:, [span.begin_id, span.end_id, adapter.end_id]] += torch.tensor([favour, favour, 1.0])
    logits[:, span.last_id + 1 :] = float("-inf")
    ids, place = written(adapter, logits, SpanRules(adapter.media_spans, vocabulary=span.last_id + 3, device="cpu"))
    if place.state == OUTSIDE:
        pieces = adapter.decode(ids)
        assert sum(isinstance(piece, MediaBytes) for piece in pieces) == ids.count(span.begin_id)
    else:
        with pytest.raises(AnswerMalformed):
            adapter.decode(ids)


def test_codes_and_ends_are_written_in_spans_alone(adapter):
    (span,) = adapter.media_spans
    rules = SpanRules(adapter.media_spans, vocabulary=span.last_id + 1, device="cpu")
    outside, inside = Place(), Place()
    inside.write(span.begin_id, rules.spans)
    allowed = rules.constrain(torch.zeros(2, span.last_id + 1), [outside, inside]).isfinite()
    codes = set(range(span.first_id, span.last_id + 1))
    assert set(allowed[1].nonzero().flatten().tolist()) == codes
    assert set((~allowed[0]).nonzero().flatten().tolist()) == codes | {span.end_id}


def test_a_model_that_writes_no_media_is_left_alone():
    logits = torch.randn(2, 9)
    assert SpanRules([], vocabulary=9, device="cpu").constrain(logits, [Place(), Place()]) is logits
