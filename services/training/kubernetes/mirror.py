"""A copy of the Jobs and pods of this installation, kept up by list and watch.

One thread for each kind: it lists, then watches from the list's resource version on, and lists again when the server
has forgotten that version (410 Gone). Watches are short, because a connection that died silently is only noticed
when its time is up, and every cause of trouble must be seen within half a minute.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException

from omnialign.errors import Aborted, OmnialignError, Unavailable
from services.training.kubernetes.api import PATHS, Cluster, Object, error_of, unreachable

log = logging.getLogger(__name__)

WATCH_SECONDS = 10
"""How long the server keeps one watch open."""
SPARE_SECONDS = 5.0
"""How much longer the client waits before it takes the connection for dead."""
SHOWN_SECONDS = 3.0
"""How long trouble may last before it is told: an API server that restarts is not worth a word."""
PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0


class Mirror:
    """The objects of one kind, by name."""

    def __init__(self, cluster: Cluster, kind: str, *, labels: str, announce: Callable[[], None]) -> None:
        self._cluster, self._kind, self._labels, self._announce = cluster, kind, labels, announce
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
        """Begins to copy."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread soon; does not wait for it."""
        self._ended.set()
        if (response := self._response) is not None:
            with suppress(OSError, RuntimeError, ValueError):
                response.shutdown()  # `close` would wait for the read that the thread is in

    @property
    def listed(self) -> bool:
        """Whether the copy was complete once."""
        return self._listed.is_set()

    def wait(self, seconds: float) -> None:
        """Waits until the copy was complete once, at most so long (blocking)."""
        if not self._listed.wait(seconds) and self._problem is None:
            self._problem = Unavailable("the API server does not answer", reason="CLUSTER_UNAVAILABLE")

    @property
    def problem(self) -> OmnialignError | None:
        """Why the copy has not been kept up for a while; None when it is, and for a moment after it broke."""
        problem, since = self._problem, self._problem_since
        return problem if time.monotonic() - since > SHOWN_SECONDS else None

    def get(self, name: str) -> Object | None:
        """An object of the copy."""
        with self._lock:
            return self._objects.get(name)

    def where(self, label: str, value: str) -> list[Object]:
        """The objects with a label."""
        with self._lock:
            return [o for o in self._objects.values() if (o["metadata"].get("labels") or {}).get(label) == value]

    def note(self, item: Object) -> None:
        """Adds an object that was just made, ahead of the watch."""
        with self._lock:
            self._objects.setdefault(item["metadata"]["name"], item)

    def _run(self) -> None:
        failures = 0
        while not self._ended.is_set():
            try:
                if not self._version:
                    self._list()
                self._watch()
                failures = 0
            except OmnialignError as error:
                failures += 1
                self._fail(error, failures)
            except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
                failures += 1
                self._fail(unreachable(error), failures)
            except Exception as error:
                failures += 1
                log.exception("the copy of %s failed in an unforeseen way and is made anew", self._kind)
                self._version = ""
                self._fail(unreachable(error), failures)

    def _fail(self, error: OmnialignError, failures: int) -> None:
        if self._ended.is_set():
            return
        if isinstance(error, Aborted):  # 410: the version is too old; what happened since is in a fresh list
            self._version = ""
            if failures == 1:
                return
        else:
            if self._problem is None:
                self._problem_since = time.monotonic()
            self._problem = error
            self._announce()
            if failures == 1:
                log.warning("%s cannot be watched and will be again: %s", self._kind, error)
        pause = min(PAUSE_SECONDS * 2.0 ** min(failures - 1, 6), LONGEST_PAUSE_SECONDS)
        asked_seconds = float(error.metadata.get("retry_after_seconds", 0))
        self._ended.wait(max(pause * random.uniform(0.8, 1.2), asked_seconds))

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
        self._announce()

    def _watch(self) -> None:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": self._labels,
            "resourceVersion": self._version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        head, lines, self._response = self._cluster.stream(
            PATHS[self._kind], query=query, read_seconds=WATCH_SECONDS + SPARE_SECONDS
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
            self._ended.wait(0.5)  # a server that ends each watch at once is not to be run into the ground

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
        self._announce()
