"""How counts and sizes read in a sentence."""

UNITS = ("KiB", "MiB", "GiB", "TiB")


def counted(count: int, noun: str) -> str:
    """`1 row`, `2,000 rows`: a count with its noun, whose plural takes an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size_text(size_bytes: float) -> str:
    """Bytes in the unit that reads best: `311 bytes`, `1.5 KiB`."""
    if size_bytes < 1024:
        return counted(round(size_bytes), "byte")
    for unit in UNITS:
        size_bytes /= 1024
        if size_bytes < 1024 or unit == UNITS[-1]:
            return f"{size_bytes:,.1f} {unit}"
    raise AssertionError("the last unit takes any size")
