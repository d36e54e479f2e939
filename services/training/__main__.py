"""Wires the training service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from omnialign.v1 import training_service_pb2, training_service_pb2_grpc
from services.runtime.database import open_database
from services.runtime.server import Server, run
from services.training.config import TrainingConfig
from services.training.jobs import Changes, Jobs
from services.training.launcher import Launcher
from services.training.peers import Peers
from services.training.servicer import TrainingServicer
from services.training.store import Store
from services.training.supervisor import Addresses, Supervisor

FULL_NAME = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name


@asynccontextmanager
async def wire(server: Server, config: TrainingConfig) -> AsyncIterator[None]:
    """Adds the service to a server and takes up unfinished jobs; on exit stops following them."""
    config.root.mkdir(parents=True, exist_ok=True)
    engine = open_database(config.database())
    store, changes = Store(engine), Changes()
    addresses = Addresses(config, server.bind)
    supervisor = Supervisor(
        config,
        store=store,
        changes=changes,
        launcher=Launcher(terminate_seconds=config.terminate_seconds),
        peers=Peers(addresses.data),
        addresses=addresses,
    )
    try:
        await store.prepare()
        servicer = TrainingServicer(Jobs(store, changes))
        server.add(training_service_pb2_grpc.add_TrainingServiceServicer_to_server, servicer, FULL_NAME)
        await supervisor.start()
        yield
    finally:
        await supervisor.close()
        await engine.dispose()


def main() -> None:
    """Runs the service until SIGTERM."""
    run("training", TrainingConfig, wire)


if __name__ == "__main__":
    main()
