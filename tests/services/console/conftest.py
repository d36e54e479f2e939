"""The console on a real server, over real data and annotation services and job services that hold what tests give."""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client import CollectorRegistry

from benchmarks.null_services import Behaviour, add_models
from omnialign.client import AsyncClient
from services.annotation.__main__ import wire as wire_annotation
from services.annotation.config import AnnotationConfig
from services.console.__main__ import opened
from services.console.config import ConsoleConfig
from services.console.server import WebServer
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.config import ServerConfig
from services.runtime.connections import ClientConfig, ClientFactory
from services.runtime.server import Server
from tests.services.console.issuer import AUDIENCE, Issuer
from tests.services.console.job_services import Jobs, add_job_services

TOKENS = {
    "alice-token": {"demo": "admin"},
    "ann-token": {"demo": "annotator"},
    "bob-token": {"other": "submitter"},
    "service": {"*": "service"},
}
ANSWER_SECONDS = 60.0


@dataclass
class Running:
    """A console and what is behind it."""

    web: WebServer
    services: Server
    jobs: Jobs
    registry: CollectorRegistry
    config: ConsoleConfig
    client: AsyncClient
    """Calls the services as a program does."""
    models: Behaviour
    """What the models behind Generate, Critique and CompareResponses do."""
    browsers: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def browser(self) -> "Browser":
        # The address is plain: to read the certificate authorities of the machine would take as long as some tests.
        # The first export of a process starts the server of its children, which takes seconds on a busy machine.
        http = httpx2.AsyncClient(base_url=self.web.address, verify=False, timeout=ANSWER_SECONDS)
        return Browser(await self.browsers.enter_async_context(http))


class Browser:
    """Keeps cookies, sends what a browser sends, and finds the secret of forms."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await self.http.get(path, headers={key.replace("_", "-"): value for key, value in headers.items()})

    async def post(self, path: str, fields: dict[str, str] | None = None, *, page: str = "") -> httpx2.Response:
        """Submits a form of a page of ours, whose secret it repeats."""
        secret = await self.secret(page or "/sign-in")
        headers = {"origin": str(self.http.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
        return await self.http.post(path, data={"csrf": secret, **(fields or {})}, headers=headers)

    async def secret(self, page: str) -> str:
        found = await self.http.get(page, follow_redirects=True)
        return found.text.split('hx-headers=\'{"x-csrf-token": "')[1].split('"')[0]

    async def sign_in(self, token: str = "alice-token", *, project: str = "demo") -> httpx2.Response:
        return await self.post("/sign-in", {"token": token, "project": project})


@contextlib.asynccontextmanager
async def running(root: Path, *, tokens: bool, issuer: Issuer | None = None, **settings: Any) -> AsyncIterator[Running]:
    auth, own = AuthConfig(), ClientConfig()
    if tokens:
        entries = [
            {"name": token, "sha256": hashlib.sha256(token.encode()).hexdigest(), "roles": roles}
            for token, roles in TOKENS.items()
        ]
        (root / "tokens.yaml").write_text(yaml.safe_dump({"tokens": entries}))
        (root / "own-token").write_text("service")
        auth, own = AuthConfig(tokens_file=root / "tokens.yaml"), ClientConfig(token_file=root / "own-token")
    if issuer:
        auth = replace(auth, oidc_issuer=issuer.url, oidc_audience=AUDIENCE, oidc_ca_file=issuer.ca_file)
        settings = issuer.settings(**settings)
    server, jobs, registry = Server(ServerConfig(), name="test", auth=auth, clients=own), Jobs(), CollectorRegistry()
    models, address = Behaviour(), server.bind()
    annotation = AnnotationConfig(root=root / "annotation", data_address=address, refinement_address=address)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(wire_data(server, DataConfig(root=root / "data")))
        await stack.enter_async_context(wire_annotation(server, annotation))
        add_job_services(server, jobs)
        add_models(server, models)
        await server.start()
        server.set_serving()
        stack.push_async_callback(server.stop, 0)
        config = ConsoleConfig(
            gateway_address=server.address, project="demo", sign_in=tokens, deadline_seconds=3.0, **settings
        )
        web = await stack.enter_async_context(
            opened(config, ServerConfig(), clients=ClientFactory(), registry=registry)
        )
        client = AsyncClient(server.address, project="demo", token="service" if tokens else None)
        found = Running(web, server, jobs, registry, config, await stack.enter_async_context(client), models)
        await stack.enter_async_context(found.browsers)
        yield found


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Running]:
    """A console where people sign in."""
    async with running(tmp_path, tokens=True) as found:
        yield found


@pytest.fixture
async def open_console(tmp_path: Path) -> AsyncIterator[Running]:
    """A console on a laptop, where nobody signs in."""
    async with running(tmp_path, tokens=False) as found:
        yield found


@pytest.fixture
async def browser(console: Running) -> Browser:
    """A person who has signed in."""
    found = await console.browser()
    assert (await found.sign_in()).status_code == 303
    return found
