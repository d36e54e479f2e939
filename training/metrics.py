"""Prometheus metrics of a run, served by rank 0 on a port of its own: what an operator watches while it trains.

Off unless `OMNIALIGN_TRAINING_METRICS_PORT` is set. The names are promises: dashboards and alerts use them. Training
never waits for them: numbers are set in memory, a thread serves them, and a port that is taken costs a warning and not
the run. The job's name is not a label here; in a cluster it is a label of the scraped pod.
"""

import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, start_http_server
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

import omnialign
from training import distributed
from training.methods import METHODS

HOST_VARIABLE, PORT_VARIABLE = "OMNIALIGN_TRAINING_METRICS_HOST", "OMNIALIGN_TRAINING_METRICS_PORT"
LOOPBACK = "127.0.0.1"
COMPONENT = "trainer"
BUCKETS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)

log = logging.getLogger(__name__)


class TrainMetrics:
    """The metrics of one run, in a registry of their own."""

    def __init__(self, *, method: str, model: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._info(
            "omnialign_build", "The software that runs here.", component=COMPONENT, version=omnialign.__version__
        )
        self._info("omnialign_train", "What is being trained, and how.", method=method, model=model)
        self.loss = self._measure("loss", "Loss of the last step.")
        self.grad_norm = self._measure("grad_norm", "Norm of the last step's gradient, before clipping.")
        self.learning_rate = self._measure("learning_rate", "Learning rate of the last step.")
        self.step = self._gauge("step", "Steps done, those before a restart included.")
        self.steps_planned = self._gauge("steps_planned", "Steps that the run will have at its end.")
        self.ranks = self._gauge("ranks", "Processes of the run. A step ends only when all of them took part in it.")
        self.last_step = self._gauge("last_step_timestamp_seconds", "When the last step ended.")
        self.last_checkpoint = self._gauge(
            "last_checkpoint_timestamp_seconds", "When the last checkpoint was complete; 0 before the first."
        )
        self.tokens = self._counter("tokens", "Tokens seen, those before a restart included.")
        self.data_wait = self._counter("data_wait_seconds", "Time spent between steps, which is waiting for data.")
        self.step_duration = self._histogram("step_duration_seconds", "Time of a step, without the wait for its data.")
        self.checkpoint_duration = self._histogram("checkpoint_duration_seconds", "Time to write a checkpoint.")
        self.last_step.set_to_current_time()  # so that an alert on its age covers the time before the first step
        self._tokens_seen = 0.0
        self.eval_loss = self._measure("eval_loss", "Loss on the rows held out, in the last evaluation.")
        self._logged = {"loss": self.loss, "grad_norm": self.grad_norm, "learning_rate": self.learning_rate}
        self._logged["eval/loss"] = self.eval_loss
        for logged, measure in METHODS[method].measures.items():
            self._logged[logged] = self._measure(measure.name, measure.words)
            if METHODS[method].rows != "prompt":
                words = f"Of the rows held out, in the last evaluation. {measure.words}"
                self._logged[f"eval/{logged}"] = self._measure(f"eval_{measure.name}", words)

    def log(self, measures: Mapping[str, float]) -> None:
        """Shows a step's measures, by their names in the trainer's log; values that are not finite are skipped."""
        for name, gauge in self._logged.items():
            value = measures.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                gauge.set(value)
        tokens = float(measures.get("num_tokens", 0))
        if tokens > self._tokens_seen:
            self.tokens.inc(tokens - self._tokens_seen)
            self._tokens_seen = tokens

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"omnialign_train_{name}", words, registry=self.registry)

    def _measure(self, name: str, words: str) -> Gauge:
        """A gauge that is NaN until its value is known: a loss of 0 would be a lie."""
        gauge = self._gauge(name, words)
        gauge.set(math.nan)
        return gauge

    def _counter(self, name: str, words: str) -> Counter:
        return Counter(f"omnialign_train_{name}_total", words, registry=self.registry)

    def _histogram(self, name: str, words: str) -> Histogram:
        return Histogram(f"omnialign_train_{name}", words, buckets=BUCKETS_SECONDS, registry=self.registry)

    def _info(self, name: str, words: str, **facts: str) -> None:
        Info(name, words, registry=self.registry).info(facts)


class MetricsCallback(TrainerCallback):  # type: ignore[misc]  # untyped in transformers
    """Feeds the metrics from the trainer's loop: steps, logs, checkpoints, and the time between them.

    Time is told apart by the order of the events: from `step_begin` to `step_end` is the step, from its log to
    `save` the checkpoint, and the rest up to the next `step_begin` is waiting for data.
    """

    def __init__(self, metrics: TrainMetrics) -> None:
        self._metrics = metrics
        self._idle_since = self._step_since = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Shows where the run begins."""
        self._metrics.step.set(state.global_step)
        self._metrics.steps_planned.set(state.max_steps)
        self._metrics.ranks.set(distributed.world_size())
        self._idle_since = time.monotonic()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The batch has arrived."""
        self._step_since = time.monotonic()
        self._metrics.data_wait.inc(self._step_since - self._idle_since)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The weights are updated."""
        self._idle_since = time.monotonic()
        self._metrics.step_duration.observe(self._idle_since - self._step_since)
        self._metrics.step.set(state.global_step)
        self._metrics.last_step.set_to_current_time()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The step's measures are known."""
        self._metrics.log(logs or {})
        self._idle_since = time.monotonic()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The rows held out are evaluated; the time that this took is neither the step's nor the checkpoint's."""
        self._metrics.log(metrics or {})
        self._idle_since = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A checkpoint is complete; it was begun right after the step's measures were logged."""
        now = time.monotonic()
        self._metrics.checkpoint_duration.observe(now - self._idle_since)
        self._metrics.last_checkpoint.set_to_current_time()
        self._idle_since = now


def start_exporter(*, method: str, model: str, environ: Mapping[str, str] | None = None) -> MetricsCallback | None:
    """Serves the metrics of a run until the process ends; None on ranks other than 0 and without a port."""
    variables = os.environ if environ is None else environ
    port = variables.get(PORT_VARIABLE, "")
    if distributed.rank() != 0 or not port:
        return None
    metrics = TrainMetrics(method=method, model=model)
    try:
        server, _ = start_http_server(int(port), addr=variables.get(HOST_VARIABLE, LOOPBACK), registry=metrics.registry)
    except (OSError, ValueError, OverflowError) as error:
        log.warning("metrics cannot be served on port %s, and the run goes on without them: %s", port, error)
        return None
    log.info("metrics are served on port %d", server.server_port)
    return MetricsCallback(metrics)
