"""A stand-in for a cluster's API server: as much of one as Helm needs to look things up, install, upgrade and remove.

It keeps what is written and does nothing with it. Jobs are complete at once, and pods are ready as soon as there is a
Job that has brought the database up to date. What a manifest looks like is not checked here: the schemas of Kubernetes
do that in other tests.
"""

import base64
import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.chart import release_secret

Object = dict[str, Any]
Key = tuple[str, str, str]

NAMESPACED = ("Secret", "ConfigMap", "Service", "ServiceAccount", "PersistentVolumeClaim", "Pod")
GROUPS: dict[str, dict[str, bool]] = {
    "v1": {"Namespace": False, "Node": False, **dict.fromkeys(NAMESPACED, True)},
    "admissionregistration.k8s.io/v1": dict.fromkeys(
        ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"), False
    ),
    "apps/v1": {"Deployment": True, "ReplicaSet": True, "StatefulSet": True},
    "apiregistration.k8s.io/v1": {"APIService": False},
    "autoscaling/v2": {"HorizontalPodAutoscaler": True},
    "batch/v1": {"Job": True},
    "networking.k8s.io/v1": {"NetworkPolicy": True, "Ingress": True},
    "policy/v1": {"PodDisruptionBudget": True},
    "rbac.authorization.k8s.io/v1": {"Role": True, "RoleBinding": True},
    "storage.k8s.io/v1": {"StorageClass": False},
}
"""Kinds and whether they lie in namespaces, by API version."""

OPENAPI = "/openapi/v2"
"""Empty, which is a valid message: there are no schemas here to check against."""

DONE = {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1, "active": 0}
MIGRATION = "Job/omnialign-migrate"


class Cluster:
    """What the API server knows, and what was done to it."""

    def __init__(self, objects: Sequence[Object], groups: dict[str, dict[str, bool]]) -> None:
        self.kubeconfig = ""
        self.groups = groups
        self.done: list[tuple[str, str]] = []
        """(made or deleted, kind/name), in order."""
        self.ended = threading.Event()
        self._version = 0
        self._objects: dict[Key, Object] = {}
        self._lock = threading.Lock()
        for item in objects:
            self.put(item)

    def get(self, kind: str, name: str) -> Object | None:
        """An object of whatever namespace."""
        known = list(self._objects.items())  # other threads put and delete meanwhile
        return next((self._told(item) for key, item in known if key[1:] == (kind, name)), None)

    def find(self, version: str, kind: str, query: dict[str, list[str]]) -> list[Object]:
        """The objects of a kind with the labels and the name that a query asks for."""
        wanted = dict(part.split("=", 1) for part in query.get("labelSelector", [""])[0].split(",") if "=" in part)
        name = query.get("fieldSelector", [""])[0].removeprefix("metadata.name=")
        return [
            self._told(item)
            for key, item in sorted(self._objects.items())
            if key[:2] == (version, kind)
            and wanted.items() <= item["metadata"].get("labels", {}).items()
            and name in ("", key[2])
        ]

    def put(self, item: Object) -> Object:
        """Keeps an object as the API server would."""
        with self._lock:
            self._version += 1
            key = (item["apiVersion"], item["kind"], item["metadata"]["name"])
            before = self._objects.get(key, {})
            uid = before.get("metadata", {}).get("uid") or str(uuid.uuid4())
            kept = {**item, "metadata": {**item["metadata"], "uid": uid, "resourceVersion": str(self._version)}}
            for name, text in kept.pop("stringData", {}).items():
                kept["data"] = {**kept.get("data", {}), name: base64.b64encode(text.encode()).decode()}
            if not before:
                self.done.append(("made", "/".join(key[1:])))
            self._objects[key] = kept
        return self._told(kept)

    def _told(self, item: Object) -> Object:
        """An object with the status that controllers would give it."""
        if item["kind"] == "Job":
            return {**item, "status": DONE}
        if item["kind"] == "PersistentVolumeClaim":
            return {**item, "status": {"phase": "Bound"}}
        if item["kind"] in ("Deployment", "StatefulSet"):
            migrated = any(what == "made" and name.startswith(MIGRATION) for what, name in self.done)
            ready = item["spec"].get("replicas", 1) if migrated or item["kind"] == "StatefulSet" else 0
            return {**item, "status": _replica_status(item, ready)}
        return item

    def drop(self, item: Object) -> None:
        """Removes an object."""
        key = (item["apiVersion"], item["kind"], item["metadata"]["name"])
        del self._objects[key]
        self.done.append(("deleted", "/".join(key[1:])))


@contextmanager
def cluster(
    folder: Path, objects: Sequence[Object] = (), more: dict[str, dict[str, bool]] | None = None
) -> Iterator[Cluster]:
    """Runs the server. `more` are API versions of custom resources."""
    here = Cluster(objects, {**GROUPS, **(more or {})})
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(here))
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        config = folder / "kubeconfig"
        config.write_text(json.dumps(_kubeconfig(f"http://127.0.0.1:{server.server_port}")))
        here.kubeconfig = str(config)
        yield here
    finally:
        here.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _replica_status(item: Object, ready: int) -> Object:
    counts = dict.fromkeys(("replicas", "updatedReplicas", "currentReplicas"), item["spec"].get("replicas", 1))
    available = {"type": "Available", "status": "True" if ready else "False"}
    return {**counts, "readyReplicas": ready, "availableReplicas": ready, "conditions": [available]}


def _kubeconfig(url: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }


def _handler(here: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = _parsed(self.rfile.read(length)) if length and self.command != "DELETE" else None
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if query.get("watch") == ["true"]:
                self._watch(_initial_events(here, url.path, query))
                return
            status, answer = _answer(here, self.command, url.path, query, body)
            text = b"" if url.path == OPENAPI else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _watch(self, events: Sequence[Object]) -> None:
            """Tells what is there, where the list is asked for as events; nothing changes by itself here."""
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            for event in events:
                self.wfile.write(json.dumps(event).encode() + b"\n")
            self.wfile.flush()
            here.ended.wait(30)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  the library's names

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler


def _initial_events(here: Cluster, path: str, query: dict[str, list[str]]) -> list[Object]:
    if query.get("sendInitialEvents") != ["true"]:
        return []
    _, listed = _answer(here, "GET", path, query, None)
    end = {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}
    mark = {"apiVersion": listed["apiVersion"], "kind": listed["kind"].removesuffix("List"), "metadata": end}
    return [*({"type": "ADDED", "object": item} for item in listed["items"]), {"type": "BOOKMARK", "object": mark}]


def _parsed(body: bytes) -> Object:
    return release_secret.decode(body) if body.startswith(release_secret.MAGIC) else yaml.safe_load(body)


def _answer(
    here: Cluster, method: str, path: str, query: dict[str, list[str]], body: Object | None
) -> tuple[int, Object]:
    parts = path.strip("/").split("/")
    if path == OPENAPI:
        return 200, {}
    if path == "/version":
        return 200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
    if path == "/api":
        return 200, {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(v) for v in here.groups if "/" in v]}
    version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
    kinds = here.groups.get(version)
    if kinds is None:
        return _missing()
    if not rest:
        return 200, {"kind": "APIResourceList", "groupVersion": version, "resources": _resources(kinds)}
    rest = rest[2:] if rest[0] == "namespaces" and len(rest) > 2 else rest
    kind = next((kind for kind in kinds if _plural(kind) == rest[0]), "")
    return _object(here, method, version, kind, rest[1:], query, body)


def _object(
    here: Cluster,
    method: str,
    version: str,
    kind: str,
    name: Sequence[str],
    query: dict[str, list[str]],
    body: Object | None,
) -> tuple[int, Object]:
    if method == "POST":
        assert body is not None
        return 201, here.put({"apiVersion": version, "kind": kind, **body})
    if not name:
        items = here.find(version, kind, query)
        meta = {"resourceVersion": "1"}
        return 200, {"apiVersion": version, "kind": f"{kind}List", "metadata": meta, "items": items}
    if method in ("PUT", "PATCH"):  # Helm applies whole manifests
        assert body is not None
        return 200, here.put({"apiVersion": version, "kind": kind, **body})
    found = here.get(kind, name[0])
    if found is None:
        return _missing()
    if method == "DELETE":
        here.drop(found)
    return 200, found


def _group(version: str) -> Object:
    entry = {"groupVersion": version, "version": version.rpartition("/")[2]}
    return {"name": version.rpartition("/")[0], "versions": [entry], "preferredVersion": entry}


def _resources(kinds: dict[str, bool]) -> list[Object]:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    return [
        {"name": _plural(kind), "singularName": kind.lower(), "namespaced": inside, "kind": kind, "verbs": verbs}
        for kind, inside in kinds.items()
    ]


def _plural(kind: str) -> str:
    name = kind.lower()
    return f"{name}es" if name.endswith("s") else f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


def _missing() -> tuple[int, Object]:
    return 404, {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
