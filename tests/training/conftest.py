"""A tiny model folder with text only, and annotated records."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from omnialign.content import content
from omnialign.v1 import record_pb2

CONTROL = ["<pad>", "<s>", "</s>", "<user>", "<assistant>", "<unk>"]
LETTERS = [chr(code) for code in range(33, 127)]


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """Tokenizer and codecs of a text-only token model; one token per character."""
    folder = tmp_path / "base"
    folder.mkdir()
    vocabulary = {token: index for index, token in enumerate([*CONTROL, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(CONTROL[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "codecs.json").write_text(json.dumps({"codecs": []}))
    return folder


@pytest.fixture
def record() -> record_pb2.Record:
    """A prompt with a bad and a good response, both with feedback; the second is preferred."""

    def response(words: str, critique: str, score: int) -> record_pb2.Response:
        scores = [record_pb2.DimensionScore(dimension=d, score=score, rationale="so") for d in DIMENSIONS]
        feedback = record_pb2.Feedback(critique=critique, refinement="mend it", scores=scores)
        return record_pb2.Response(content=content(words), feedback=feedback)

    from omnialign.rubrics import rubric

    DIMENSIONS = rubric("t2t")  # noqa: N806
    return record_pb2.Record(
        id="r1",
        subtask="t2t",
        split="train",
        prompt=content("greet me"),
        responses=[response("bye", "it is rude", 0), response("hello", "it is kind", 3)],
        preference=record_pb2.Preference(preferred=2, reason="the second greets"),
    )
