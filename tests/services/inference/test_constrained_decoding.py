"""Rules for media spans: whatever the logits, what is written decodes."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from omnialign.modeling.adapters import AnswerMalformed, TokenAdapter
from omnialign.modeling.inputs import MediaBytes
from omnialign.modeling.spans import MediaSpan, slot
from services.inference.constrained_decoding import SpanConstraints, SpanState
from tests.services.inference.model_factory import make_tokenizer


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    make_tokenizer(folder)
    return TokenAdapter.load(folder)


def written(adapter, logits, rules):
    """Greedy tokens of random logits, constrained, until the end or the last row of logits."""
    place, ids = SpanState(), []
    for row in logits:
        token = int(rules.apply(row[None], [place]).argmax())
        ids.append(token)
        place.write(token, rules.spans)
        if token == adapter.end_id:
            break
    return ids, place


@given(seed=st.integers(0, 10_000), favour=st.integers(0, 12))
@settings(max_examples=200)
def test_any_answer_that_does_not_end_inside_a_span_decodes(adapter, seed, favour):
    (span,) = adapter.media_spans
    size = span.codes[0].stop + 2
    logits = torch.randn(40, size, generator=torch.Generator().manual_seed(seed))
    logits[:, [span.begin_id, span.end_id, adapter.end_id]] += torch.tensor([favour, favour, 1.0])
    logits[:, size - 2 :] = float("-inf")
    ids, place = written(adapter, logits, SpanConstraints(adapter.media_spans, vocabulary_size=size, device="cpu"))
    if place.is_outside:
        pieces = adapter.decode(ids)
        assert sum(isinstance(piece, MediaBytes) for piece in pieces) == ids.count(span.begin_id)
    else:
        with pytest.raises(AnswerMalformed):
            adapter.decode(ids)


def test_codes_and_ends_are_written_in_spans_alone(adapter):
    (span,) = adapter.media_spans
    (codes,) = span.codes
    rules = SpanConstraints(adapter.media_spans, vocabulary_size=codes.stop, device="cpu")
    outside, inside = SpanState(), SpanState()
    inside.write(span.begin_id, rules.spans)
    allowed = rules.apply(torch.zeros(2, codes.stop), [outside, inside]).isfinite()
    assert set(allowed[1].nonzero().flatten().tolist()) == set(codes)
    assert set((~allowed[0]).nonzero().flatten().tolist()) == {*codes, span.end_id}


def test_what_stands_for_media_of_a_prompt_is_never_written(adapter):
    (span,) = adapter.media_spans
    size, barred = span.codes[0].stop + 2, [3, span.codes[0].stop + 1]
    rules = SpanConstraints(adapter.media_spans, vocabulary_size=size, device="cpu", unwritable=barred)
    outside, inside = SpanState(), SpanState()
    inside.write(span.begin_id, rules.spans)
    allowed = rules.apply(torch.zeros(2, size), [outside, inside]).isfinite()
    assert not allowed[:, barred].any()
    assert allowed[0, span.begin_id]
    alone = SpanConstraints([], vocabulary_size=4, device="cpu", unwritable=[1])
    assert alone.apply(torch.zeros(1, 4), [SpanState()]).isfinite().tolist() == [[True, False, True, True]]


def test_a_model_that_writes_no_media_is_left_alone():
    logits = torch.randn(2, 9)
    assert SpanConstraints([], vocabulary_size=9, device="cpu").apply(logits, [SpanState(), SpanState()]) is logits


def ids_of(part):
    return [i for ids in part for i in ids]


@st.composite
def grammars(draw):
    """Up to three spans; some begin alike, then told apart by their heads."""
    first, spans = 10, []
    for number in range(draw(st.integers(1, 3))):
        sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
        unit = []
        for size in sizes:
            unit.append((range(first, first + size),))
            first += size
        low = draw(st.integers(1, 3))
        alike = number > 0 and draw(st.booleans())
        begin = spans[-1].begin_id if alike else number
        head = (slot(6 + number), *unit[: draw(st.integers(0, 2))]) if alike or draw(st.booleans()) else ()
        codes = tuple(ids for part in unit for ids in part)
        spans.append(MediaSpan(begin, 3 + number, tuple(unit), low, low + draw(st.integers(0, 2)), codes, head))
    begins = [span.begin_id for span in spans]
    heads = [(span.begin_id, span.head[:1] or span.unit[:1]) for span in spans]
    assume(len(set(heads)) == len(heads) and all(span.head or begins.count(span.begin_id) == 1 for span in spans))
    return spans, first


@given(grammars(), st.integers(0, 10_000))
@settings(max_examples=200)
def test_whatever_the_grammar_and_the_logits_only_whole_spans_are_written(drawn, seed):
    spans, size = drawn
    logits = torch.randn(150, size, generator=torch.Generator().manual_seed(seed))
    logits[:, [span.begin_id for span in spans]] += 3
    rules, place, ids, whole = SpanConstraints(spans, vocabulary_size=size, device="cpu"), SpanState(), [], []
    for row in logits:
        if place.is_outside:
            whole, ids = [*whole, ids], []
        ids.append(int(rules.apply(row[None], [place]).argmax()))
        place.write(ids[-1], spans)
    codes = set().union(*(ids_of(span.codes) for span in spans))
    for written_ids in whole[1:]:
        if written_ids[0] in {span.begin_id for span in spans}:
            assert any(span.num_units(written_ids) for span in spans)
        else:
            assert len(written_ids) == 1 and written_ids[0] not in codes | {span.end_id for span in spans}


@given(grammars(), st.integers(0, 10_000))
@settings(max_examples=50)
def test_a_place_that_catches_up_stands_where_one_does_that_was_told_of_each_token(drawn, seed):
    spans, size = drawn
    ids = torch.randint(0, size, (60,), generator=torch.Generator().manual_seed(seed)).tolist()
    told, caught = SpanState(), SpanState()
    for count, token in enumerate(ids, start=1):
        told.write(token, spans)
        if count % 7 == 0 or count == len(ids):
            caught.catch_up(ids[:count], spans)
            assert (caught.allowed, caught.num_written) == (told.allowed, told.num_written)


def test_a_long_span_needs_one_mask_for_each_set_of_tokens_and_not_for_each_place():
    codes = (range(10, 5000),)
    row = (*(codes,) * 90, slot(5))
    span = MediaSpan(1, 2, (*row * 90, slot(6)), 1, 1, (*codes, *slot(5, 6)), (slot(3), slot(4)))
    rules, place = SpanConstraints([span], vocabulary_size=5000, device="cpu"), SpanState()
    logits = torch.zeros(1, 5000)
    for token in [1, 3, 4, *([10] * 90 + [5]) * 90, 6, 2]:
        assert rules.apply(logits, [place])[0, token] == 0
        place.write(token, [span])
    assert place.is_outside and span.max_tokens == place.num_written == 8195
    assert len(rules._forbidden) == 7


@given(low=st.integers(1, 4), more=st.integers(0, 4), frames=st.integers(0, 9))
def test_a_span_of_frames_may_end_between_its_bounds_alone(low, more, frames):
    span = MediaSpan(0, 1, (slot(10, 19), slot(20, 29)), low, low + more, slot(10, 29))
    assert bool(span.num_units([0, *[10, 20] * frames, 1])) == (low <= frames <= low + more)
    assert not span.num_units([0, *[20, 10] * frames, 1][: 2 * frames + 2]) or not frames
    place = SpanState()
    place.write(0, [span])
    ends = []
    for _ in range(low + more):
        ends.append(1 in ids_of(place.allowed))
        place.write(10, [span])
        place.write(20, [span])
    assert ends == [count >= low for count in range(low + more)]
    assert ids_of(place.allowed) == [1]
