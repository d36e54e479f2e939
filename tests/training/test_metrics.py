"""What rank 0 tells Prometheus, over real HTTP."""

import math
import socket
import urllib.request
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import free_port
from training import launch, metrics


def values(registry_port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{registry_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.fixture
def port() -> int:
    return free_port()


def exported(port: int, **environ: str) -> metrics.MetricsCallback | None:
    return metrics.start_exporter(method="dpo", model="base", environ={metrics.PORT_VARIABLE: str(port), **environ})


def state(step: int) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=3)


def test_a_run_without_a_port_exports_nothing():
    assert metrics.start_exporter(method="sft", model="base", environ={}) is None


def test_only_rank_0_exports(monkeypatch, port):
    monkeypatch.setenv("RANK", "1")
    assert exported(port) is None


def test_a_taken_port_costs_a_warning_and_no_run(caplog, port):
    with socket.create_server(("127.0.0.1", port)):
        assert exported(port) is None
    assert "the run goes on without" in caplog.text


@pytest.mark.parametrize("wrong", ["many", "-1", "99999999"])
def test_a_port_that_is_none_costs_a_warning_and_no_run(caplog, wrong):
    assert metrics.start_exporter(method="sft", model="base", environ={metrics.PORT_VARIABLE: wrong}) is None
    assert "the run goes on without" in caplog.text


def test_a_scrape_tells_step_loss_tokens_and_times(port):
    meter = exported(port)
    assert meter is not None
    meter.on_train_begin(None, state(0), None)
    for step in (1, 2):
        meter.on_step_begin(None, state(step - 1), None)
        meter.on_step_end(None, state(step), None)
        meter.on_log(None, state(step), None, logs={"loss": 1 / step, "grad_norm": math.inf, "num_tokens": 10.0 * step})
    meter.on_save(None, state(2), None)
    found = values(port)
    assert found["omnialign_train_step"] == 2
    assert found["omnialign_train_steps_planned"] == 3
    assert found["omnialign_train_loss"] == 0.5
    assert math.isnan(found["omnialign_train_grad_norm"])  # not known yet, and never infinite
    assert found["omnialign_train_tokens_total"] == 20
    assert found["omnialign_train_ranks"] == 1
    assert found["omnialign_train_step_duration_seconds_count"] == 2
    assert found["omnialign_train_checkpoint_duration_seconds_count"] == 1
    assert found["omnialign_train_last_checkpoint_timestamp_seconds"] > found["process_start_time_seconds"]
    assert found["omnialign_train_info"] == 1


def test_a_log_line_without_tokens_takes_nothing_back(port):
    made = metrics.TrainMetrics(method="sft", model="base")
    made.log({"num_tokens": 7.0})
    made.log({"train_runtime": 3.0})
    made.log({"num_tokens": 9.0})
    assert made.registry.get_sample_value("omnialign_train_tokens_total") == 9


def test_the_port_reaches_the_program_and_other_settings_of_the_service_do_not():
    inherited = {metrics.PORT_VARIABLE: "9090", "OMNIALIGN_TRAINING_DATABASE_URL": "secret"}
    assert launch.environment(inherited, num_processes=1, num_cpus=1).items() >= {(metrics.PORT_VARIABLE, "9090")}
    assert "secret" not in launch.environment(inherited, num_processes=1, num_cpus=1).values()
