"""Pods among services that want TLS both ways and tokens: all they need is what their Secrets hold."""

import base64
from pathlib import Path

import pytest
import yaml

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.v1 import record_pb2
from omnialign.v1.training_service_pb2 import TrainingJob
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.auth.tokens import digest
from services.runtime.config import ServerConfig
from services.runtime.connections import ClientConfig
from services.runtime.server import Server
from services.training.__main__ import wire
from services.training.config import TrainingConfig
from tests.certificates import Authority
from tests.processes import free_port
from tests.services.inference.model_factory import random_lora
from tests.services.training.kubernetes.conftest import kubeconfig_of
from tests.services.training.kubernetes.kubelet import Kubelet
from tests.services.training.test_real_run import make_model


def secured(folder: Path, port: int) -> tuple[Server, dict, dict]:
    """A server, how a person's client connects to it, and the Secret of the pods' certificates."""
    ca = Authority(folder / "ca")
    pair, mine = ca.issue("server"), ca.issue("client")
    roles = {"root": {"*": "admin"}, "service": {"*": "service"}}
    entries = [{"name": name, "sha256": digest(name), "roles": role} for name, role in roles.items()]
    for name, text in (("tokens", yaml.safe_dump({"tokens": entries})), ("key", "k" * 40), ("own", "service")):
        (folder / name).write_text(text)
    server = Server(
        ServerConfig(
            port=port, tls_certificate_file=pair.certificate, tls_key_file=pair.key, tls_client_ca_file=ca.file
        ),
        name="test",
        auth=AuthConfig(tokens_file=folder / "tokens", job_key_file=folder / "key"),
        clients=ClientConfig(ca.file, mine.certificate, mine.key, token_file=folder / "own"),
    )
    files = {"ca.crt": ca.file, "tls.crt": mine.certificate, "tls.key": mine.key}
    data = {key: base64.b64encode(path.read_bytes()).decode() for key, path in files.items()}
    secret = {"kind": "Secret", "metadata": {"name": "trainer-tls"}, "data": data}
    how = {"project": "demo", "ca_file": ca.file, "certificate_file": mine.certificate, "key_file": mine.key}
    return server, how, secret


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_pod_fetches_a_lora_and_its_base_reads_and_delivers_with_its_own_token_over_tls(api, spec, tmp_path):
    port = free_port()
    server, how, secret = secured(tmp_path, port)
    api.add("secrets", secret)
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig_of(api)))
    settings = {"image": "i", "namespace": "t", "kubeconfig": str(tmp_path / "kubeconfig")}
    (tmp_path / "kubernetes.yaml").write_text(yaml.safe_dump({**settings, "tls": {"secretName": "trainer-tls"}}))
    config = TrainingConfig(
        root=tmp_path / "training",
        launcher="kubernetes",
        kubernetes_file=tmp_path / "kubernetes.yaml",
        data_address=f"127.0.0.1:{port}",
        training_address=f"127.0.0.1:{port}",
    )
    async with wire_data(server, DataConfig(root=tmp_path / "data")), wire(server, config):
        await server.start()
        server.set_serving()
        async with (
            Kubelet(api, tmp_path / "node", rendezvous_port=free_port()) as kubelet,
            AsyncClient(server.address, token="root", **how) as root,
        ):
            base = (await root.register_model("base", make_model(tmp_path / "tiny").as_uri())).name
            lora = random_lora(tmp_path / "lora", f"file://{tmp_path / 'tiny'}", base_model_name_or_path=base)
            spec.base_model = (await root.register_model("lora", lora)).name
            spec.dataset = (await root.create_dataset("pairs")).name
            spec.method, spec.target, spec.hyperparameters.max_steps = "sft", "response", 2
            answer = record_pb2.Response(content=content("yes"))
            records = [record_pb2.Record(id="r", subtask="t2t", prompt=content("hi"), responses=[answer])]
            await root.append_records(spec.dataset, records)
            await root.commit_version(spec.dataset)
            created = await root.create_training_job("tune", spec)
            job = [event async for event in root.watch_training_job(created.name)][-1].training_job
            logs = "\n".join(path.read_text() for path in kubelet.logs.values())
            assert job.state == TrainingJob.STATE_SUCCEEDED, f"{job}\n{logs}"
            assert job.model == "projects/demo/models/aligned/versions/1"
            assert (await root.get_model_version(job.model)).lora_base == base
        await server.stop(0)
