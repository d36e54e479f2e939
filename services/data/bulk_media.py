"""Many media in one stream: alone, or with the records that name them.

Media are looked up together, and those of a message are read together in a thread while the message before it is being
sent. So a stream holds two messages, however many media it has and however slowly its caller reads. Their bytes are
not hashed here: the caller does that anyway. They are copied once, from where they were read into the response.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from omnialign.errors import OmnialignError, to_status
from omnialign.media_window import MediaWindow
from omnialign.read_ahead import read_ahead
from omnialign.v1 import content_pb2, data_service_pb2
from services.data.binary_form import field as field_of
from services.data.media_store import MediaStore, corrupt, reference
from services.data.objects import LocalObjectStore, ObjectStore
from services.data.objects.base import run_in_pool
from services.data.packed_media import PREFIX, Place
from services.data.placed_media import PlacedMedia
from services.data.stored_records import StoredRecords, as_response

MESSAGE_BYTES = 1024 * 1024
LINKED_BYTES, LINKED_OBJECTS, MESSAGE_MEDIA = 32 * 1024 * 1024, 128, 1024
"""The most that the links of a message lead to: its reader may hold the bytes, and the objects as open files."""
FIRST_LOOKED_UP, MAX_LOOKED_UP = 128, 1024
"""Media, or records with theirs, that are looked up together: few at first, so that the first message soon goes out,
and then twice as many each time, while it is read."""

T = TypeVar("T")
Item = data_service_pb2.MediaItem
DATA = Item.DATA_FIELD_NUMBER
STREAM_MEDIA = data_service_pb2.StreamRecordsResponse.MEDIA_FIELD_NUMBER
READ_MEDIA = data_service_pb2.ReadMediaResponse.MEDIA_FIELD_NUMBER
Found = Place | OmnialignError
Delivery = data_service_pb2.MediaDelivery


class _Sent(NamedTuple):
    """A medium, and the bytes of it that are to be the item's data."""

    item: Item
    data: bytes = b""


@dataclass
class _Group:
    """What goes into one message, or into several if a medium is large."""

    places: dict[str, Found] = field(default_factory=dict)
    records: list[bytes] = field(default_factory=list)
    named: list[list[str]] = field(default_factory=list)
    """The digests that each record names."""
    keys: set[str] = field(default_factory=set)
    """The objects that the media are in."""
    size_bytes: int = 0

    def is_full(self, max_bytes: int) -> bool:
        is_wide = len(self.places) >= MESSAGE_MEDIA or len(self.keys) >= LINKED_OBJECTS
        return is_wide or self.size_bytes >= max_bytes


@dataclass
class _Message:
    """Media with their bytes, or where they are in files, and the records that come with the last of them."""

    items: Sequence[_Sent]
    files: data_service_pb2.MediaFiles | None = None
    records: Sequence[bytes] = ()
    named_counts: Sequence[int] = ()
    named_media: Sequence[int] = ()


class BulkMedia:
    """Reads media for streams."""

    def __init__(
        self,
        media: MediaStore,
        *,
        objects: ObjectStore,
        placed: PlacedMedia,
        pool: ThreadPoolExecutor,
        link_seconds: float,
        file_links: bool,
    ) -> None:
        self._media, self._objects, self._placed, self._pool = media, objects, placed, pool
        self._link_seconds = link_seconds
        is_local = isinstance(objects, LocalObjectStore)
        self._is_local, self._folder = is_local, objects.uri if is_local and file_links else ""

    async def read(self, digests: Sequence[str], delivery: Delivery) -> AsyncIterator[bytes]:
        """The media in responses, in protobuf's binary form. One that cannot be read is an error of its own."""
        groups = _media_groups(self._media, digests, self._group_bytes(delivery))
        async for message in read_ahead(self._in_thread(self._messages(groups, delivery))):
            others = data_service_pb2.ReadMediaResponse(files=message.files)
            yield b"".join([others.SerializeToString(), *_media(READ_MEDIA, message.items)])

    async def with_records(self, batches: AsyncIterator[StoredRecords], delivery: Delivery) -> AsyncIterator[bytes]:
        """The records, each after the media that it names, as responses in protobuf's binary form."""
        async for message in read_ahead(self._of_batches(batches, delivery)):
            others = data_service_pb2.StreamRecordsResponse(
                files=message.files, named_counts=message.named_counts, named_media=message.named_media
            )
            records, media = as_response(message.records), _media(STREAM_MEDIA, message.items)
            yield b"".join([records, others.SerializeToString(), *media])

    async def _of_batches(
        self, batches: AsyncIterator[StoredRecords], delivery: Delivery
    ) -> AsyncGenerator[_Message, None]:
        # A place in a file is shorter than what it would take to say that it was sent before.
        window, counts = MediaWindow[bool]() if not self._is_by_file(delivery) else None, _looked_up()
        async for batch in batches:
            groups = _record_groups(self._media, batch, window, self._group_bytes(delivery), counts)
            async for message in self._in_thread(self._messages(groups, delivery)):
                yield message

    async def _in_thread(self, messages: Iterator[_Message]) -> AsyncGenerator[_Message, None]:
        while (message := await run_in_pool(self._pool, next, messages, None)) is not None:
            yield message

    def _messages(self, groups: Iterable[_Group], delivery: Delivery) -> Iterator[_Message]:
        """The media of the groups in messages of about MESSAGE_BYTES; the last one of a group has its records."""
        for group in groups:
            if self._is_by_file(delivery):
                yield _by_file(self._folder, group)
                continue
            items, size_bytes = list[_Sent](), 0
            for sent in self._items(group.places, delivery):
                if items and size_bytes + len(sent.data) > MESSAGE_BYTES:
                    yield _Message(items)
                    items, size_bytes = [], 0
                items.append(sent)
                size_bytes += len(sent.data)
            yield _Message(items, records=group.records)

    def _items(self, places: dict[str, Found], delivery: Delivery) -> Iterator[_Sent]:
        """The media, in the order given. Small ones are read at once, large ones in pieces as they are wanted."""
        links = {digest: self._link(place, delivery) for digest, place in places.items()} if delivery.links else {}
        small = {
            digest: place
            for digest, place in places.items()
            if isinstance(place, Place) and not links.get(digest) and _is_inline(place, delivery)
            if place.size_bytes <= MESSAGE_BYTES
        }
        read = self._placed.read(small) if small else {}
        for digest, place in places.items():
            try:
                if isinstance(place, OmnialignError):
                    raise place
                link, data = links.get(digest), read.get(digest)
                if link or data or not _is_inline(place, delivery):
                    yield self._item(digest, place, link, data)
                else:
                    yield from self._pieces(digest, place)
            except OmnialignError as error:
                yield _failed(digest, error)

    def _item(
        self, digest: str, place: Place, link: data_service_pb2.MediaLink | None, data: bytes | OmnialignError | None
    ) -> _Sent:
        """A medium with its bytes or a link to them, or with neither."""
        if isinstance(data, OmnialignError):
            raise data
        medium = reference(self._media.type_of(digest, place, head=data), digest, place.size_bytes)
        return _Sent(Item(media=medium, link=link), data or b"")

    def _pieces(self, digest: str, place: Place) -> Iterator[_Sent]:
        """A large medium in pieces."""
        medium = reference(self._media.type_of(digest, place), digest, place.size_bytes)
        for start in range(0, place.size_bytes, MESSAGE_BYTES):
            length = min(MESSAGE_BYTES, place.size_bytes - start)
            piece = self._objects.read(place.key, start=place.offset + start, length=length)
            if len(piece) != length:
                raise corrupt(digest)
            yield _Sent(Item(media=None if start else medium), piece)

    def _group_bytes(self, delivery: Delivery) -> int:
        """Bytes of media that belong to a message, in it or behind its links."""
        return LINKED_BYTES if self._is_by_file(delivery) else MESSAGE_BYTES

    def _is_by_file(self, delivery: Delivery) -> bool:
        return delivery.links and bool(self._folder)

    def _link(self, place: Found, delivery: Delivery) -> data_service_pb2.MediaLink | None:
        """Where the caller can read a large medium by itself, unless files are here."""
        # A link to a pack would give away its neighbours.
        if isinstance(place, OmnialignError) or self._is_local or _is_inline(place, delivery):
            return None
        if place.key.startswith(PREFIX):
            return None
        return data_service_pb2.MediaLink(url=self._objects.presign_get(place.key, seconds=self._link_seconds))


def _media(number: int, items: Iterable[_Sent]) -> Iterator[bytes]:
    """The media of a response, which has them in this field, in protobuf's binary form."""
    for item, data in items:
        yield from field_of(number, item.SerializeToString(), *(field_of(DATA, data) if data else ()))


def _failed(digest: str, error: OmnialignError) -> _Sent:
    return _Sent(Item(media=content_pb2.Media(sha256=digest), error=to_status(error)))


def _by_file(folder: str, group: _Group) -> _Message:
    """A message that says where media are. In lists, which cost a fraction of a message for each medium."""
    found = {digest: place for digest, place in group.places.items() if isinstance(place, Place)}
    errors = {digest: error for digest, error in group.places.items() if isinstance(error, OmnialignError)}
    paths = {key: number for number, key in enumerate(dict.fromkeys(place.key for place in found.values()))}
    files = data_service_pb2.MediaFiles(
        folder=folder,
        paths=list(paths),
        digests=bytes.fromhex("".join(found)),
        files=[paths[place.key] for place in found.values()],
        offsets=[place.offset for place in found.values()],
        sizes_bytes=[place.size_bytes for place in found.values()],
    )
    numbers = {digest: number for number, digest in enumerate((*found, *errors))}
    return _Message(
        [_failed(*one) for one in errors.items()],
        files,
        group.records,
        named_counts=[len(digests) for digests in group.named],
        named_media=[numbers[digest] for digests in group.named for digest in digests],
    )


def _is_inline(place: Place, delivery: Delivery) -> bool:
    return not delivery.inline_bytes or place.size_bytes <= delivery.inline_bytes


def _looked_up() -> Iterator[int]:
    """How many media, or records, are looked up each time."""
    count = FIRST_LOOKED_UP
    while True:
        yield count
        count = min(2 * count, MAX_LOOKED_UP)


def _runs(items: Sequence[T], counts: Iterator[int]) -> Iterator[Sequence[T]]:
    """The items in runs of these lengths."""
    start = 0
    while start < len(items):
        count = next(counts)
        yield items[start : start + count]
        start += count


def _media_groups(media: MediaStore, digests: Sequence[str], max_bytes: int) -> Iterator[_Group]:
    """Media in groups for one message each."""
    group = _Group()
    for run in _runs(digests, _looked_up()):
        for digest, place in media.places(run).items():
            _add(group, digest, place)
            if group.is_full(max_bytes):
                yield group
                group = _Group()
    if group.places:
        yield group


def _record_groups(
    media: MediaStore,
    batch: StoredRecords,
    window: MediaWindow[bool] | None,
    max_bytes: int,
    counts: Iterator[int],
) -> Iterator[_Group]:
    """Records in groups for one message each, with those of their media that are not in the window, if there is one."""
    group = _Group()
    for run in _runs(list(zip(batch.messages, batch.media(), strict=True)), counts):
        places = media.places(digest for _, digests in run for digest in digests)
        for record, digests in run:
            for digest in digests:
                if window is not None and window.get(digest) is not None:
                    continue
                place = places[digest]
                _add(group, digest, place)
                if window is not None and isinstance(place, Place):
                    window.add(digest, place.size_bytes, True)
            group.records.append(record)
            group.named.append(digests)
            if group.is_full(max_bytes):
                yield group
                group = _Group()
    if group.records:
        yield group


def _add(group: _Group, digest: str, place: Found) -> None:
    if digest not in group.places:
        group.places[digest] = place
        if isinstance(place, Place):
            group.size_bytes += place.size_bytes
            group.keys.add(place.key)
