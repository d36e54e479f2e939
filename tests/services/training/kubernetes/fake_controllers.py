"""What controllers do to Jobs: make pods, judge their ends by the failure policy, collect what is deleted."""

import asyncio
from typing import Any

from tests.services.training.kubernetes.fake_api import FakeApi, Object, now

INDEX = "batch.kubernetes.io/job-completion-index"
JOB_NAME = "batch.kubernetes.io/job-name"
ENDED = ("Succeeded", "Failed")


class Controllers:
    """Turns the objects of a fake API, in a task of its own, whenever one changes."""

    def __init__(self, api: FakeApi) -> None:
        self._api, self._woken = api, asyncio.Event()
        self._judged: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        api.controllers.append(self)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            for job in self._api.of("jobs"):
                if job["metadata"].get("deletionTimestamp"):
                    self._collect(job)
                elif not job["spec"].get("suspend") and not finished(job):
                    self._sync(job)

    def _collect(self, job: Object) -> None:
        uid, name = job["metadata"]["uid"], job["metadata"]["name"]
        if self._api.hold_deletions:
            return
        for kind in ("pods", "secrets", "services"):
            for item in self._api.of(kind):
                if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", [])):
                    self._api.remove(kind, item["metadata"]["name"])
        self._api.remove("jobs", name)

    def _sync(self, job: Object) -> None:
        name, spec = job["metadata"]["name"], job["spec"]
        if "startTime" not in job.get("status", {}):
            self._api.change("jobs", name, {"status": {"startTime": now()}})
        pods = [p for p in self._api.of("pods") if p["metadata"]["labels"].get(JOB_NAME) == name]
        for pod in pods:
            if phase(pod) == "Failed" and pod["metadata"]["uid"] not in self._judged:
                self._judged.add(pod["metadata"]["uid"])
                if (reason := self._verdict(spec, pod)) is not None:
                    self._end(job, "Failed", reason)
                    return
        done = {index(pod) for pod in pods if phase(pod) == "Succeeded"}
        living = {index(pod) for pod in pods if phase(pod) not in ENDED}
        if len(done) == spec["completions"]:
            self._end(job, "Complete", "CompletionsReached")
            return
        for number in range(spec["completions"]):
            if number not in done | living:
                self._make_pod(job, number)

    def _verdict(self, spec: Object, pod: Object) -> str | None:
        for rule in spec["podFailurePolicy"]["rules"]:
            if matches(rule, pod):
                return {"FailJob": "PodFailurePolicy", "Ignore": None}[rule["action"]]
        assert spec["backoffLimit"] == 0
        return "BackoffLimitExceeded"

    def _end(self, job: Object, condition: str, reason: str) -> None:
        entry = {"type": condition, "status": "True", "reason": reason, "message": f"{reason} of the fake"}
        self._api.change("jobs", job["metadata"]["name"], {"status": {"conditions": [entry]}})

    def _make_pod(self, job: Object, number: int) -> None:
        name = job["metadata"]["name"]
        if self._api.refuse_pods:
            if not any(e["involvedObject"]["name"] == name for e in self._api.of("events")):
                self._api.event(name, "FailedCreate", self._api.refuse_pods)
            return
        template = job["spec"]["template"]
        count = sum(1 for _ in self._api.of("pods"))
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
        metadata = {
            "name": f"{name}-{number}-{count:05d}",
            "labels": {**template["metadata"]["labels"], JOB_NAME: name},
            "annotations": {INDEX: str(number)},
            "ownerReferences": [owner],
        }
        spec = {**template["spec"], "hostname": f"{name}-{number}"}
        self._api.add("pods", {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})


def finished(job: Object) -> bool:
    return any(c["type"] in ("Complete", "Failed") for c in job.get("status", {}).get("conditions", []))


def phase(pod: Object) -> str:
    return str(pod["status"]["phase"])


def index(pod: Object) -> int:
    return int(pod["metadata"]["annotations"][INDEX])


def exit_code(pod: Object) -> Any:
    for container in pod["status"].get("containerStatuses", []):
        return container["state"].get("terminated", {}).get("exitCode")
    return None


def matches(rule: Object, pod: Object) -> bool:
    if "onExitCodes" in rule:
        return exit_code(pod) in rule["onExitCodes"]["values"]
    wanted = {(c["type"], c["status"]) for c in rule["onPodConditions"]}
    return bool(wanted & {(c["type"], c["status"]) for c in pod["status"].get("conditions", [])})


def running() -> Object:
    return {"phase": "Running", "containerStatuses": [{"name": "trainer", "state": {"running": {}}}]}


def ended(code: int, *, reason: str = "Error", message: str = "") -> Object:
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": now()}}
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{"name": "trainer", "state": state}],
    }


def waiting(reason: str, message: str) -> Object:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "trainer", "state": state}]}


def unschedulable(message: str) -> Object:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def evicted(message: str) -> Object:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": message}
    return {**ended(143), "conditions": [condition]}
