"""How a format spells a prompt, its answers and their media: names of columns, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.data.importing.columns import AUDIO, IMAGE, VIDEO

MEDIA: Mapping[int, tuple[str, ...]] = {
    IMAGE: ("images", "image"),
    AUDIO: ("audios", "audio"),
    VIDEO: ("videos", "video"),
}
TOOLS = "TOOLS_UNSUPPORTED"
UNREAD = "COLUMN_UNSUPPORTED"
WHY = {
    TOOLS: "calls of tools have no place in a record",
    UNREAD: "it has no place in a record, and `--ignore {column}` leaves it out",
}
"""What is said of a row that would lose something."""


@dataclass(frozen=True)
class Spelling:
    """The columns of a format. Of alternatives, one that holds a value is read."""

    prompt: tuple[str, ...] = ()
    """The prompt, as text or messages."""
    system: tuple[str, ...] = ("system",)
    """What a system is told: text, and the first message."""
    history: tuple[str, ...] = ("history",)
    """Pairs of a prompt and its answer that came before a prompt as text."""
    input: tuple[str, ...] = ()
    """Text that goes on the prompt after a line break."""
    conversation: tuple[str, ...] = ()
    """Messages that begin with the prompt; the last may be the first answer."""
    answer: tuple[str, ...] = ()
    """The only answer: text, a message, or messages that may begin with the prompt."""
    chosen: tuple[str, ...] = ()
    """The better of two answers."""
    rejected: tuple[str, ...] = ()
    """The worse one."""
    label: tuple[str, ...] = ()
    """Whether the only answer is good: true or false."""
    media: Mapping[int, tuple[str, ...]] = field(default_factory=lambda: MEDIA)
    """Media by modality, in the order in which their places follow one another."""
    has_markers: bool = False
    """Whether a text `<image>` always stands for a medium; otherwise only in rows with such media."""
    unsupported: Mapping[str, str] = field(default_factory=dict)
    """Columns that a record has no place for, with the reason to set a row aside that has a value in one."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are looked at."""
        texts = (*self.prompt, *self.system, *self.history, *self.input, *self.conversation, *self.answer)
        return (
            *texts,
            *self.chosen,
            *self.rejected,
            *self.label,
            *(name for names in self.media.values() for name in names),
            *self.unsupported,
        )
