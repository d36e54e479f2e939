"""A small Kubernetes API server that keeps state: objects, resource versions, watches, owned objects; and that fails.

What Kubernetes' own controllers do for Jobs is in `fake_controllers`. Everything is checked as strictly as the real one
does where omnialign could get it wrong: names, conflicts, merge patches, preconditions, selectors, versions.
"""

import asyncio
import copy
import itertools
import json
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

Object = dict[str, Any]

KINDS = {"jobs": "Job", "pods": "Pod", "services": "Service", "secrets": "Secret", "events": "Event"}
TOKEN = "test-token"


@dataclass
class Fault:
    """What to answer instead of the truth, for so many requests."""

    method: str
    kind: str
    status: int
    times: int = 1
    message: str = "injected"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    after: bool = False
    """Whether the request takes effect all the same, as when an answer is lost."""


class FakeApi:
    """One namespace."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.objects: dict[tuple[str, str], Object] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str]] = []
        self.away = False
        self.refuse_pods = ""
        self.hold_deletions = False
        self.watches = 0
        self.history: list[tuple[int, str, str, Object]] = []
        self.oldest = 0
        self._version = itertools.count(1)
        self._last = 0
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self.port = 0
        self.controllers: list[Any] = []

    async def start(self) -> None:
        app = web.Application(middlewares=[self._guard])
        for prefix, kinds in (("/apis/batch/v1", ["jobs"]), ("/api/v1", ["pods", "services", "secrets", "events"])):
            for kind in kinds:
                path = f"{prefix}/namespaces/{{namespace}}/{kind}"
                app.router.add_post(path, self._create)
                app.router.add_get(path, self._list)
                app.router.add_get(f"{path}/{{name}}", self._get)
                app.router.add_patch(f"{path}/{{name}}", self._patch)
                app.router.add_delete(f"{path}/{{name}}", self._delete)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods/{name}/log", self._log)
        app.router.add_patch("/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale", self._scale)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, self.host, self.port)
        await self._site.start()
        self.port = self._site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def of(self, kind: str) -> list[Object]:
        """The objects of a kind, by name."""
        return [self.objects[key] for key in sorted(self.objects) if key[0] == kind]

    def count(self, method: str, kind: str) -> int:
        return sum(1 for m, k, _ in self.requests if (m, k) == (method, kind))

    def add(self, kind: str, item: Object) -> Object:
        metadata = item.setdefault("metadata", {})
        metadata |= {"uid": str(uuid.uuid4()), "namespace": "test", "creationTimestamp": now()}
        self.objects[kind, metadata["name"]] = item
        self._record(kind, "ADDED", item)
        return item

    def change(self, kind: str, name: str, patch: Object) -> Object:
        item = self.objects[kind, name]
        merge(item, patch)
        self._record(kind, "MODIFIED", item)
        return item

    def remove(self, kind: str, name: str) -> None:
        item = self.objects.pop((kind, name), None)
        if item is not None:
            self._record(kind, "DELETED", item)

    def forget_history(self) -> None:
        """Makes every version handed out so far too old to watch from, and ends the open watches."""
        self.oldest = next(self._version)
        self._last = self.oldest
        self.history.clear()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def event(self, about: str, reason: str, message: str) -> None:
        name = f"{about}.{uuid.uuid4().hex[:8]}"
        self.add(
            "events",
            {
                "metadata": {"name": name},
                "involvedObject": {"name": about},
                "reason": reason,
                "message": message,
                "lastTimestamp": now(),
            },
        )

    def _record(self, kind: str, event: str, item: Object) -> None:
        self._last = next(self._version)
        item["metadata"]["resourceVersion"] = str(self._last)
        self.history.append((self._last, kind, event, copy.deepcopy(item)))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for controller in self.controllers:
            controller.wake()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        kind = next((part for part in request.path.split("/") if part in KINDS), "")
        watching = "watch" if request.query.get("watch") else request.method
        self.requests.append((watching, kind, request.path))
        if self.away:
            assert request.transport is not None
            request.transport.abort()
            raise web.HTTPServiceUnavailable
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return status(401, "Unauthorized")
        for fault in self.faults:
            if (fault.method, fault.kind) == (watching, kind) and fault.times > 0:
                fault.times -= 1
                await asyncio.sleep(fault.seconds)
                if fault.after:
                    await handler(request)
                if fault.status:
                    return status(fault.status, fault.message, headers=fault.headers)
        return await handler(request)

    async def _create(self, request: web.Request) -> web.Response:
        kind, item = kind_of(request), await request.json()
        name = item["metadata"]["name"]
        if (kind, name) in self.objects:
            return status(409, f'{kind} "{name}" already exists')
        if item.get("kind") != KINDS[kind]:
            return status(400, "kind does not fit")
        return web.json_response(self.add(kind, item), status=201)

    async def _get(self, request: web.Request) -> web.Response:
        found = self.objects.get((kind_of(request), request.match_info["name"]))
        return status(404, "not found") if found is None else web.json_response(found)

    async def _patch(self, request: web.Request) -> web.Response:
        if request.content_type != "application/merge-patch+json":
            return status(415, f"unsupported {request.content_type}")
        kind, name = kind_of(request), request.match_info["name"]
        if (kind, name) not in self.objects:
            return status(404, "not found")
        return web.json_response(self.change(kind, name, await request.json()))

    async def _delete(self, request: web.Request) -> web.Response:
        kind, name = kind_of(request), request.match_info["name"]
        options = await request.json() if request.can_read_body else {}
        found = self.objects.get((kind, name))
        if found is None:
            return status(404, "not found")
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != found["metadata"]["uid"]:
            return status(409, "the uid in the precondition does not match")
        assert options.get("propagationPolicy") == "Foreground"
        return web.json_response(self.change(kind, name, {"metadata": {"deletionTimestamp": now()}}))

    async def _log(self, request: web.Request) -> web.Response:
        pod = self.objects.get(("pods", request.match_info["name"]))
        if pod is None or "log" not in pod:
            return status(404, "no log")
        lines = str(pod["log"]).splitlines()[-int(request.query["tailLines"]) :]
        return web.Response(text="\n".join(lines))

    async def _scale(self, request: web.Request) -> web.Response:
        key = "deployments", request.match_info["name"]
        if key not in self.objects:
            return status(404, "no such Deployment")
        merge(self.objects[key], await request.json())
        if self.objects[key]["spec"]["replicas"] == 0:
            for pod in [pod for pod in self.of("pods") if pod["metadata"].get("labels") == self.objects[key]["labels"]]:
                self.remove("pods", pod["metadata"]["name"])
        return web.json_response(self.objects[key])

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await self._watch(request)
        items = [item for item in self.of(kind_of(request)) if selected(item, request.query)]
        return web.json_response({"metadata": {"resourceVersion": str(self._last)}, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        kind, version = kind_of(request), int(request.query["resourceVersion"])
        if version < self.oldest:
            return status(410, "too old resource version")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self.watches += 1
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(float(request.query["timeoutSeconds"])):
                while True:
                    changed = self._changed
                    if version < self.oldest:
                        body = {"kind": "Status", "code": 410, "message": "too old resource version"}
                        await response.write(json.dumps({"type": "ERROR", "object": body}).encode() + b"\n")
                        break
                    for at, changed_kind, event, item in list(self.history):
                        if at > version and changed_kind == kind and selected(item, request.query):
                            await response.write(json.dumps({"type": event, "object": item}).encode() + b"\n")
                        version = max(version, at)
                    await changed.wait()
        with suppress(ConnectionError):
            await response.write_eof()
        return response


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def kind_of(request: web.Request) -> str:
    return next(part for part in request.path.split("/") if part in KINDS)


def status(code: int, message: str, *, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code, headers=headers)


def selected(item: Object, query: Any) -> bool:
    labels = item["metadata"].get("labels") or {}
    for part in filter(None, query.get("labelSelector", "").split(",")):
        key, _, value = part.partition("=")
        if labels.get(key) != value:
            return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, value = part.partition("=")
        assert key == "involvedObject.name"
        if item["involvedObject"]["name"] != value:
            return False
    return True


def merge(target: Object, patch: Object) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)
