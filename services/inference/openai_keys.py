"""Keys of endpoints, from a file of the operator's. A key goes to its endpoint alone and into no message."""

from pathlib import Path

from omnialign.errors import InvalidArgument
from services.inference.openai_names import base_url_of
from services.runtime.auth.watched import Watched


class Keys:
    """The keys by endpoint; none at all without a file. The file is read again when it changes."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else Watched(path, parse_keys)

    def of(self, base_url: str) -> str:
        """The key of an endpoint; empty for one without."""
        return "" if self._file is None else self._file.current().get(base_url, "")


def parse_keys(text: str) -> dict[str, str]:
    """Keys by base URL, of lines `BASE_URL KEY`; empty lines and those that begin with # count for nothing.

    Raises InvalidArgument OPENAI_KEYS_INVALID with the number of the first line in another form.
    """
    keys = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not words[1].isascii():
            raise _invalid(number)
        try:
            keys[base_url_of(words[0], model=words[0])] = words[1]
        except InvalidArgument:  # its message would repeat a line that may hold a key
            raise _invalid(number) from None
    return keys


def _invalid(number: int) -> InvalidArgument:
    return InvalidArgument(
        f"Line {number} of the file of keys is not BASE_URL KEY.",
        reason="OPENAI_KEYS_INVALID",
        metadata={"line": str(number)},
    )
