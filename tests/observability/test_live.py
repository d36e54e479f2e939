"""A real Prometheus scrapes the running stack and a training run during a job: every expression gives numbers.

The few that cannot, because this job has no such thing, are listed with the reason; one that does is taken off.
"""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.observability.collector import attributes
from tests.observability.expressions import Expression, expressions, variables, with_grafana_variables
from tests.observability.observed_stack import Job, ObservedStack, observed_stack
from tests.observability.prometheus import QueryFailed
from tests.observability.promql import selectors

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

EMPTY = {
    r"vllm:": "the embedded engine is not vLLM",
    r"DCGM_": "there is no GPU",
    r"kubelet_": "there is no kubelet",
    r"^sum by .*ALERTS\{": "no alert fires",
    r"omnialign_s3_": "the embedded stack keeps its objects in local files",
    r"omnialign_auth_": "a laptop asks nobody who they are",
    r"omnialign_(alignment|evaluation|drafting)_waiting": "no service was away",
    r"omnialign_(alignment|evaluation|drafting)_steps_repeated": "no process died",
    r'code="RESOURCE_EXHAUSTED"': "no call was refused",
}
"""Patterns of expressions for which this job has no data, and why."""


@dataclass
class Seen:
    """What was recorded while the stack ran."""

    job: Job
    numbers: dict[str, int | str] = field(default_factory=dict)
    """Numbers that each expression and selector gave, or Prometheus' refusal."""
    values: dict[str, list[str]] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    traces: list[list[Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> Seen:
    async def look() -> Seen:
        async with observed_stack(tmp_path_factory.mktemp("lab")) as lab:
            return await asyncio.to_thread(_look, lab)

    return asyncio.run(look())


def _look(lab: ObservedStack) -> Seen:
    found = Seen(lab.job, traces=list(lab.collector.traces().values()), labels=lab.prometheus.get("labels"))
    for expression in expressions():
        for text in (expression.text, *selectors(expression.text)):
            try:
                found.numbers[text] = lab.prometheus.numbers(text)
            except QueryFailed as error:
                found.numbers[text] = str(error)
    for where, selector, label in variables():
        found.values[where] = lab.prometheus.values(label, with_grafana_variables(selector))
    found.rules = [rule for group in lab.prometheus.get("rules")["groups"] for rule in group["rules"]]
    return found


def reason_for_nothing(text: str) -> str | None:
    return next((reason for pattern, reason in EMPTY.items() if re.search(pattern, text)), None)


def test_the_job_succeeded(seen: Seen):
    assert seen.job.state == Job.STATE_SUCCEEDED, seen.job.error


@pytest.mark.parametrize("expression", expressions(), ids=[e.where for e in expressions()])
def test_prometheus_understands_it_and_it_gives_numbers(seen: Seen, expression: Expression):
    """An alert gives numbers only when it fires: then what it is made of must."""
    assert isinstance(seen.numbers[expression.text], int), seen.numbers[expression.text]
    texts = selectors(expression.text) if expression.use == "alert" else [expression.text]
    for text in texts:
        reason = reason_for_nothing(text)
        if reason is None:
            assert seen.numbers[text], f"{text} gives nothing"
        else:
            assert not seen.numbers[text], f"{text} gives numbers although {reason}"


def test_no_alert_fires_when_all_is_well(seen: Seen):
    assert [rule["name"] for rule in seen.rules if rule.get("alerts")] == []


def test_prometheus_evaluates_every_rule_without_error(seen: Seen):
    assert seen.rules
    assert {rule["name"]: rule["lastError"] for rule in seen.rules if rule.get("lastError")} == {}
    assert {rule["health"] for rule in seen.rules} == {"ok"}


@pytest.mark.parametrize("where", [where for where, _, _ in variables()])
def test_variables_have_values_to_choose_from(seen: Seen, where: str):
    assert seen.values[where]


def test_no_label_of_ours_is_pushed_aside_by_one_of_the_target(seen: Seen):
    assert {label for label in seen.labels if label.startswith("exported_")} == {"exported_component"}


def test_a_chunks_trace_goes_from_alignment_through_refinement_to_data(seen: Seen):
    assert any(is_whole(spans) for spans in seen.traces)


def is_whole(spans: list[Any]) -> bool:
    """Whether a trace has the chain: chunk, step, call of refinement, call of data."""
    by_id = {span.span_id: span for span in spans}
    chains = []
    for span in spans:
        chain = [span.name]
        while span.parent_span_id in by_id:
            span = by_id[span.parent_span_id]
            chain.append(span.name)
        chains.append(chain)
    return any(
        chain[-2:] == ["step sample", "chunk loop"]
        and any("RefinementService/" in name for name in chain)
        and "DataService/" in chain[0]
        for chain in chains
    )


def test_every_step_of_a_chunk_and_every_stage_is_a_span_of_the_job(seen: Seen):
    spans = [span for spans in seen.traces for span in spans]
    work = [span for span in spans if span.name.startswith(("chunk ", "step ", "stage "))]
    assert len({attributes(span)["omnialign.job_uid"] for span in work}) == 4, "alignment, evaluation, two draft jobs"
    names = {span.name for span in work if attributes(span)["omnialign.job_uid"] == seen.job.uid}
    assert names >= {f"step {name}" for name in ("sample", "critique", "refine", "verify", "evaluation")}
    assert names >= {f"stage {name}" for name in ("preflight", "feedback_modeling", "pair", "optimize", "report")}
