"""Answers of the model in training to a few prompts held out, for people to look at.

All ranks write the same answers to the same prompts, greedily, because sharded weights are gathered by all of them;
rank 0 keeps them in `samples/step-NNNNNNNN`: texts, media as files, and beside them in `samples/reference` the answers
of the data. A model that cannot generate in the trainer costs the samples and not the run.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from omnialign.modeling.adapters import AnswerMalformed
from omnialign.modeling.inputs import MediaBytes
from omnialign.v1 import content_pb2
from training import distributed
from training.examples import Example
from training.files import write_cached
from training.media import BatchMedia

MAX_NEW_TOKENS = 256
ENDINGS: dict[int, str] = {
    content_pb2.MODALITY_IMAGE: "png",
    content_pb2.MODALITY_AUDIO: "wav",
    content_pb2.MODALITY_VIDEO: "mp4",
}
"""Of the files that codecs write."""
LOGGED_CHARACTERS = 300

log = logging.getLogger(__name__)


class SampleAnswers:
    """Writes answers to some prompts whenever it is asked."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        media: BatchMedia,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        is_sharded: bool,
    ) -> None:
        """`is_sharded` says whether each rank holds a part of each weight."""
        self._examples, self._folder, self._is_sharded = examples, folder, is_sharded
        self._media = replace(media, fillers={})  # no rank has other media than the others
        self._tokenizer, self._works = tokenizer, True

    def write(self, model: Any, *, step: int) -> None:
        """Writes a model's answers after a step. All ranks take part."""
        if not self._works:
            return
        self._keep_references()
        for number, example in enumerate(self._examples):
            try:
                ids = self._answer(model, example)
            except Exception as error:  # whatever a family's generation raises, it raises on all ranks
                log.warning("there will be no sample answers: %s: %s", type(error).__name__, error)
                self._works = False
                return
            words = self._keep(ids, self._folder / f"step-{step:08d}", number=number)
            log.info("step %d, sample %d: %s", step, number, words[:LOGGED_CHARACTERS])

    @torch.no_grad()
    def _answer(self, model: Any, example: Example) -> list[int]:
        """The ids that a model adds to a prompt."""
        made = self._media.inputs([{"media": example.media}], [example.prompt])
        ids = torch.tensor([made[0].ids], device=model.device)
        given = {name: value.to(model.device) for name, value in self._media.tensors(made, ids.cpu()).items()}
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=list(self._media.adapter.end_ids),
            pad_token_id=self._media.adapter.pad_id,
        )
        was_training = model.training
        model.eval()
        try:
            found = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                synced_gpus=self._is_sharded,
                **given,
            )
        finally:
            model.train(was_training)
        added: list[int] = found[0, ids.shape[1] :].tolist()
        return added

    def _keep_references(self) -> None:
        """Writes the prompts and the answers of the data, once."""
        folder = self._folder / "reference"
        if distributed.rank() or folder.is_dir():
            return
        for number, example in enumerate(self._examples):
            self._keep(example.answers[0], folder, number=number)
            prompt = self._tokenizer.decode(example.prompt, skip_special_tokens=True)
            write_cached(folder / f"{number}-prompt.txt", prompt.encode())

    def _keep(self, ids: Sequence[int], folder: Path, *, number: int) -> str:
        """Writes an answer's pieces on rank 0; returns its text, in which media stand by the names of their files."""
        try:
            pieces = self._media.adapter.decode(ids)
        except AnswerMalformed as error:
            pieces = (f"(an answer of {len(ids)} tokens that cannot be read: {error})",)
        words = []
        for place, piece in enumerate(pieces):
            if isinstance(piece, MediaBytes):
                name = f"{number}-{place}.{ENDINGS.get(piece.modality, 'bin')}"
                words.append(f"[{name}]")
                if distributed.rank() == 0:
                    write_cached(folder / name, piece.data)
            else:
                words.append(piece)
        text = " ".join(words)
        if distributed.rank() == 0:
            write_cached(folder / f"{number}.txt", text.encode())
        return text
