"""Opens, updates and closes policies, here and on all other replicas.

This replica comes first: what is wrong with a call fails it before another replica hears of it. The others get the same
weights from here, or the same address of a shared disk. One that has restarted, and so does not know the policy, opens
it and takes the weights as the others do.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from omnialign import names
from omnialign.client.policies import PolicyCalls
from omnialign.errors import NotFound
from omnialign.v1 import policy_service_pb2 as pb
from services.inference.policies.delivery import Entries, receive, take
from services.inference.policies.errors import malformed
from services.inference.policies.store import OpenPolicy, PolicyStore
from services.inference.policies.weights import complete, max_bytes
from services.refinement.replicas import Replicas
from services.runtime.context import caller

ANYWHERE = (Path("/"),)


class Policies:
    """The policies of all replicas, seen from this one.

    `roots` are the folders that `file://` addresses of weights may be in. With none, a caller that has authenticated
    may name no folder; where nobody authenticates, as on a laptop, any will do.
    """

    def __init__(self, store: PolicyStore, replicas: Replicas, *, roots: Sequence[Path]) -> None:
        self._store, self._replicas, self._roots = store, replicas, roots

    async def open(self, request: pb.OpenPolicyRequest) -> pb.Policy:
        """Opens a policy. Raises POLICY_EXISTS, POLICY_BASE_IS_LORA, and what finding the base model raises."""
        if request.forwarded_by == self._replicas.own_id:
            return pb.Policy()
        project = names.parse(request.parent, names.PROJECT, field="parent")["project"]
        name = names.format_name(names.POLICY, project=project, policy=request.policy_id)
        policy = await self._store.open(name, request.base_model)
        if is_forwarded(request.forwarded_by):
            return policy.message()
        return policy.message(
            replicas=1 + await self._replicas.forward(name, lambda other: self._open_on(other, policy))
        )

    async def update(self, messages: AsyncIterator[pb.UpdatePolicyRequest]) -> pb.Policy:
        """Takes new weights in. Raises what the store, a delivery and the checks of weights raise."""
        first = await anext(messages, None)
        if first is None or first.WhichOneof("message") != "header":
            raise malformed("its first message must be the header")
        header = first.header
        if header.forwarded_by == self._replicas.own_id:
            return pb.Policy()
        started, outcome = time.monotonic(), "error"
        try:
            policy = self._store.get(header.name)
            await self._replace(policy, header, messages)
            others = 0 if is_forwarded(header.forwarded_by) else await self._forward(policy, header)
            outcome = "ok"
            return policy.message(replicas=1 + others)
        finally:
            self._store.metrics.updates.labels(outcome).inc()
            self._store.metrics.update_seconds.observe(time.monotonic() - started)

    def get(self, name: str) -> pb.Policy:
        """A policy as it is here. Raises POLICY_NOT_FOUND."""
        return self._store.get(name).message(replicas=0)

    async def close(self, request: pb.ClosePolicyRequest) -> None:
        """Closes a policy."""
        if request.forwarded_by == self._replicas.own_id:
            return
        await self._store.close_policy(request.name)
        if not is_forwarded(request.forwarded_by):

            async def close_on(other: PolicyCalls) -> None:
                await other.close_policy(request.name, forwarded_by=self._replicas.own_id)

            await self._replicas.forward(request.name, close_on)

    async def close_idle(self, idle_seconds: float) -> None:
        """Closes, until cancelled, the policies that nobody uses for this long. Every replica sees to its own."""
        while True:
            await asyncio.sleep(min(60.0, idle_seconds / 4))
            await self._store.close_idle(idle_seconds=idle_seconds)

    async def _replace(
        self, policy: OpenPolicy, header: pb.UpdatePolicyHeader, messages: AsyncIterator[pb.UpdatePolicyRequest]
    ) -> None:
        """Makes new weights the ones that this replica holds. Until they are whole and fit, nothing has changed."""
        self._store.check_follows(policy, header.version)
        with self._store.new_folder() as folder:
            entries = await self._files(policy, header, messages, folder)
            name = f"{policy.name}/versions/{header.version}"
            digest = await asyncio.to_thread(complete, folder, entries, policy.base, name=name)
            await self._store.replace(policy, header.version, folder=folder, digest=digest)

    async def _files(
        self,
        policy: OpenPolicy,
        header: pb.UpdatePolicyHeader,
        messages: AsyncIterator[pb.UpdatePolicyRequest],
        folder: Path,
    ) -> Entries:
        most = await asyncio.to_thread(max_bytes, policy.base)
        if not header.uri:
            return await receive(messages, folder, max_bytes=most)
        roots = self._roots or (ANYWHERE if caller() is None else ())
        return await asyncio.to_thread(take, header.uri, folder, roots=roots, max_bytes=most)

    async def _forward(self, policy: OpenPolicy, header: pb.UpdatePolicyHeader) -> int:
        """Updates the other replicas; how many there are. Raises POLICY_NOT_ACKNOWLEDGED."""
        passed_on = pb.UpdatePolicyHeader()
        passed_on.CopyFrom(header)
        passed_on.forwarded_by = self._replicas.own_id
        async with self._store.use(f"{policy.name}/versions/{header.version}") as held:  # its files stay meanwhile
            folder = None if header.uri else held.folder

            async def update_on(other: PolicyCalls) -> pb.Policy:
                try:
                    return await other.send_weights(passed_on, folder)
                except NotFound as error:
                    if error.reason != "POLICY_NOT_FOUND":
                        raise
                await self._open_on(other, policy)
                return await other.send_weights(passed_on, folder)

            return await self._replicas.forward(policy.name, update_on)

    async def _open_on(self, other: PolicyCalls, policy: OpenPolicy) -> pb.Policy:
        return await other.open_policy(policy.name, policy.base.base, forwarded_by=self._replicas.own_id)


def is_forwarded(forwarded_by: str) -> bool:
    """Whether another replica passes a call on. Only our own services are believed, where callers authenticate."""
    who = caller()
    return bool(forwarded_by) and (who is None or who.is_service)
