"""Calls of the Kubernetes API for one namespace: objects are plain mappings, errors are typed.

The official client sets up the connection (service account or kubeconfig, TLS, token renewal) and makes the requests;
its calls block, so each runs in a thread. Every request has a time-out.

Retries happen here and nowhere else (the client's own are off): throttling (429), an overloaded server (5xx) and a
broken connection are tried again within `BUDGET_SECONDS`. Every call may run twice, because names are fixed: a repeated
create is answered with a conflict, a repeated delete with not found.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client as k8s
from kubernetes import config as k8s_config
from kubernetes.client.exceptions import ApiException

from omnialign.errors import (
    Aborted,
    AlreadyExists,
    InvalidArgument,
    NotFound,
    OmnialignError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from omnialign.retry import RetryPolicy
from services.training.kubernetes.settings import KubernetesSettings

Object = dict[str, Any]

CONNECT_SECONDS, READ_SECONDS = 5.0, 20.0
BUDGET_SECONDS = 30.0
"""How long after its first failure a call is still tried again."""
RETRIED = frozenset({429, 500, 502, 503, 504})
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
MERGE_PATCH = "application/merge-patch+json"
PATHS = {
    "jobs": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "pods": "/api/v1/namespaces/{namespace}/pods",
    "services": "/api/v1/namespaces/{namespace}/services",
    "secrets": "/api/v1/namespaces/{namespace}/secrets",
    "events": "/api/v1/namespaces/{namespace}/events",
    "deployments": "/apis/apps/v1/namespaces/{namespace}/deployments",
}


@dataclass(frozen=True)
class Answer:
    """An answer of the API server."""

    status: int
    body: bytes
    retry_after: str = ""

    def json(self) -> Object:
        """The body, which is an object."""
        return dict(json.loads(self.body))


class Cluster:
    """One namespace of a cluster. Every call raises `Unavailable` (CLUSTER_UNAVAILABLE) when its budget is spent."""

    def __init__(self, connection: k8s.ApiClient, namespace: str, *, budget_seconds: float = BUDGET_SECONDS) -> None:
        self._connection = connection
        self.namespace = namespace
        self._retries = RetryPolicy(base_seconds=0.25, jitter=0.4, cap_seconds=10.0, budget_seconds=budget_seconds)

    async def create(self, kind: str, body: Object) -> Object:
        """Creates an object. Raises `AlreadyExists`, `InvalidArgument`, `PermissionDenied`, `ResourceExhausted`."""
        return (await self._call("create", kind, "POST", body=body)).json()

    async def get(self, kind: str, name: str) -> Object:
        """Reads an object. Raises `NotFound`."""
        return (await self._call("get", kind, "GET", name=name)).json()

    async def list(self, kind: str, *, labels: str = "", fields: str = "") -> list[Object]:
        """The objects that match the selectors."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        return list((await self._call("list", kind, "GET", query=query)).json().get("items") or [])

    async def patch(self, kind: str, name: str, body: Object) -> Object:
        """Merges a patch into an object. Raises `NotFound`."""
        return (await self._call("patch", kind, "PATCH", name=name, body=body)).json()

    async def delete(self, kind: str, name: str, *, uid: str) -> None:
        """Deletes an object and, before it, what it owns. One that is gone or was replaced (another `uid`) is fine."""
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        try:
            await self._call("delete", kind, "DELETE", name=name, body=options)
        except (NotFound, AlreadyExists, Aborted):
            return

    async def scale(self, deployment: str, *, replicas: int) -> None:
        """Sets how many pods a Deployment has. Raises `NotFound`."""
        body = {"spec": {"replicas": replicas}}
        await self._call("patch", "deployments", "PATCH", name=deployment, part="scale", body=body)

    async def logs(self, pod: str, *, container: str, tail_lines: int, limit_bytes: int) -> str:
        """The last lines of a pod's log, or for 0 its beginning.

        Raises `NotFound`, and `InvalidArgument` before its container has started.
        """
        query = {"container": container, "limitBytes": str(limit_bytes)}
        if tail_lines:
            query["tailLines"] = str(tail_lines)
        answer = await self._call("get", "pods", "GET", name=pod, part="log", query=query)
        return answer.body.decode("utf-8", errors="replace")

    async def _call(
        self,
        verb: str,
        kind: str,
        method: str,
        *,
        name: str = "",
        part: str = "",
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
    ) -> Answer:
        """One call with its retries. Raises the typed error of an unsuccessful answer."""
        retries = self._retries.start()
        path = "/".join(filter(None, (PATHS[kind], name, part)))
        resource = "/".join(filter(None, (kind, part)))
        while True:
            error: OmnialignError
            try:
                answer = await asyncio.to_thread(self.request, method, path, query=query or {}, body=body)
                if answer.status < 300:
                    return answer
                error, asked_seconds = error_of(answer, verb=verb, resource=resource), _retry_after(answer)
                if answer.status not in RETRIED:
                    raise error
            except (urllib3.exceptions.HTTPError, ApiException, OSError) as failure:
                error, asked_seconds = unreachable(failure), None
            pause_seconds = retries.next_pause_seconds(retry_after_seconds=asked_seconds or 0.0)
            if pause_seconds is None:
                raise error
            await asyncio.sleep(pause_seconds)

    def request(self, method: str, path: str, *, query: Mapping[str, str], body: Object | None = None) -> Answer:
        """One request and its answer, successful or not (blocking). Raises what the connection raises."""
        response = self._open(method, path, query=query, body=body, read_seconds=READ_SECONDS)
        try:
            return Answer(response.status, response.read() or b"", response.headers.get("Retry-After", ""))
        finally:
            response.response.release_conn()

    def stream(
        self, path: str, *, query: Mapping[str, str], read_seconds: float
    ) -> tuple[Answer, Iterator[bytes], Any]:
        """One request whose answer comes line by line (blocking): the head, the lines, and what closes it early."""
        response = self._open("GET", path, query=query, body=None, read_seconds=read_seconds)
        if response.status >= 300:
            try:
                head = Answer(response.status, response.read() or b"", response.headers.get("Retry-After", ""))
            finally:
                response.response.release_conn()
            return head, iter(()), response.response
        return Answer(response.status, b""), _lines(response.response), response.response

    def _open(
        self, method: str, path: str, *, query: Mapping[str, str], body: Object | None, read_seconds: float
    ) -> Any:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = MERGE_PATCH if method == "PATCH" else "application/json"
        request = self._connection.param_serialize(
            method=method,
            resource_path=path,
            path_params={"namespace": self.namespace},
            query_params=[(key, value) for key, value in query.items() if value],
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        return self._connection.call_api(*request, _request_timeout=(CONNECT_SECONDS, read_seconds))


def connect(settings: KubernetesSettings) -> Cluster:
    """The cluster that the settings name. Raises `Unavailable` when nothing says how to reach it."""
    configuration = k8s.Configuration()
    try:
        if settings.kubeconfig:
            k8s_config.load_kube_config(  # type: ignore[no-untyped-call]
                settings.kubeconfig, client_configuration=configuration, persist_config=False
            )
        else:
            k8s_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except (k8s_config.ConfigException, OSError) as error:
        raise Unavailable(
            f"nothing says how to reach the cluster: {error}; run in a pod with a service account or set kubeconfig",
            reason="CLUSTER_UNAVAILABLE",
        ) from error
    configuration.retries = False  # `Cluster._call` retries; it knows Retry-After and a budget
    return Cluster(k8s.ApiClient(configuration), settings.namespace or own_namespace())


def own_namespace() -> str:
    """The namespace of the pod that this process runs in; `default` outside one."""
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


def error_of(answer: Answer, *, verb: str, resource: str) -> OmnialignError:
    """The typed error of an answer that is not a success."""
    message = _message(answer)
    metadata = {"verb": verb, "resource": resource, "status": str(answer.status), "cause": message[:500]}
    if (asked_seconds := _retry_after(answer)) is not None:
        metadata["retry_after_seconds"] = f"{asked_seconds:g}"
    where = f"to {verb} {resource} in the cluster"
    if answer.status == 403 and "exceeded quota" in message:
        return ResourceExhausted(
            f"the namespace's quota is used up: {message}", reason="QUOTA_EXCEEDED", metadata=metadata
        )
    if answer.status == 403:
        return PermissionDenied(
            f"the training service may not {verb} {resource}; grant its role that right: {message}",
            reason="FORBIDDEN",
            metadata=metadata,
        )
    if answer.status in (404, 410):
        kind: type[OmnialignError] = NotFound if answer.status == 404 else Aborted
        return kind(f"failed {where}: {message}", reason="CLUSTER_OBJECT_GONE", metadata=metadata)
    if answer.status == 409:
        return AlreadyExists(f"failed {where}: {message}", reason="CLUSTER_CONFLICT", metadata=metadata)
    if answer.status in (400, 413, 415, 422):
        return InvalidArgument(f"the cluster refused {where}: {message}", reason="CLUSTER_REJECTED", metadata=metadata)
    return Unavailable(
        f"the API server answered {answer.status} {where}: {message}", reason="CLUSTER_UNAVAILABLE", metadata=metadata
    )


def unreachable(failure: Exception) -> Unavailable:
    """The error of a connection that failed."""
    return Unavailable(
        f"the API server cannot be reached: {type(failure).__name__}: {str(failure)[:300]}",
        reason="CLUSTER_UNAVAILABLE",
    )


def _message(answer: Answer) -> str:
    """The message of a `Status` object, or the beginning of whatever came instead."""
    try:
        return str(answer.json().get("message") or answer.body[:300].decode(errors="replace"))
    except (ValueError, TypeError):
        return answer.body[:300].decode(errors="replace")


def _retry_after(answer: Answer) -> float | None:
    """The seconds that the server asks to wait, if it does; a date is not understood and counts as none."""
    return float(answer.retry_after) if answer.retry_after.isdecimal() else None


def _lines(response: Any) -> Iterator[bytes]:
    """The lines of a response, as they arrive."""
    rest = b""
    for chunk in response.stream(amt=None, decode_content=False):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line)
