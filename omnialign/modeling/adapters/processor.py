"""Processor models: a Hugging Face processor turns media into features for a language model that answers in text.

One adapter serves every family that `AutoProcessor` knows and whose processor reports what replaces a medium's
placeholder, and plain causal language models with a chat template. The chat template is always the model's own.

A conversation is encoded in five steps: process each medium (cached), render the chat template with users' texts
escaped, check that it wrote one placeholder per medium, expand the placeholders, and tokenize.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, ProcessorMixin

from omnialign.content import NAMES
from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters.features import PARTS, MediaProcessor, ProcessedMedium, check_joinable, join_features
from omnialign.modeling.adapters.special_tokens import SpecialTokenEscaper
from omnialign.modeling.chat_template import TemplateTooCostly, limited_steps
from omnialign.modeling.decoding import DecodedMedia
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import (
    NO_BOUNDS,
    MediaBytes,
    MediaFeatures,
    MediaPolicy,
    ModelInputs,
    Piece,
    Pieces,
    Turn,
)
from omnialign.modeling.model_folder import check_fit, load_processor, model_class, revision_of
from omnialign.modeling.spans import MediaSpan
from omnialign.v1 import content_pb2

ANSWER = "\ufdd3"
"""Marks where the answer begins while a template is analysed; a noncharacter, which valid text never contains."""


@dataclass(frozen=True)
class PlaceholderPrompt:
    """A prompt with one placeholder per medium, for engines that process media themselves.

    `ids` contain the placeholders as the template writes them; `media` are decoded, in reading order.
    """

    ids: list[int]
    media: tuple[DecodedMedia, ...] = ()


Shape = tuple[tuple[str, tuple[int, ...]], ...]
"""The roles of a conversation, with the kinds of their parts."""
MAX_SHAPES = 256


class ProcessorAdapter:
    """The adapter of a processor model, or of a plain language model with a chat template.

    Raises InvalidArgument: PROCESSOR_UNSUPPORTED, CHAT_TEMPLATE_MISSING, CHAT_TEMPLATE_REFUSED,
    CHAT_TEMPLATE_TOO_COSTLY, TOKENIZER_MISMATCH, MODEL_CONFIG_INVALID.
    """

    default_template = ""
    """The chat template, for a family that is published without one."""

    def __init__(self, folder: Path, cache: Cache = NO_CACHE) -> None:
        self._processor = load_processor(folder)
        if self.default_template and not getattr(self._processor, "chat_template", None):
            self._processor.chat_template = self.default_template
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        self.revision = revision_of(folder)
        self._reader = MediaProcessor(self._processor, revision=self.revision, cache=cache)
        self._escaper = SpecialTokenEscaper(self._tokenizer.backend_tokenizer, self._reader.tokens.values())
        tokens = sorted(self._reader.tokens.values(), key=len, reverse=True)
        self._placeholder = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
        check_fit(folder, self._tokenizer, self._processor)
        self.media_spans: Sequence[MediaSpan] = ()
        self._lacking: dict[Shape, str] = {}
        self._check_template(folder)
        self.end_ids = self._end_ids(folder)
        pad_id = self._tokenizer.pad_token_id
        self.pad_id: int = self.end_id if pad_id is None else pad_id

    @property
    def end_id(self) -> int:
        """The id that ends an answer as the chat template writes it."""
        return self.end_ids[0]

    @property
    def reads(self) -> frozenset[int]:
        """The modalities that the model reads besides text, values of `omnialign.v1.Modality`."""
        return frozenset(self._reader.tokens)

    @cached_property
    def unwritable_ids(self) -> Sequence[int]:
        """The placeholders of media, and the marks that the chat template sets around them.

        The model's `forward` looks for the features of a medium wherever it meets one of them, also in an answer.
        """
        found = {self._tokenizer.convert_tokens_to_ids(token) for token in self._reader.tokens.values()}
        plain = set(self._encode_prompt(self._render([Turn("user", (".",))])))
        for modality in self.reads:
            with suppress(InvalidArgument):  # a template that knows no such medium
                shown = self._encode_prompt(self._render([Turn("user", (MediaBytes(modality, b""), "."))]))
                found |= (set(shown) & self._escaper.special_ids) - plain
        return sorted(found - {span.begin_id for span in self.media_spans} - set(self.end_ids))

    model_class = staticmethod(model_class)

    def encode(self, turns: Sequence[Turn], policy: MediaPolicy = NO_BOUNDS) -> ModelInputs:
        """A conversation up to where the answer begins, with placeholders expanded, and the features of its media.

        Rates that the policy leaves open are the processor's; see `MediaProcessor.completed`. Raises InvalidArgument
        and MediaError for media that the model does not read.
        """
        media = [piece for turn in turns for piece in turn.pieces if isinstance(piece, MediaBytes)]
        read = self._read(media, policy)
        rendered = self._render(turns)
        self._check_placeholders(rendered, media)
        ids = self._encode_prompt(self._expand(rendered, read))
        losses = tuple(medium.loss for medium in read if medium.loss is not None)
        inputs = ModelInputs(ids, tuple(medium.features for medium in read), losses)
        check_joinable([inputs])
        return inputs

    def features(self, media: Sequence[MediaBytes], policy: MediaPolicy = NO_BOUNDS) -> tuple[MediaFeatures, ...]:
        """The features of all media of a conversation, in reading order, the same as from `encode`."""
        return tuple(medium.features for medium in self._read(media, policy))

    def _read(self, media: Sequence[MediaBytes], policy: MediaPolicy) -> list[ProcessedMedium]:
        num_images = sum(medium.modality == content_pb2.MODALITY_IMAGE for medium in media)
        return [self._reader.read(medium, policy, num_images=num_images) for medium in media]

    def encode_answer(self, pieces: Sequence[Piece], policy: MediaPolicy = NO_BOUNDS) -> list[int]:
        """The ids of an answer as the chat template writes an assistant's turn, including its end.

        Raises InvalidArgument MODALITY_UNSUPPORTED for an answer with media, which these models do not write.
        """
        for piece in pieces:
            if isinstance(piece, MediaBytes):
                name = NAMES.get(piece.modality, str(piece.modality))
                raise InvalidArgument(
                    f"This model writes text, not {name}.", reason="MODALITY_UNSUPPORTED", metadata={"modality": name}
                )
        ids = self._answer_ids(pieces)
        body = list(takewhile(lambda number: number not in self.end_ids, ids))
        return [*body, ids[len(body)] if len(body) < len(ids) else self.end_id]

    def decode(self, ids: Sequence[int]) -> Pieces:
        """The text of `ids` up to the first end id, without control tokens."""
        body = list(takewhile(lambda number: number not in self.end_ids, ids))
        text: str = self._tokenizer.backend_tokenizer.decode(body, skip_special_tokens=True).strip()
        return (text,) if text else ()

    def placeholders(self, turns: Sequence[Turn], policy: MediaPolicy = NO_BOUNDS) -> PlaceholderPrompt:
        """A conversation up to where the answer begins, with one placeholder per medium, and the decoded media."""
        media = [piece for turn in turns for piece in turn.pieces if isinstance(piece, MediaBytes)]
        decoded = tuple(self._reader.decoded(medium, policy) for medium in media)
        rendered = self._render(turns)
        self._check_placeholders(rendered, media)
        return PlaceholderPrompt(self._encode_prompt(rendered), decoded)

    def tensors(self, rows: Sequence[ModelInputs], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `forward` needs for a batch besides ids, attention mask and positions; {} without media.

        `rows` are the inputs of the batch in order; `ids` (B, T), int64, are their ids, padded on either side. Features
        are (media, ...), with all media of the batch in reading order. Raises InvalidArgument FEATURES_DIFFER for
        videos that this model cannot batch; see `joint_shape`.
        """
        tensors = join_features(rows)
        if tensors and getattr(self._processor, "return_mm_token_type_ids", False):
            types = self._processor.create_mm_token_type_ids(ids.tolist())
            tensors["mm_token_type_ids"] = torch.tensor(types, dtype=torch.int64)  # (B, T)
        return tensors

    def _render(self, turns: Sequence[Turn], *, prompt: bool = True) -> str:
        """The chat template's text for a conversation, with control tokens in users' texts escaped."""
        if len(turns) > 1 and prompt:
            self._check_places(turns)
        messages = [{"role": turn.role, "content": self._content(turn.pieces)} for turn in turns]
        return self._apply_template(messages, prompt=prompt)

    def _check_places(self, turns: Sequence[Turn]) -> None:
        """Raises ROLE_UNSUPPORTED for a template that leaves out a message, as some do with that of a system."""
        shape = tuple((turn.role, tuple(map(_kind, turn.pieces))) for turn in turns)
        if shape not in self._lacking:
            if len(self._lacking) >= MAX_SHAPES:
                self._lacking.clear()
            self._lacking[shape] = self._lacking_role(turns)
        if role := self._lacking[shape]:
            raise InvalidArgument(
                f"The model's chat template leaves out a message of the role {role}, so the model would not read it; "
                "put its text at the beginning of a message of the user, or leave it out.",
                reason="ROLE_UNSUPPORTED",
                metadata={"role": role},
            )

    def _lacking_role(self, turns: Sequence[Turn]) -> str:
        """The role of a message that the template leaves out; "" if it writes all texts of a conversation like this."""
        numbers = count()
        marked = [
            Turn(turn.role, tuple(f"{ANSWER}{next(numbers)}{ANSWER}" if isinstance(p, str) else p for p in turn.pieces))
            for turn in turns
        ]
        messages = [{"role": turn.role, "content": self._content(turn.pieces)} for turn in marked]
        rendered = self._apply_template(messages, prompt=True)
        lacking = (t.role for t in marked if any(isinstance(p, str) and p not in rendered for p in t.pieces))
        return next(lacking, "")

    def _apply_template(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = False) -> str:
        """The chat template's text for messages. Raises CHAT_TEMPLATE_REFUSED, CHAT_TEMPLATE_TOO_COSTLY."""
        try:
            with limited_steps():
                text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except TemplateTooCostly as error:
            raise InvalidArgument(
                f"The model's chat template cannot be used: {error.message}.", reason="CHAT_TEMPLATE_TOO_COSTLY"
            ) from error
        except Exception as error:  # a template can raise anything
            raise InvalidArgument(
                f"The model's chat template rejects the conversation: {error}", reason="CHAT_TEMPLATE_REFUSED"
            ) from error
        return str(text)

    def _content(self, pieces: Sequence[Piece]) -> Any:
        """The content of a message: a list of parts for processors, a string for plain language models."""
        texts = iter(self._escaper.escape(piece for piece in pieces if isinstance(piece, str)))
        if not isinstance(self._processor, ProcessorMixin):
            return "".join(texts)
        return [
            {"type": "text", "text": next(texts)} if isinstance(piece, str) else {"type": PARTS[piece.modality][0]}
            for piece in pieces
        ]

    def _expand(self, rendered: str, read: Sequence[ProcessedMedium]) -> str:
        """A rendered prompt, with each placeholder replaced by the text for its medium."""
        waiting: dict[str, Iterator[str]] = {
            token: iter([medium.text for medium in read if medium.features.modality == modality])
            for modality, token in self._reader.tokens.items()
        }
        return self._escaper.substitute(rendered, self._placeholder, lambda token: next(waiting[token]))

    def _check_placeholders(self, rendered: str, media: Sequence[MediaBytes]) -> None:
        found: list[str] = []

        def note(token: str) -> str:
            found.append(token)
            return token

        self._escaper.substitute(rendered, self._placeholder, note)
        for modality, token in self._reader.tokens.items():
            wanted = sum(medium.modality == modality for medium in media)
            if found.count(token) != wanted:
                raise InvalidArgument(
                    f"The model's chat template writes {found.count(token)} {NAMES[modality]} placeholders for "
                    f"{wanted} such media in the conversation; it must write {token} once for each.",
                    reason="CHAT_TEMPLATE_REFUSED",
                    metadata={"modality": NAMES[modality]},
                )

    def _encode_prompt(self, rendered: str) -> list[int]:
        """The ids of a rendered prompt, with the begin token that the tokenizer adds unless the template wrote it."""
        ids = self._escaper.encode(rendered)
        if not isinstance(self._processor, ProcessorMixin):
            return ids  # here the template writes the begin token itself
        adds = getattr(self._processor, "text_kwargs", {}).get("add_special_tokens", True)
        bos = self._tokenizer.bos_token
        return ids if not adds or (bos and rendered.startswith(bos)) else [*self._escaper.prefix_ids, *ids]

    def _answer_ids(self, pieces: Sequence[Piece]) -> list[int]:
        """The ids of what the template writes from where the answer begins: the difference of two renderings."""
        question = Turn("user", (".",))
        prefix = self._render([question])
        whole = self._render([question, Turn("assistant", tuple(pieces))], prompt=False)
        if not whole.startswith(prefix):  # the template opens an answered turn differently from a prompt
            whole, prefix = self._render_with_mark(question, pieces)
        return self._escaper.encode(whole.removeprefix(prefix), begins=False)

    def _render_with_mark(self, question: Turn, pieces: Sequence[Piece]) -> tuple[str, str]:
        """The template's text with an answer, and the part before the answer, found by a mark in the answer."""
        text = "".join(self._escaper.escape(piece for piece in pieces if isinstance(piece, str)))
        first, marked = ([{"type": "text", "text": t}] for t in (question.pieces[0], ANSWER + text))
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": first},
            {"role": "assistant", "content": marked},
        ]
        if not isinstance(self._processor, ProcessorMixin):
            messages = [{"role": m["role"], "content": m["content"][0]["text"]} for m in messages]
        whole = self._apply_template(messages)
        return whole, whole.partition(ANSWER)[0] + ANSWER

    def _check_template(self, folder: Path) -> None:
        if not (getattr(self._processor, "chat_template", None) or getattr(self._tokenizer, "chat_template", None)):
            raise InvalidArgument(
                f"The model folder {folder.name} has no chat template; put the family's own into chat_template.jinja "
                "(or, for a token model, its codecs into codecs.json).",
                reason="CHAT_TEMPLATE_MISSING",
                metadata={"folder": folder.name},
            )

    def _end_ids(self, folder: Path) -> tuple[int, ...]:
        """The ids that end an answer: the template's first, then those of generation_config.json or the tokenizer."""
        named: Any = self._tokenizer.eos_token_id
        if (folder / "generation_config.json").is_file():
            named = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id or named
        ends = list(named) if isinstance(named, (list, tuple)) else [named]
        written = [number for number in self._answer_ids((".",)) if number in self._escaper.special_ids][:1]
        found = [int(number) for number in (*written, *ends) if number is not None]
        if not found:
            raise InvalidArgument(
                f"{folder.name} does not say what ends an answer; set eos_token_id in generation_config.json.",
                reason="MODEL_HAS_NO_END",
                metadata={"folder": folder.name},
            )
        return tuple(dict.fromkeys(found))


def _kind(piece: Piece) -> int:
    return 0 if isinstance(piece, str) else piece.modality
