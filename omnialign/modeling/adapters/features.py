"""Media features: what a Hugging Face processor makes of one medium, and how the features of a batch are joined.

One path for all families: the processor gets a medium with a bare placeholder as the text, and reports what it replaced
the placeholder with. So each medium is processed once, whatever prompts it appears in, and kept in the feature cache.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import ProcessorMixin

from omnialign.content import NAMES
from omnialign.errors import InvalidArgument
from omnialign.media import MediaError
from omnialign.modeling.decoding import DecodedMedia, decode, resampled
from omnialign.modeling.feature_cache import Cache, feature_key, split_loss, with_loss
from omnialign.modeling.feature_file import Arrays
from omnialign.modeling.inputs import MediaBytes, MediaFeatures, MediaLoss, MediaPolicy, ModelInputs
from omnialign.v1 import content_pb2

FRAMES_PER_SECOND = 2.0
"""Rate at which videos are sampled if neither the job's policy nor the processor sets one."""
TEXT = "replacement"
NOT_FEATURES = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "text_replacement_offsets", "video_metadata"}
)
PARTS: dict[int, tuple[str, str, str]] = {
    content_pb2.MODALITY_IMAGE: ("image", "image_processor", "images"),
    content_pb2.MODALITY_AUDIO: ("audio", "feature_extractor", "audio"),
    content_pb2.MODALITY_VIDEO: ("video", "video_processor", "videos"),
}
"""For each modality: its name, the attribute of its sub-processor, and the processor's argument."""
MULTI_IMAGE_PROCESSORS = frozenset({"LlavaOnevisionProcessor"})
"""Processors that prepare an image differently when the conversation holds several."""


@dataclass(frozen=True)
class ProcessedMedium:
    """A medium as the model sees it: its features, the text that replaces its placeholder, and what was left out."""

    features: MediaFeatures
    text: str
    loss: MediaLoss | None = None


class MediaProcessor:
    """The media side of a processor. Safe for threads. `tokens` are the placeholders of the modalities it reads."""

    def __init__(self, processor: Any, *, revision: str, cache: Cache) -> None:
        self._processor, self._revision, self._cache = processor, revision, cache
        self.tokens: Mapping[int, str] = {
            modality: str(getattr(processor, f"{name}_token"))
            for modality, (name, part, _) in PARTS.items()
            if _is_generic(processor, name, part)
        }

    def read(self, medium: MediaBytes, policy: MediaPolicy, *, num_images: int = 1) -> ProcessedMedium:
        """The features of one medium of a conversation with `num_images` images.

        Raises MediaError: what decoding raises, MEDIA_REFUSED by the processor, MEDIA_TOO_SHORT, AUDIO_TOO_LONG.
        """
        self.check_reads(medium.modality)
        several = medium.modality == content_pb2.MODALITY_IMAGE and num_images > 1 and self._is_multi_image
        key = feature_key(medium.sha256, f"{self._revision}/{medium.modality}/{int(several)}", policy)
        arrays, loss = split_loss(self._cache.get(key, lambda: self._make(medium, policy, 1 + several)))
        features = {name: array for name, array in arrays.items() if name != TEXT}
        return ProcessedMedium(MediaFeatures(medium.modality, features), arrays[TEXT].tobytes().decode(), loss)

    def decoded(self, medium: MediaBytes, policy: MediaPolicy) -> DecodedMedia:
        """The medium decoded under `completed(policy)`; cached as well."""
        self.check_reads(medium.modality)
        key = feature_key(medium.sha256, f"{self._revision}/{medium.modality}/decoded", policy)
        arrays, loss = split_loss(self._cache.get(key, lambda: _packed(self._decode(medium, policy))))
        times = tuple(arrays["times"].tolist())
        return DecodedMedia(medium.modality, arrays["array"], float(arrays["rate"]), times, loss)

    def check_reads(self, modality: int) -> None:
        """Raises InvalidArgument MODALITY_UNSUPPORTED or PROCESSOR_UNSUPPORTED for what the model cannot read."""
        if modality in self.tokens:
            return
        name, part, _ = PARTS.get(modality, (NAMES.get(modality, str(modality)), "", ""))
        if getattr(self._processor, part or "-", None) is None:
            raise InvalidArgument(
                f"This model does not read {name}.", reason="MODALITY_UNSUPPORTED", metadata={"modality": name}
            )
        raise InvalidArgument(
            f"{type(self._processor).__name__} does not report what replaces the {name} placeholder, so the family "
            "needs an adapter of its own.",
            reason="PROCESSOR_UNSUPPORTED",
            metadata={"processor": type(self._processor).__name__, "modality": name},
        )

    def completed(self, policy: MediaPolicy) -> MediaPolicy:
        """The policy by which media are decoded: the processor's own rates and limits where `policy` sets none.

        Video: the frame rate and the number of frames of the video processor, or two frames per second if it has
        neither. Audio: the sampling rate of the feature extractor.
        """
        video = getattr(self._processor, "video_processor", None)
        number = getattr(video, "num_frames", None)
        rate = getattr(video, "fps", None) or (0.0 if number else FRAMES_PER_SECOND)
        return replace(
            policy,
            frames_per_second=policy.frames_per_second or float(rate),
            max_frames=policy.max_frames or int(number or getattr(video, "max_frames", None) or 0),
            sample_rate_hz=policy.sample_rate_hz or self._sampling_rate_hz,
        )

    @property
    def _sampling_rate_hz(self) -> int:
        return int(getattr(getattr(self._processor, "feature_extractor", None), "sampling_rate", 0))

    @property
    def _is_multi_image(self) -> bool:
        return type(self._processor).__name__ in MULTI_IMAGE_PROCESSORS

    def _decode(self, medium: MediaBytes, policy: MediaPolicy) -> DecodedMedia:
        decoded = decode(medium, self.completed(policy))
        if medium.modality == content_pb2.MODALITY_AUDIO and decoded.rate != self._sampling_rate_hz:
            samples = resampled(decoded.array, int(decoded.rate), self._sampling_rate_hz)
            decoded = replace(decoded, array=samples, rate=float(self._sampling_rate_hz))
        return decoded

    def _make(self, medium: MediaBytes, policy: MediaPolicy, copies: int) -> Arrays:
        decoded = self._decode(medium, policy)
        self._check_length(decoded)
        output = self._process(decoded, copies)
        text, name = output["text_replacement_offsets"][0][0]["replacement"], NAMES[medium.modality]
        if self.tokens[medium.modality] not in text:
            raise MediaError(
                f"The {name} is too short to give even one token for this model.", reason="MEDIA_TOO_SHORT"
            )
        arrays = {name: _array(value) for name, value in output.items() if name not in NOT_FEATURES}
        if copies > 1:  # keep one of the identical copies; arrays of length 1 describe the conversation as a whole
            arrays = {name: a[: len(a) // copies] if len(a) > 1 else a for name, a in arrays.items()}
        return with_loss({**arrays, TEXT: np.frombuffer(text.encode(), dtype=np.uint8)}, decoded.loss)

    def _process(self, decoded: DecodedMedia, copies: int) -> Any:
        """The processor's output for `copies` copies of a medium. Raises MediaError MEDIA_REFUSED."""
        try:
            return self._processor(
                text=[self.tokens[decoded.modality] * copies],
                return_tensors="pt",
                return_text_replacement_offsets=True,
                **_arguments(decoded, copies),
            )
        except Exception as error:  # processors raise all kinds of errors
            raise MediaError(
                f"{type(self._processor).__name__} refuses the {NAMES[decoded.modality]}: {error}",
                reason="MEDIA_REFUSED",
            ) from error

    def _check_length(self, decoded: DecodedMedia) -> None:
        """Feature extractors cut audio silently; here nothing is cut unless the policy says so."""
        extractor = getattr(self._processor, "feature_extractor", None)
        max_samples = getattr(extractor, "n_samples", 0)
        cuts = getattr(self._processor, "audio_kwargs", {}).get("truncation", True)
        if decoded.modality == content_pb2.MODALITY_AUDIO and cuts and 0 < max_samples < len(decoded.array):
            raise MediaError(
                f"The audio is {len(decoded.array) / decoded.rate:g} seconds long and this model takes at most "
                f"{max_samples / decoded.rate:g}; set max_audio_seconds in the media policy to cut it.",
                reason="AUDIO_TOO_LONG",
            )


def video_metadata(decoded: DecodedMedia) -> dict[str, Any]:
    """The metadata of a video that is sampled already, as processors expect it: the kept frames are all there are.

    `frames_indices` divided by `fps` gives the times of the frames.
    """
    rate = decoded.rate or 1.0
    return {
        "fps": rate,
        "total_num_frames": len(decoded.array),
        "duration": len(decoded.array) / rate,
        "frames_indices": [round(time * rate, 6) for time in decoded.times_seconds],
        "height": decoded.array.shape[1],
        "width": decoded.array.shape[2],
    }


def _is_generic(processor: Any, name: str, part: str) -> bool:
    """Whether a processor reads a modality and reports what replaces its placeholder."""
    method, base = f"replace_{name}_token", ProcessorMixin
    return (
        isinstance(processor, base)
        and getattr(processor, part, None) is not None
        and getattr(processor, f"{name}_token", None) is not None
        and getattr(type(processor), method, None) is not getattr(base, method)
    )


def _arguments(decoded: DecodedMedia, copies: int) -> dict[str, Any]:
    """The processor's arguments for a medium, which make it sample nothing again."""
    if decoded.modality == content_pb2.MODALITY_IMAGE:
        return {
            "images": [[Image.fromarray(decoded.array)] * copies]
        }  # PIL, because the axes of an array would be guessed
    if decoded.modality == content_pb2.MODALITY_AUDIO:
        return {"audio": [decoded.array], "audio_kwargs": {"sampling_rate": int(decoded.rate)}}
    known = video_metadata(decoded)
    options = {"do_sample_frames": False, "fps": known["fps"], "video_metadata": [known], "return_metadata": True}
    frames = torch.from_numpy(np.ascontiguousarray(decoded.array)).permute(0, 3, 1, 2)  # (frames, 3, height, width)
    return {"videos": [frames], "videos_kwargs": {**options, "input_data_format": "channels_first"}}


def _array(value: Any) -> NDArray[Any]:
    """A processor's output as an array: it is a tensor, or a list with one item per medium."""
    found: NDArray[Any] = np.asarray(value.numpy() if isinstance(value, torch.Tensor) else value)
    return found


def _packed(decoded: DecodedMedia) -> Arrays:
    arrays = {
        "array": decoded.array,
        "rate": np.asarray(decoded.rate, dtype=np.float64),
        "times": np.asarray(decoded.times_seconds, dtype=np.float64),
    }
    return with_loss(arrays, decoded.loss)


COUNT_ARRAYS = frozenset({"batch_num_images"})
"""Arrays that hold the number of images of a conversation, rather than something about one medium."""
NEVER_PADDED = frozenset({"pixel_values_videos"})
"""Arrays in which a model would take padding for content: videos, in families that batch whole videos."""

Shape = tuple[int, ...]


def join_features(rows: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
    """The tensors (media, ...) of all media of a batch in reading order, by argument name; {} without media.

    Arrays of different sizes are zero-padded at the end of their axes, as the processors themselves do with several
    media. Raises InvalidArgument FEATURES_DIFFER.
    """
    check_joinable(rows)
    parts: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for row in rows:
        for name, array in _arrays(row.features):
            parts[name].append(array)
    return {name: torch.from_numpy(np.concatenate(_padded(arrays))) for name, arrays in parts.items()}


def item_owners(media: Sequence[tuple[int, Sequence[MediaFeatures]]]) -> dict[str, list[int]]:
    """Whose each item of the tensors is that `join_features` makes of media, by argument name.

    `media` are those of the batch in reading order, each run of them with the number of its owner.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for owner, own in media:
        for name, array in _arrays(own):
            found[name] += [owner] * len(array)
    return dict(found)


def joint_shape(row: ModelInputs) -> Shape | None:
    """The shape that all videos of a batch must have if this row is in it; None if the row does not restrict it."""
    shapes = [array.shape[1:] for name, array in _arrays(row.features) if name in NEVER_PADDED]
    return shapes[0] if shapes else None


def check_joinable(rows: Sequence[ModelInputs]) -> None:
    """Raises InvalidArgument FEATURES_DIFFER if videos of different length would have to be padded."""
    shapes = {array.shape[1:] for row in rows for name, array in _arrays(row.features) if name in NEVER_PADDED}
    if len(shapes) > 1:
        found = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
        raise InvalidArgument(
            f"This model batches videos of one shape only, and these have {found}; set max_frames in the media policy "
            "so that all have the same number of frames.",
            reason="FEATURES_DIFFER",
            metadata={"shapes": found},
        )


def _arrays(media: Sequence[MediaFeatures]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a row's media by name. Image counts are added up into one array for the row."""
    counts: dict[str, int] = defaultdict(int)
    for medium in media:
        for name, array in medium.arrays.items():
            if name in COUNT_ARRAYS:
                counts[name] += 1
            else:
                yield name, array
    for name, count in counts.items():
        yield name, np.array([count])


def _padded(parts: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
    """The arrays, zero-padded to equal sizes in all axes but the first."""
    shapes = [part.shape[1:] for part in parts]
    if len(set(shapes)) == 1:
        return parts
    longest = np.max(shapes, axis=0)
    missing = [[(0, int(m - n)) for m, n in zip(longest, shape, strict=True)] for shape in shapes]
    return [np.pad(part, [(0, 0), *widths]) for part, widths in zip(parts, missing, strict=True)]
