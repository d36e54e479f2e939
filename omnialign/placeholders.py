"""Media at the places in a text where its markers stand, such as `<image>`: read and written.

A marker stands for the next medium, a numbered one (`<image_2>`) for that medium. Media without a marker follow the
last marker, so that one `<image>` may stand for several; in a text without markers they come first, or last in an
answer. A marker for which no medium is left is text.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from omnialign.v1.content_pb2 import Media

KIND_MARKER = re.compile(r"<(image|audio|video)>")
SPELLINGS = {"image": "image|img|picture", "audio": "audio|sound|speech", "video": "video"}


def place(text: str, media: Sequence[Media], kind: str, *, media_first: bool = True) -> list[str | Media]:
    """The parts of a message in order. Blank texts and line breaks beside a marker are left out."""
    if not media:
        return [text]
    texts, groups, left = [""], list[list[Media]](), dict(enumerate(media))
    end = 0
    for match in _marker(kind).finditer(text):
        wanted = int(match["number"]) - 1 if match["number"] else next(iter(left), -1)
        if wanted in left:
            texts[-1] += text[end : match.start()]
            groups.append([left.pop(wanted)])
            texts.append("")
            end = match.end()
    texts[-1] += text[end:]
    if not groups:
        return [*media, text] if media_first else [text, *media]
    groups[-1] += left.values()
    return between_media(texts, groups)


def at_markers(text: str, take: Callable[[str], Media | None]) -> list[str | Media]:
    """The parts of a text with a medium for each of `<image>`, `<audio>` and `<video>`, in order.

    `take` gives the next medium of a kind, or None where a marker is text.
    """
    texts, media, end = [""], list[Media](), 0
    for match in KIND_MARKER.finditer(text):
        if (medium := take(match[1])) is not None:
            media.append(medium)
            texts[-1] += text[end : match.start()]
            texts.append("")
            end = match.end()
    texts[-1] += text[end:]
    return between_media(texts, [[one] for one in media])


def with_markers(parts: Sequence[str | Media], kind_of: Callable[[Media], str]) -> str:
    """The text with `<image>`, `<audio>` or `<video>` for each medium, which `at_markers` takes apart into these parts.

    Raises ValueError for parts that no text gives: two texts in a row, a text with a marker, or one that ends in a line
    break where a medium follows.
    """
    text = "".join(part if isinstance(part, str) else f"<{kind_of(part)}>" for part in parts)
    media = [part for part in parts if not isinstance(part, str)]
    if len(KIND_MARKER.findall(text)) != len(media):
        raise ValueError("its text has what looks like the place of a medium")
    left = iter(media)
    if at_markers(text, lambda _: next(left, None)) != list(parts):
        raise ValueError("its text does not tell where each medium stands" if media else "its text is in pieces")
    return text


def between_media(texts: Sequence[str], groups: Sequence[Sequence[Media]]) -> list[str | Media]:
    """The texts with a group of media between each two. Blank texts and line breaks beside media are left out."""
    trimmed = [_trimmed(one, is_first=i == 0, is_last=i == len(groups)) for i, one in enumerate(texts)]
    parts: list[str | Media] = [trimmed[0]]
    for group, one in zip(groups, trimmed[1:], strict=True):
        parts += [*group, one]
    return [part for part in parts if part != ""]


def written(parts: Sequence[str | Media], kind: str) -> str:
    """The text with a marker for each medium, which `place` takes apart into these parts again.

    Raises ValueError for parts that no text gives: two texts in a row, a text that looks like a marker, or one that
    ends in a line break where a medium follows.
    """
    text = "".join(part if isinstance(part, str) else f"<{kind}>" for part in parts)
    media = [part for part in parts if not isinstance(part, str)]
    if place(text, media, kind) != list(parts):
        raise ValueError(f"its text does not tell where each {kind} stands" if media else "its text is in pieces")
    return text


@lru_cache
def _marker(kind: str) -> re.Pattern[str]:
    return re.compile(rf"<\|?(?:{SPELLINGS[kind]})(?:[ _-]?(?P<number>\d{{1,4}}))?\|?>", re.IGNORECASE)


def _trimmed(text: str, *, is_first: bool, is_last: bool) -> str:
    """A text between markers without the line breaks beside them; blanks within a line stay."""
    if not text.strip():
        return ""
    if not is_first:
        text = re.sub(r"\A\s*\n\s*", "", text)
    if not is_last:
        text = re.sub(r"\s*\n\s*\Z", "", text)
    return text
