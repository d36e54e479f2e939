"""Asks services for their health: `SECONDS HOST=NAME ...`; waits until all serve, and fails after so many seconds.

The health port is plaintext and knows nothing but health, so this needs neither certificates nor a token.
"""

import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def serves(host, name):
    """What is wrong with a service; empty when it serves."""
    with grpc.insecure_channel(f"{host}:50052") as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=name)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return "" if status == "SERVING" else status


def main(seconds, *pairs):
    """Checks them one after the other, all within the same time."""
    end, failed = time.monotonic() + float(seconds), 0
    for host, _, name in (pair.partition("=") for pair in pairs):
        problem = serves(host, name)
        while problem and time.monotonic() < end:
            time.sleep(2)
            problem = serves(host, name)
        failed += bool(problem)
        print(f"{host} {name or '(whole process)'}: {problem or 'serves'}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
