"""Connections between services: spread over replicas, and on to those that are left."""

from services.runtime.peers import Peers
from services.runtime.server import Server


def answered(server: Server) -> float:
    labels = {"service": "omnialign.v1.DataService", "method": "GetDataset", "code": "OK"}
    return server.registry.get_sample_value("omnialign_rpc_requests_total", labels) or 0.0


async def test_calls_are_spread_over_the_replicas_and_go_to_those_that_are_left(start_server):
    servers = [await start_server() for _ in range(2)]
    address = "ipv4:" + ",".join(server.address for server in servers)
    async with Peers().client(address) as client:
        await client.get_dataset("first")  # connected to one at least; the other follows
        while min(map(answered, servers)) < 3:
            await client.get_dataset("more")
        await servers[0].stop(0)
        before = answered(servers[1])
        for _ in range(5):
            await client.get_dataset("left")
    assert answered(servers[1]) == before + 5
