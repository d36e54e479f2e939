"""Where the object store has media: `media/sha256/ab/cdef...`, and the types of some: `media/types/ab/cdef...`."""

MEDIA, TYPES = "media/sha256/", "media/types/"


def media_key(sha256: str) -> str:
    """The key of a medium that is an object of its own."""
    return MEDIA + split(sha256)


def type_key(sha256: str) -> str:
    """The key of the type of such a medium, if its first bytes do not tell it."""
    return TYPES + split(sha256)


def digest_in(key: str, prefix: str) -> str:
    """The digest in a key that begins with `MEDIA` or `TYPES`."""
    return key.removeprefix(prefix).replace("/", "")


def split(digest: str) -> str:
    """A digest as a path: no folder gets too many entries."""
    return f"{digest[:2]}/{digest[2:]}"
