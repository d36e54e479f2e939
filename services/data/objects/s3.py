"""Objects in an S3 bucket, through the `minio` SDK.

Large files are uploaded in parts, one of which is in memory at a time. All failures are typed, and no message repeats
what the server said, which may hold keys.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3.exceptions
from minio import Minio
from minio.commonconfig import CopySource
from minio.credentials.providers import EnvAWSProvider
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error, ServerError

from omnialign.errors import FailedPrecondition
from omnialign.folders import list_files
from omnialign.retry import RetryBudget
from services.data.errors import s3_error, s3_unavailable
from services.data.objects.base import CHUNK_BYTES, ObjectInfo, TableLocation, verified
from services.data.objects.s3_client import NOT_FOUND_CODES, S3Metrics, S3Settings, open_http, sdk_error

PART_BYTES = 16 * 1024 * 1024
MAX_PARTS = 9000
GAP_BYTES = 64 * 1024
"""Bytes that are read for nothing rather than making another request."""
MULTIPLE_CHOICES = 300
CONFLICT_STATUSES = (409, 412)
"""Statuses of a conditional put that lost: the object exists, or another put of it is under way."""
SELF_PRESIGN_EXPIRY = timedelta(minutes=5)
# Lance retries by itself. These bounds keep a call from hanging on a server that is down.
LANCE_OPTIONS = {
    "client_max_retries": "3",
    "client_retry_timeout": "20",
    "connect_timeout": "5s",
    "timeout": "120s",
    "pool_idle_timeout": "20s",
}


class S3ObjectStore:
    """Objects in a bucket. Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""

    def __init__(self, settings: S3Settings, *, scratch: Path, metrics: S3Metrics) -> None:
        self._settings, self._metrics, self._budget = settings, metrics, RetryBudget()
        self._scratch = scratch
        self._bucket = settings.bucket
        self._http = open_http(settings.ca_file, budget=self._budget)
        self._client = self._connect(settings.endpoint)
        self._presigner = self._connect(settings.public_endpoint or settings.endpoint)

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._settings.prefix}".rstrip("/")

    def check(self) -> None:
        """Lists one object, which takes a running server, an existing bucket and valid credentials."""
        if not (key := EnvAWSProvider().retrieve()).access_key or not key.secret_key:
            message = "S3 credentials are missing: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            raise FailedPrecondition(message, reason="S3_CREDENTIALS_REFUSED")
        with self._measured("check"):
            next(iter(self._client.list_objects(self._bucket, prefix=self._key(""))), None)

    def put(self, key: str, path: Path, *, sha256: str, durable: bool = True) -> None:
        """Uploads a file, in parts when it is large. See ObjectStore."""
        del durable  # S3 answers once the object is durable
        size_bytes = path.stat().st_size
        with self._measured("put"), path.open("rb") as file:
            self._client.put_object(
                self._bucket,
                self._key(key),
                file,
                size_bytes,
                metadata={"sha256": sha256},
                part_size=max(PART_BYTES, -(-size_bytes // MAX_PARTS)),
                num_parallel_uploads=1,
            )
        self._metrics.bytes.labels("out").inc(size_bytes)

    def put_bytes(self, key: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """See ObjectStore."""
        del durable  # as of `put`
        with self._measured("put"):
            self._client.put_object(self._bucket, self._key(key), BytesIO(data), len(data))
        self._metrics.bytes.labels("out").inc(len(data))

    def read(self, key: str, *, start: int = 0, length: int) -> bytes:
        """See ObjectStore."""
        with self._measured("get", key):
            try:
                response = self._get(key, start=start, length=length)
            except S3Error as error:
                if error.code == "InvalidRange":  # the object ends before `start`
                    return b""
                raise
            try:
                data: bytes = response.read()
            finally:
                response.release_conn()
        self._metrics.bytes.labels("in").inc(len(data))
        return data

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ranges that nearly touch come with one request. See ObjectStore."""
        found = dict[tuple[int, int], bytes]()
        for run in _runs(sorted(set(ranges))):
            start = run[0][0]
            data = self.read(key, start=start, length=max(begin + length for begin, length in run) - start)
            found.update(((begin, length), data[begin - start : begin - start + length]) for begin, length in run)
        return [found[wanted] for wanted in ranges]

    def chunks(self, key: str, *, sha256: str) -> Generator[bytes, None, None]:
        """See ObjectStore."""
        return verified(self._pieces(key), key=key, sha256=sha256)

    def stat(self, key: str) -> ObjectInfo | None:
        """See ObjectStore."""
        with self._measured("stat"):
            try:
                return _info(key, self._client.stat_object(self._bucket, self._key(key)))
            except S3Error as error:
                if error.code in NOT_FOUND_CODES:
                    return None
                raise

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        skip = len(self._key(""))
        found = self._client.list_objects(self._bucket, prefix=self._key(prefix), recursive=True)
        while (entry := self._next(found)) is not None:
            yield _info(entry.object_name[skip:], entry)

    def copy(self, source: str, target: str) -> None:
        """Copies on the server, above 5 GiB in parts. See ObjectStore."""
        with self._measured("copy", source):
            self._client.copy_object(self._bucket, self._key(target), CopySource(self._bucket, self._key(source)))

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with self._measured("delete"):
            self._client.remove_object(self._bucket, self._key(key))

    def delete_below(self, prefix: str) -> None:
        """See ObjectStore."""
        names = [DeleteObject(self._key(found.key)) for found in self.list(prefix)]
        with self._measured("delete"):
            for error in self._client.remove_objects(self._bucket, names):
                raise s3_error(str(error.code).lower()) or s3_unavailable()

    def sync(self) -> None:
        """Does nothing: S3 answers a put once the object is durable."""

    def presign_put(self, key: str, *, seconds: float) -> str:
        """See ObjectStore."""
        return self._presign("PUT", key, seconds)

    def presign_get(self, key: str, *, seconds: float) -> str:
        """See ObjectStore."""
        return self._presign("GET", key, seconds)

    def table(self, name: str, *, uid: str) -> TableLocation:
        """See ObjectStore. The uid keeps a late writer of a removed table out of a new table with the same name."""
        key = f"lance/{name}-{uid}.lance"
        uri = f"s3://{self._bucket}/{self._key(key)}"
        return TableLocation(uri, self._table_options(), None, self._scratch, partial(self._publish_table, key))

    def remove_table(self, name: str, *, uid: str) -> None:
        """See ObjectStore."""
        self.delete_below(f"lance/{name}-{uid}.lance/")

    def _publish_table(self, key: str, folder: Path) -> None:
        """Uploads an empty table, its first manifest last and only if none exists.

        Lance sees a table once it has a manifest, so a crash before that leaves only garbage. The conditional put
        decides between concurrent creators: the loser's files are never referenced.
        """
        manifests = []
        for path in list_files(folder):
            name = f"{key}/{path.relative_to(folder).as_posix()}"
            if path.suffix == ".manifest":
                manifests.append((name, path.read_bytes()))
            elif path.suffix == ".txn":
                self.put_bytes(name, path.read_bytes())
        (manifest,) = manifests
        self._put_new(*manifest)

    def _put_new(self, key: str, data: bytes) -> bool:
        """Puts an object unless it exists; whether it did.

        The SDK has no conditional put, but a presigned URL accepts the `If-None-Match` header.
        """
        with self._measured("put"):
            url = self._client.get_presigned_url("PUT", self._bucket, self._key(key), expires=SELF_PRESIGN_EXPIRY)
            response = self._http.urlopen("PUT", url, body=data, headers={"If-None-Match": "*"})
            if response.status in CONFLICT_STATUSES:
                return False
            if response.status >= MULTIPLE_CHOICES:
                raise S3Error.fromxml(response)  # type: ignore[no-untyped-call,unused-ignore]
        return True

    def _connect(self, endpoint: str) -> Minio:
        settings = self._settings
        parts = urlsplit(endpoint or f"https://s3.{settings.region}.amazonaws.com")
        client = Minio(
            parts.netloc,
            secure=parts.scheme == "https",
            region=settings.region,
            http_client=self._http,
            credentials=EnvAWSProvider(),
        )
        if settings.path_style:
            client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
        else:
            client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
        return client

    def _table_options(self) -> Mapping[str, str]:
        settings, key = self._settings, EnvAWSProvider().retrieve()
        options = LANCE_OPTIONS | {
            "region": settings.region,
            "access_key_id": key.access_key or "",
            "secret_access_key": key.secret_key or "",
            "virtual_hosted_style_request": "false" if settings.path_style else "true",
        }
        if key.session_token:
            options["session_token"] = key.session_token
        if settings.endpoint:
            options |= {"endpoint": self._table_endpoint()}
            options["allow_http"] = "true" if settings.endpoint.startswith("http://") else "false"
        return options

    def _table_endpoint(self) -> str:
        """The endpoint for Lance, which must include the bucket unless the bucket is in the path."""
        parts = urlsplit(self._settings.endpoint)
        return (
            f"{parts.scheme}://{parts.netloc}"
            if self._settings.path_style
            else (f"{parts.scheme}://{self._bucket}.{parts.netloc}")
        )

    def _key(self, key: str) -> str:
        return f"{self._settings.prefix}/{key}" if self._settings.prefix else key

    def _get(self, key: str, *, start: int = 0, length: int = 0) -> Any:
        return self._client.get_object(self._bucket, self._key(key), offset=start, length=length)

    def _pieces(self, key: str) -> Iterator[bytes]:
        with self._measured("get", key):
            response = self._get(key)
            try:
                for piece in response.stream(CHUNK_BYTES):
                    self._metrics.bytes.labels("in").inc(len(piece))
                    yield piece
            except BaseException:
                # A half-read connection must not be reused: the rest of the body would be taken for the next answer.
                response.close()
                raise
            finally:
                response.release_conn()

    def _next(self, found: Iterator[Any]) -> Any:
        with self._measured("list"):
            return next(found, None)

    def _presign(self, method: str, key: str, seconds: float) -> str:
        with self._measured("presign"):
            expires = timedelta(seconds=max(1, int(seconds)))
            return self._presigner.get_presigned_url(method, self._bucket, self._key(key), expires=expires)

    @contextmanager
    def _measured(self, operation: str, key: str = "") -> Iterator[None]:
        with self._metrics.measured(operation):
            try:
                yield
                self._budget.succeeded()
            except (S3Error, ServerError, InvalidResponseError, urllib3.exceptions.HTTPError) as error:
                raise sdk_error(error, key, operation) from None  # the SDK's message may hold keys and signatures


def _runs(ranges: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Ranges in order, in groups between which more than GAP_BYTES lie."""
    run, end = list[tuple[int, int]](), 0
    for begin, length in ranges:
        if run and begin > end + GAP_BYTES:
            yield run
            run = []
        end = max(end, begin + length) if run else begin + length
        run.append((begin, length))
    if run:
        yield run


def _info(key: str, entry: Any) -> ObjectInfo:
    modified_us = int(entry.last_modified.timestamp() * 1_000_000) if entry.last_modified else 0
    return ObjectInfo(key, entry.size or 0, modified_us)
