"""The bytes of many media: those in one object are read together, and objects that are far away at the same time."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from omnialign.errors import NotFound, OmnialignError
from services.data.media_store import MediaStore, corrupt, missing
from services.data.objects import LocalObjectStore, ObjectStore
from services.data.packed_media import Place


class PlacedMedia:
    """Reads media that lie in known places. Blocking; what is read together is held in memory."""

    def __init__(self, media: MediaStore, *, objects: ObjectStore, fetchers: ThreadPoolExecutor) -> None:
        """`fetchers` are threads for requests to an object store that is not on this machine."""
        self._media, self._objects = media, objects
        self._map = map if isinstance(objects, LocalObjectStore) else fetchers.map

    def fetch(self, digests: Collection[str]) -> dict[str, bytes]:
        """The bytes of media by digest, verified. Raises MEDIA_NOT_FOUND, MEDIA_CORRUPT."""
        places = dict[str, Place]()
        for digest, place in self._media.places(digests).items():
            if isinstance(place, OmnialignError):
                raise place
            places[digest] = place
        found = dict[str, bytes]()
        for digest, data in self.read(places).items():
            if isinstance(data, OmnialignError):
                raise data
            if hashlib.sha256(data).hexdigest() != digest:
                raise corrupt(digest)
            found[digest] = data
        return found

    def read(self, places: Mapping[str, Place]) -> dict[str, bytes | OmnialignError]:
        """The bytes of media by digest, not verified, or why there are none."""
        by_key = defaultdict[str, dict[str, Place]](dict)
        for digest, place in places.items():
            by_key[place.key][digest] = place
        return {digest: data for some in self._map(self._read_object, by_key.values()) for digest, data in some.items()}

    def _read_object(self, places: Mapping[str, Place]) -> dict[str, bytes | OmnialignError]:
        key = next(iter(places.values())).key
        try:
            found = self._objects.read_ranges(key, [(place.offset, place.size_bytes) for place in places.values()])
        except NotFound:
            return {digest: missing(digest) for digest in places}
        return {
            digest: data if len(data) == place.size_bytes else corrupt(digest)
            for (digest, place), data in zip(places.items(), found, strict=True)
        }
