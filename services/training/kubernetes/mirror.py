"""A copy of the Jobs and pods of this installation, kept up to date by list and watch.

One thread per kind: it lists, then watches from the list's resource version on, and lists again when the server no
longer knows that version (410 Gone). Watches are short, because a connection that died silently is noticed only when
its time is up, and every problem must show within half a minute.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException

from omnialign.errors import Aborted, OmnialignError, Unavailable
from omnialign.retry import RetryPolicy, RetryState
from services.training.kubernetes.api import PATHS, Cluster, Object, error_of, unreachable

log = logging.getLogger(__name__)

WATCH_SECONDS = 10
"""How long the server keeps one watch open."""
GRACE_SECONDS = 5.0
"""How much longer the client waits before it considers the connection dead."""
SHOWN_SECONDS = 3.0
"""How long a problem may last before it shows: an API server that restarts is not worth reporting."""
RETRIES = RetryPolicy(base_seconds=1.0, jitter=0.4, cap_seconds=10.0)
"""Without a budget: a copy is needed for as long as the service runs."""


class Mirror:
    """The objects of one kind, by name."""

    def __init__(self, cluster: Cluster, kind: str, *, labels: str, notify: Callable[[], None]) -> None:
        self._cluster, self._kind, self._labels, self._notify = cluster, kind, labels, notify
        self._lock = threading.Lock()
        self._objects: dict[str, Object] = {}
        self._version = ""
        self._problem: OmnialignError | None = None
        self._problem_since = 0.0
        self._listed = threading.Event()
        self._ended = threading.Event()
        self._response: Any = None
        self._thread = threading.Thread(target=self._run, name=f"mirror-{kind}", daemon=True)

    def start(self) -> None:
        """Starts to copy."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread soon; does not wait for it."""
        self._ended.set()
        if (response := self._response) is not None:
            with suppress(OSError, RuntimeError, ValueError):
                response.shutdown()  # `close` would wait for the read that the thread is in

    @property
    def listed(self) -> bool:
        """Whether the copy has been complete once."""
        return self._listed.is_set()

    def wait(self, timeout_seconds: float) -> None:
        """Waits until the copy has been complete once, at most `timeout_seconds` (blocking)."""
        if not self._listed.wait(timeout_seconds) and self._problem is None:
            self._problem = Unavailable("the API server does not answer", reason="CLUSTER_UNAVAILABLE")

    @property
    def problem(self) -> OmnialignError | None:
        """Why the copy is out of date; None when it is not, and in the first `SHOWN_SECONDS` of a problem."""
        problem, since = self._problem, self._problem_since
        return problem if time.monotonic() - since > SHOWN_SECONDS else None

    def get(self, name: str) -> Object | None:
        """An object of the copy, by name."""
        with self._lock:
            return self._objects.get(name)

    def where(self, label: str, value: str) -> list[Object]:
        """The objects with a label."""
        with self._lock:
            return [o for o in self._objects.values() if (o["metadata"].get("labels") or {}).get(label) == value]

    def note(self, item: Object) -> None:
        """Adds an object that was just created, before the watch sees it."""
        with self._lock:
            self._objects.setdefault(item["metadata"]["name"], item)

    def _run(self) -> None:
        retries = RETRIES.start()
        while not self._ended.is_set():
            try:
                if not self._version:
                    self._list()
                self._watch()
                retries.reset()
            except OmnialignError as error:
                self._fail(error, retries)
            except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
                self._fail(unreachable(error), retries)
            except Exception as error:
                log.exception("copying %s failed unexpectedly; the copy is made again from the start", self._kind)
                self._version = ""
                self._fail(unreachable(error), retries)

    def _fail(self, error: OmnialignError, retries: RetryState) -> None:
        """Notes a failure and pauses before the next attempt."""
        if self._ended.is_set():
            return
        is_first = retries.num_failures == 0
        asked_seconds = float(error.metadata.get("retry_after_seconds", 0))
        pause_seconds = retries.next_pause_seconds(retry_after_seconds=asked_seconds)
        if isinstance(error, Aborted):  # 410: the version is too old; a fresh list holds what has happened since
            self._version = ""
            if is_first:
                return
        else:
            if self._problem is None:
                self._problem_since = time.monotonic()
            self._problem = error
            self._notify()
            if is_first:
                log.warning("%s cannot be watched for now: %s", self._kind, error)
        self._ended.wait(pause_seconds)

    def _list(self) -> None:
        answer = self._cluster.request("GET", PATHS[self._kind], query={"labelSelector": self._labels})
        if answer.status >= 300:
            raise error_of(answer, verb="list", resource=self._kind)
        body = answer.json()
        with self._lock:
            self._objects = {item["metadata"]["name"]: item for item in body.get("items") or []}
        self._version = str(body["metadata"]["resourceVersion"])
        self._problem = None
        self._listed.set()
        self._notify()

    def _watch(self) -> None:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": self._labels,
            "resourceVersion": self._version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        head, lines, self._response = self._cluster.stream(
            PATHS[self._kind], query=query, read_seconds=WATCH_SECONDS + GRACE_SECONDS
        )
        try:
            if head.status >= 300:
                raise error_of(head, verb="watch", resource=self._kind)
            self._problem = None
            began = time.monotonic()
            for line in lines:
                self._take(json.loads(line))
        finally:
            self._response.close()
            self._response = None
        if time.monotonic() - began < 0.5:
            self._ended.wait(0.5)  # a server that ends each watch at once must not be flooded with new ones

    def _take(self, event: Object) -> None:
        item = event["object"]
        if event["type"] == "ERROR":
            if item.get("code") == 410:
                raise Aborted("the watch is too old", reason="CLUSTER_OBJECT_GONE")
            raise unreachable(RuntimeError(str(item.get("message"))))
        self._version = str(item["metadata"]["resourceVersion"])
        if event["type"] == "BOOKMARK":
            return
        with self._lock:
            if event["type"] == "DELETED":
                self._objects.pop(item["metadata"]["name"], None)
            else:
                self._objects[item["metadata"]["name"]] = item
        self._notify()
