"""Media files that data files refer to by path."""

from pathlib import Path

from omnialign.modeling.inputs import MediaBytes
from omnialign.v1 import content_pb2

SUFFIXES: dict[int, str] = {
    content_pb2.MODALITY_IMAGE: "png",
    content_pb2.MODALITY_AUDIO: "wav",
    content_pb2.MODALITY_VIDEO: "mp4",
}


def file_name(media: MediaBytes) -> str:
    """The name of a medium, by its content."""
    return f"{media.sha256[:24]}.{SUFFIXES[media.modality]}"


def save_in(target: Path, folder: str, media: MediaBytes) -> str:
    """Saves a medium in a folder of `target`; returns its path there."""
    path = target / folder / file_name(media)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(media.data)
    return f"{folder}/{path.name}"
