"""Calls of the PolicyService: models whose weights change while a trainer trains them.

await client.open_policy("my-run", "projects/default/models/base/versions/1")
await client.update_policy("my-run", Path("checkpoint"), version=1)
answer = await client.generate("projects/default/policies/my-run", "Draw a red circle.")
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from omnialign import names
from omnialign.client.transport import ServiceCalls, Transport
from omnialign.client.uploads import file_messages
from omnialign.errors import InvalidArgument
from omnialign.v1 import policy_service_pb2 as pb
from omnialign.v1 import policy_service_pb2_grpc

OPEN_DEADLINE_SECONDS = 900.0
"""The service may have to fetch the base model first."""
WEIGHTS = ("*.safetensors", "model.safetensors.index.json", "adapter_config.json")


class PolicyCalls(ServiceCalls):
    """Policies. Every method takes the id of a policy or its full name."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._policies = policy_service_pb2_grpc.PolicyServiceStub(transport.channel)

    async def open_policy(
        self,
        policy: str,
        base_model: str,
        *,
        forwarded_by: str = "",
        deadline_seconds: float = OPEN_DEADLINE_SECONDS,
    ) -> pb.Policy:
        """Opens a policy with the weights of its base model, a version's full name or a `file://` folder.

        Safe to repeat. `forwarded_by` is for replicas of the service. Raises AlreadyExists POLICY_EXISTS if the policy
        is open on another model.
        """
        ids = names.parse(self._policy_name(policy), names.POLICY, field="policy")
        request = pb.OpenPolicyRequest(
            parent=names.format_name(names.PROJECT, project=ids["project"]),
            policy_id=ids["policy"],
            base_model=base_model,
            request_id=str(uuid.uuid4()),
            forwarded_by=forwarded_by,
        )
        return await self._transport.unary(self._policies.OpenPolicy, request, deadline_seconds=deadline_seconds)

    async def update_policy(
        self, policy: str, weights: Path | str, *, version: int, deadline_seconds: float | None = None
    ) -> pb.Policy:
        """Replaces the weights of a policy by those of a folder: a full model's safetensors, or a LoRA.

        A path is sent file by file; a `file://` address is read by the service, from a disk that it shares. Safe to
        repeat. No deadline unless given. Raises FailedPrecondition POLICY_VERSION_NOT_NEWER, NotFound POLICY_NOT_FOUND,
        InvalidArgument POLICY_WEIGHTS_MISMATCH and LORA_UNSUPPORTED, Unavailable POLICY_NOT_ACKNOWLEDGED.
        """
        uri = weights if isinstance(weights, str) else ""
        header = pb.UpdatePolicyHeader(name=self._policy_name(policy), version=version, uri=uri)
        return await self.send_weights(header, None if uri else Path(weights), deadline_seconds=deadline_seconds)

    async def get_policy(self, policy: str) -> pb.Policy:
        """Returns a policy. Raises NotFound POLICY_NOT_FOUND."""
        request = pb.GetPolicyRequest(name=self._policy_name(policy))
        return await self._transport.unary(self._policies.GetPolicy, request)

    async def close_policy(self, policy: str, *, forwarded_by: str = "") -> None:
        """Closes a policy; requests that have begun finish. Does nothing for one that is not open."""
        request = pb.ClosePolicyRequest(name=self._policy_name(policy), forwarded_by=forwarded_by)
        await self._transport.unary(self._policies.ClosePolicy, request)

    async def send_weights(
        self, header: pb.UpdatePolicyHeader, folder: Path | None, *, deadline_seconds: float | None = None
    ) -> pb.Policy:
        """Updates a policy with a header as it is, and the weights in a folder if there is one."""
        files = [] if folder is None else await asyncio.to_thread(weight_files, folder)
        message = pb.UpdatePolicyRequest

        async def messages() -> AsyncIterator[pb.UpdatePolicyRequest]:
            yield message(header=header)
            if folder is not None:
                async for part in file_messages(message, pb.PolicyFile, files, folder=folder):
                    yield part

        updated: pb.Policy = await self._transport.upload(
            self._policies.UpdatePolicy, messages, deadline_seconds=deadline_seconds
        )
        return updated

    def _policy_name(self, policy: str) -> str:
        return policy if policy.startswith("projects/") else f"{self.parent}/policies/{policy}"


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that a policy takes, in order of name (blocking). Raises InvalidArgument SOURCE_EMPTY."""
    found = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern) if path.is_file()})
    if not found:
        raise InvalidArgument(
            f"{folder} holds no weights; name a folder with *.safetensors files.",
            reason="SOURCE_EMPTY",
            metadata={"folder": str(folder)},
        )
    return found
