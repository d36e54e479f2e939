"""The other replicas of the service: every call that changes a policy is passed on to each of them.

Which replicas there are is looked up at each call, because they come and go: the setting names a headless service,
whose name stands for the addresses of all its pods. A replica finds itself among them; the call that it then makes to
itself carries its own id and changes nothing.
"""

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence

from omnialign.client.policies import PolicyCalls
from omnialign.errors import OmnialignError, Unavailable
from omnialign.v1 import policy_service_pb2 as pb
from services.inference.policies.errors import not_acknowledged
from services.runtime.connections import ClientFactory

Forward = Callable[[PolicyCalls], Awaitable[pb.Policy | None]]


class Replicas:
    """The replicas at `addresses`, each `host:port`, where a name stands for all that it resolves to."""

    def __init__(self, addresses: Sequence[str], clients: ClientFactory) -> None:
        self._addresses, self._clients = addresses, clients
        self.own_id = uuid.uuid4().hex

    async def forward(self, name: str, forward: Forward) -> int:
        """Makes a call about the policy `name` on all other replicas side by side; how many there are.

        Raises Unavailable POLICY_NOT_ACKNOWLEDGED, naming those that did not do it.
        """
        found = await self._find(name)
        results = await asyncio.gather(*(self._call(*place, forward) for place in found), return_exceptions=True)
        failures = {}
        for (address, _), result in zip(found, results, strict=True):
            if isinstance(result, OmnialignError):
                failures[address] = result
            elif isinstance(result, BaseException):
                raise result
        if failures:
            raise not_acknowledged(name, failures)
        return sum(result for result in results if isinstance(result, int))

    async def _find(self, name: str) -> list[tuple[str, str]]:
        """(address, name in its certificate) of each replica."""
        found: dict[str, str] = {}
        for address in self._addresses:
            host, _, port = address.rpartition(":")
            try:
                infos = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            except OSError as error:
                unresolved = Unavailable(f"its name cannot be resolved ({error})", reason="NAME_UNRESOLVED")
                raise not_acknowledged(name, {address: unresolved}) from error
            # A pod with two addresses is one replica: one family is enough.
            family = min(info[0] for info in infos)
            for info in infos:
                if info[0] == family:
                    place = f"[{info[4][0]}]" if family == socket.AF_INET6 else info[4][0]
                    found[f"{place}:{port}"] = host
        return list(found.items())

    async def _call(self, address: str, host: str, forward: Forward) -> int:
        """1 once another replica has done it; 0 if the address is this replica's own."""
        async with self._clients.transport(address, server_name=host) as transport:
            answer = await forward(PolicyCalls(transport, project=""))
        return answer.replicas if answer is not None else 1
