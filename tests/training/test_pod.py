"""The parts of a pod's program; the whole of it runs in tests/services/training/kubernetes."""

import asyncio
import json
import os
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.errors import FailedPrecondition, InvalidArgument, Unavailable
from omnialign.retry import RetryPolicy
from tests.processes import free_port
from training import client, launch, pod
from training.client import PodClient, Stopped, connection_of, retry_while_away
from training.pod import RunFailed, Torchrun
from training.pod_paths import PodDocument, PodPaths, read_document

DOCUMENT = PodDocument(
    job="projects/team/trainingJobs/t",
    uid="u",
    attempt=2,
    method="sft",
    base_model="projects/team/models/base/versions/7",
    num_nodes=2,
    num_processes=4,
    host_pattern="j-{index}.j",
    rendezvous_port=29500,
    rendezvous_seconds=60.0,
    deliver_seconds=5.0,
    spec={"token": "secret", "training_address": "127.0.0.1:1", "data_address": "127.0.0.1:1"},
)


def place(folder: Path, **variables: str) -> PodPaths:
    given = {"DOCUMENT": f"{folder}/d.json", "WORKSPACE": f"{folder}/w", "SCRATCH": f"{folder}/s"}
    return PodPaths.from_environment({f"OMNIALIGN_POD_{key}": value for key, value in given.items()} | variables)


def node(*, index: int, endpoint: str, seconds: float = 5.0) -> launch.Node:
    return launch.Node(count=2, index=index, endpoint=endpoint, address="a", run_id="r", timeout_seconds=seconds)


def test_a_document_survives_its_way_through_a_file(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps({**DOCUMENT.to_json(), "of_a_newer_service": 1}))
    assert read_document(tmp_path / "d.json") == DOCUMENT
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(InvalidArgument):
        read_document(tmp_path / "d.json")


def test_a_pod_knows_its_part_of_the_rendezvous_from_its_number(tmp_path):
    second = place(tmp_path, JOB_COMPLETION_INDEX="1").node(DOCUMENT)
    assert (second.endpoint, second.address, second.run_id) == ("j-0.j:29500", "j-1.j", "u-2")
    assert place(tmp_path).base_model(DOCUMENT.base_model).name == "base-7"


def test_the_command_of_several_nodes_names_the_meeting_and_its_host(tmp_path):
    def command(index: int) -> str:
        meeting = place(tmp_path, JOB_COMPLETION_INDEX=str(index)).node(DOCUMENT)
        return " ".join(launch.command("sft", spec_path=tmp_path, num_processes=4, node=meeting))

    assert "--nnodes 2 --nproc-per-node 4" in command(0)
    assert "--rdzv-endpoint j-0.j:29500 --rdzv-id u-2" in command(1)
    assert "is_host=1" in command(0) and "is_host=0" in command(1)
    assert sorted(f"j-{index}.j" for index in range(256))[0] == "j-0.j"  # torchrun's order puts rank 0 there


def test_the_environment_of_a_run_carries_no_secrets():
    kept = launch.environment(
        {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "OMNIALIGN_DATA_ROOT": "y"}, num_processes=2, num_cpus=4
    )
    assert kept["PATH"] == "/bin"
    assert kept["OMP_NUM_THREADS"] == "2"
    assert not {"AWS_SECRET_ACCESS_KEY", "OMNIALIGN_DATA_ROOT"} & set(kept)


def test_a_run_inherits_certificates_and_no_token_of_anybody(tmp_path):
    inherited = {"OMNIALIGN_PEER_CA_FILE": "ca", "OMNIALIGN_PEER_TOKEN_FILE": "token", "AWS_SECRET_ACCESS_KEY": "x"}
    kept = launch.environment(inherited, num_processes=2, num_cpus=4)
    assert kept["OMNIALIGN_PEER_CA_FILE"] == "ca"
    assert not {"OMNIALIGN_PEER_TOKEN_FILE", "AWS_SECRET_ACCESS_KEY"} & set(kept)


def test_calls_are_made_for_the_jobs_project_with_its_own_token():
    how = connection_of(DOCUMENT.job, token="secret", environ={"OMNIALIGN_PEER_CA_FILE": "/ca.crt"})
    assert (how["project"], how["token"], how["tls"], how["ca_file"]) == ("team", "secret", True, Path("/ca.crt"))
    assert connection_of(DOCUMENT.job, token="", environ={})["tls"] is False


@settings(max_examples=40)
@given(
    st.text(max_size=6000),
    st.lists(st.text(max_size=800), max_size=60),
    st.dictionaries(st.text(min_size=1, max_size=10), st.text(max_size=3000), max_size=3),
)
def test_last_words_fit_into_what_kubernetes_keeps_and_can_be_read(tmp_path_factory, message, tail, metadata):
    file = tmp_path_factory.mktemp("last") / "words"
    launch.write_termination(file, FailedPrecondition(message, reason="WHY", metadata=metadata), log_tail=tail)
    data = file.read_bytes()
    assert len(data) <= 4096
    assert "WHY" in json.dumps(json.loads(data)["status"])


def test_last_words_that_cannot_be_written_are_passed_over(tmp_path):
    launch.write_termination(tmp_path / "none" / "x", FailedPrecondition("x"), log_tail=[])


def test_a_run_notes_its_exit_code_for_its_node_once(tmp_path, monkeypatch):
    monkeypatch.setenv(launch.EXIT_VARIABLE, str(tmp_path / "code"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    launch.note_exit(65)
    assert launch.noted_exit(tmp_path / "code") is None
    monkeypatch.setenv("LOCAL_RANK", "0")
    launch.note_exit(75)
    assert launch.noted_exit(tmp_path / "code") == 75


def test_a_node_waits_for_the_first_one_to_answer():
    port, stop = free_port(), threading.Event()
    waiting = threading.Thread(
        target=pod._await_first_node, args=(node(index=1, endpoint=f"127.0.0.1:{port}"),), kwargs={"stop": stop}
    )
    waiting.start()
    waiting.join(timeout=0.3)
    assert waiting.is_alive()
    with socket.create_server(("127.0.0.1", port)):
        waiting.join(timeout=5)
    assert not waiting.is_alive()


def test_a_first_node_that_never_comes_is_an_error_of_its_own():
    stop = threading.Event()
    absent = node(index=1, endpoint="name-that-does-not-resolve.invalid:29500", seconds=0.2)
    with pytest.raises(Unavailable) as caught:
        pod._await_first_node(absent, stop=stop)
    assert caught.value.reason == "RENDEZVOUS_TIMEOUT"
    stop.set()
    with pytest.raises(Stopped):
        pod._await_first_node(node(index=1, endpoint=absent.endpoint, seconds=60), stop=stop)


async def test_a_service_that_is_away_is_asked_again_until_the_time_is_up():
    quick, tries = RetryPolicy(base_seconds=0.01, cap_seconds=0.05, budget_seconds=5.0), 0

    async def work() -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable("away")
        return "done"

    assert await retry_while_away(work, policy=quick, what="it") == "done"

    async def never() -> str:
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        await retry_while_away(never, policy=replace(quick, budget_seconds=0.05), what="it")
    with pytest.raises(Unavailable) as caught:
        await retry_while_away(lambda: asyncio.sleep(60), policy=quick, what="it", deadline_seconds=0.05)
    assert caught.value.reason == "SERVICE_UNAVAILABLE"


async def test_a_pod_told_to_stop_stops_waiting_for_a_model():
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        await PodClient(DOCUMENT, stop=stop)._unless_stopped(asyncio.sleep(60))


def test_a_pod_whose_service_is_gone_ends_and_kubernetes_does_not_start_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "HEARTBEAT_SECONDS", 0.05)
    left = replace(DOCUMENT, num_nodes=1, num_processes=1, abandoned_seconds=0.2)  # nobody listens at its address
    with pytest.raises(RunFailed) as caught:
        pod.run(left, place(tmp_path), stop=threading.Event())
    assert (caught.value.code, caught.value.error.reason) == (launch.EXIT_FAILED, "SERVICE_GONE")


def test_the_output_of_a_run_is_passed_on_and_its_end_is_kept(tmp_path, capsys):
    lines = "import sys\nfor i in range(100): print('line', i)\nsys.exit(3)"
    child = Torchrun([sys.executable, "-c", lines], environment=dict(os.environ), folder=tmp_path)
    assert child.wait(threading.Event()) == 3
    assert list(child.tail) == [f"line {i}" for i in range(60, 100)]
    assert "line 0\n" in capsys.readouterr().out


def test_a_stop_reaches_the_workers_and_not_their_parent_alone(tmp_path):
    up = str(tmp_path / "up")
    handler = "signal.signal(15, lambda *a: sys.exit(75))"
    worker = f"import signal,sys,time; {handler}; open({up!r}, 'w'); time.sleep(60)"
    parent = f"import subprocess,sys; sys.exit(subprocess.call([sys.executable, '-c', {worker!r}]))"
    child, stop = (
        Torchrun([sys.executable, "-c", parent], environment=dict(os.environ), folder=tmp_path),
        threading.Event(),
    )
    while not (tmp_path / "up").exists():
        pass
    stop.set()
    assert child.wait(stop) == 75
