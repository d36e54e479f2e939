"""Pairs of every subtask, with media that a browser plays long enough to mark stretches of them."""

import io
import wave
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from omnialign.content import LETTERS, content
from omnialign.media.videos import write_video
from omnialign.v1.annotation_service_pb2 import Campaign
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record, Response
from tests.services.console.conftest import Running

SECONDS = 20
COLOURS = ("teal", "goldenrod", "slateblue")
WORDS = {
    "t2t": ("Why is the sky blue?", "Air scatters blue light the most.", "Because of the sea."),
    "ti2t": ("What is in the picture?", "A teal circle, left of the middle.", "A shape."),
    "ta2t": ("How often does it beat?", "Once in two seconds.", "Often."),
    "tv2t": ("Which way does the square move?", "From left to right.", "It moves."),
    "t2i": ("Draw a circle in the middle.", "", ""),
    "t2a": ("Make a slow and steady beat.", "", ""),
    "t2v": ("Show a square that moves to the right.", "", ""),
    "ti2ti": ("Draw the circle farther to the right.", "It is 60 pixels farther.", "It is elsewhere."),
}
"""What is asked, and what both responses say."""


def picture(number: int = 0) -> bytes:
    """A circle in a frame, in one of some colours."""
    image = Image.new("RGB", (320, 240), "whitesmoke")
    ImageDraw.Draw(image).ellipse((60 + 60 * number, 60, 160 + 60 * number, 160), fill=COLOURS[number])
    return _png(image)


def thread() -> bytes:
    """A picture 1 pixel wide and 20,000 high."""
    return _png(Image.new("RGB", (1, 20_000), COLOURS[0]))


def tone(number: int = 0) -> bytes:
    """Beats of a tone."""
    at = np.arange(8000 * SECONDS) / 8000
    samples = np.sin(2 * np.pi * 220 * (number + 1) * at) * np.abs(np.sin(np.pi * at * (number + 1) / 2)) ** 3
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((20_000 * samples).astype("<i2").tobytes())
    return buffer.getvalue()


def clip(number: int = 0) -> bytes:
    """A square that crosses the picture."""
    frames = []
    for step in range(4 * SECONDS):
        image = Image.new("RGB", (160, 120), "black")
        ImageDraw.Draw(image).rectangle((step, 40, step + 30, 70), fill=COLOURS[number])
        frames.append(np.asarray(image))
    return write_video(np.stack(frames), 4)


MAKERS = {"i": picture, "a": tone, "v": clip}


async def pair_of(console: Running, subtask: str, *, record_id: str = "") -> Record:
    """A pair of a subtask; its media are in the data service."""
    (asked, _, written), (question, *answers) = subtask.partition("2"), WORDS[subtask]
    prompt = content(*[await part(console, letter, 0, question) for letter in asked])
    said = [
        content(*[await part(console, letter, side, answer) for letter in written])
        for side, answer in enumerate(answers, start=1)
    ]
    responses = [Response(content=one, source=f"model-{side}") for side, one in enumerate(said, start=1)]
    return Record(id=record_id or f"pair-{subtask}", subtask=subtask, split="train", prompt=prompt, responses=responses)


async def part(console: Running, letter: str, number: int, text: str) -> str | Media:
    """A part of a message: text for `t`, else a medium."""
    return text if letter == "t" else await uploaded(console, letter, MAKERS[letter](number))


async def uploaded(console: Running, letter: str, data: bytes) -> Media:
    """A medium in the data service."""
    return await console.client.upload_media(data, modality=LETTERS[letter])


async def campaign(console: Running, records: Sequence[Record], *, name: str = "people", overlap: int = 1) -> Campaign:
    """A campaign of some pairs."""
    dataset = await console.client.create_dataset(f"pairs-of-{name}")
    await console.client.append_records(dataset.name, records)
    version = await console.client.commit_version(dataset.name)
    fields = {"display_name": "Look and listen", "instructions": "Be fair: read, look and listen to both to the end."}
    return await console.client.create_campaign(
        name, Campaign(dataset_version=version.name, overlap=overlap, keep_sides=True, **fields)
    )


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
