"""Wires the training service."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from omnialign.v1 import training_service_pb2, training_service_pb2_grpc
from services.runtime.auth.tokens import JobTokens
from services.runtime.database import Database
from services.runtime.server import Server, run
from services.runtime.uses import Uses
from services.training.config import TrainingConfig
from services.training.jobs import Deliveries, Jobs, Notifier
from services.training.launcher import Launcher, random_token, signed_token
from services.training.logs import Logs
from services.training.metrics import Metrics
from services.training.model_registry import ModelRegistry
from services.training.preflight import Preflight
from services.training.process_launcher import ProcessLauncher
from services.training.servicer import TrainingServicer
from services.training.store import Store
from services.training.supervisor import Supervisor

FULL_NAME = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name


@asynccontextmanager
async def wire(server: Server, config: TrainingConfig) -> AsyncIterator[None]:
    """Adds the service to a server, which then follows unfinished jobs; on exit stops following them."""
    config.root.mkdir(parents=True, exist_ok=True)
    database = Database(config.database(), migrate=config.migrate_at_start)
    store, notifier = Store(database), Notifier()
    addresses = Addresses(config, server.bind)
    registry = ModelRegistry(addresses.data, server.clients)
    launcher = _launcher(config, registry=registry, addresses=addresses, notifier=notifier)
    uses = Uses(registry.ask)
    supervisor = Supervisor(
        config,
        store=Store(database.patient(budget_seconds=config.database_budget_seconds)),
        notifier=notifier,
        launcher=launcher,
        registry=registry,
        make_token=signed_token(JobTokens(key_file)) if (key_file := server.auth.job_key_file) else random_token,
        metrics=Metrics(server.registry),
        uses=uses,
    )
    try:
        preflight = Preflight(registry, config)
        jobs = Jobs(store, notifier, preflight=preflight, uses=uses, max_nodes=launcher.max_nodes, quotas=server.quotas)
        deliveries = Deliveries(jobs, store=store, notifier=notifier, registry=registry, uses=uses)
        servicer = TrainingServicer(jobs, deliveries, Logs(store, launcher))
        server.add(training_service_pb2_grpc.add_TrainingServiceServicer_to_server, servicer, FULL_NAME)
        server.prepare(FULL_NAME, store.prepare, check=store.look)
        server.prepare(FULL_NAME, supervisor.start)
        server.prepare(FULL_NAME, lambda: uses.start(store.unfinished_specs))
        yield
    finally:
        await uses.close()
        await supervisor.close()
        await database.close()


class Addresses:
    """Where jobs find the services; known once the server is bound."""

    def __init__(self, config: TrainingConfig, own: Callable[[], str]) -> None:
        self._config, self._own = config, own

    def data(self) -> str:
        """The data service."""
        return self._config.data_address or self._own()

    def of_jobs(self) -> dict[str, str]:
        """The addresses by their keys in the spec of a job."""
        given = self._config.addresses()
        return {name: given[name] or self._own() for name in given}


def _launcher(config: TrainingConfig, *, registry: ModelRegistry, addresses: Addresses, notifier: Notifier) -> Launcher:
    if config.launcher == "process":
        return ProcessLauncher(config, registry=registry, addresses=addresses)
    # Imported late: the client library takes a second to load, and a laptop does not need it.
    from services.training.kubernetes.launcher import KubernetesLauncher

    return KubernetesLauncher(config, registry=registry, notify=notifier.notify_all)


def main() -> None:
    """Runs the service until SIGTERM."""
    run("training", TrainingConfig, wire)


if __name__ == "__main__":
    main()
