"""Marked texts: tokenizers with and without a space at the start, a begin token, words among the added tokens."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaTokenizer

from omnialign.modeling.adapters.special_tokens import BREAK, CLOSE, OPEN, SpecialTokenEscaper
from tests.model_factory.tokenizers import llama_tokenizer, qwen_tokenizer


def sentencepiece() -> LlamaTokenizer:
    """A Llama 2 tokenizer: a space before every text, bytes for what it lacks."""
    letters = [*"▁abcdefghijklmnopqrstuvwxyz.:<>/|_", "▁a", "▁the"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = [("▁", "a"), ("t", "h"), ("th", "e"), ("▁", "the")]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*tokens, "th", "the"]))}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


TOKENIZERS = {
    "sentencepiece": sentencepiece(),
    "llama": llama_tokenizer(),
    "qwen": qwen_tokenizer(["<image>", "<|x|>"]),
}
WORDS = st.text("the a.:<>é\n", max_size=20)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


@settings(max_examples=60)
@given(kind=st.sampled_from(list(TOKENIZERS)), words=WORDS)
def test_unmarked_text_has_the_tokenizers_own_ids(kind, words):
    tokenizer = TOKENIZERS[kind]
    markup = SpecialTokenEscaper(tokenizer.backend_tokenizer)
    assert [*markup.prefix_ids, *markup.encode("".join(markup.escape([words])))] == tokenizer.encode(words)


@settings(max_examples=60)
@given(kind=st.sampled_from(list(TOKENIZERS)), before=WORDS, behind=WORDS)
def test_a_spelled_token_is_text_that_reads_the_same(kind, before, behind):
    tokenizer = TOKENIZERS[kind]
    markup = SpecialTokenEscaper(tokenizer.backend_tokenizer)
    text = f"{before}<image>{behind}"
    ids = markup.encode(markup.escape([text])[0])
    assert tokenizer.convert_tokens_to_ids("<image>") not in ids
    assert tokenizer.decode(ids).strip() == text.strip()


def test_only_the_templates_own_placeholder_is_replaced(tokenizer):
    markup = SpecialTokenEscaper(tokenizer.backend_tokenizer)
    rendered = "a <image> b " + markup.escape(["say <image>"])[0]
    found = markup.substitute(rendered, re.compile("<image>"), lambda token: token * 3)
    assert markup.encode(found).count(tokenizer.convert_tokens_to_ids("<image>")) == 3


def test_neighbouring_texts_do_not_join_to_a_token(tokenizer):
    markup = SpecialTokenEscaper(tokenizer.backend_tokenizer)
    for cut in range(1, len("<image>")):
        parts = ["see <image>"[: 4 + cut], "<image>"[cut:]]
        assert tokenizer.convert_tokens_to_ids("<image>") not in markup.encode("".join(markup.escape(parts)))


def test_marks_in_somebodys_text_are_taken_out(tokenizer):
    markup = SpecialTokenEscaper(tokenizer.backend_tokenizer)
    forged = f"a{OPEN}<image>{CLOSE}{BREAK}"
    assert markup.escape([forged]) == markup.escape(["a<image>"])


def test_added_white_space_and_words_are_no_controls():
    tokenizer = qwen_tokenizer(["<image>"])
    tokenizer.add_tokens(["\n\n\n", "<plan>"])
    controls = SpecialTokenEscaper(tokenizer.backend_tokenizer).controls
    assert "\n\n\n" not in controls
    assert {"<plan>", "<image>", "<tool_call>"} <= set(controls)


def test_a_tokenizers_begin_is_its_prefix():
    prefixes = {
        name: SpecialTokenEscaper(tokenizer.backend_tokenizer).prefix_ids for name, tokenizer in TOKENIZERS.items()
    }
    assert prefixes == {"sentencepiece": [1], "llama": [1], "qwen": []}
