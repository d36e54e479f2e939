"""What a report shows of training: curves, and what a policy was rewarded for."""

from dataclasses import replace

import pytest

from omnialign.v1 import alignment_service_pb2
from services.alignment.report import page
from services.alignment.report.gather import thinned
from services.alignment.report.statistics import reinforcement
from tests.services.alignment.test_report import html_of, material


def test_a_long_history_is_thinned_and_keeps_its_end():
    points = [{"step": float(i)} for i in range(1001)]
    short = thinned(points)
    assert len(short) <= 400
    assert short[-1] == points[-1]
    assert thinned([]) == []


def test_evaluations_are_not_thinned_away():
    points = [{"step": float(i), **({"eval/loss": 1.0} if i % 100 == 7 else {})} for i in range(3001)]
    assert [point["step"] for point in thinned(points) if "eval/loss" in point] == list(range(7, 3001, 100))


def test_a_measure_of_examples_held_out_is_drawn_in_the_box_of_the_learnt_ones():
    points = [{"step": i, "loss": 4.0 - i, **({"eval/loss": 5.0} if i == 2 else {})} for i in range(1, 4)]
    (curve,) = page.draw_curves("optimize/j-optimize", points)
    assert (curve["low"], curve["high"]) == (1.0, 5.0)
    assert curve["held_out"] == "50.00,4.00"
    assert curve["path"].endswith("100.00,96.00")
    assert (curve["end"], curve["held_out_end"]) == (1.0, 5.0)
    (curve,) = page.draw_curves("optimize/j-optimize", [{"step": i, "loss": 1.0} for i in range(3)])
    assert curve["held_out"] == "" and curve["held_out_end"] is None


def test_the_report_sets_what_a_policy_was_rewarded_for_beside_what_a_checker_found():
    job = alignment_service_pb2.AlignmentJob(name="projects/default/alignmentJobs/j")
    job.stages.add(stage="reward_modeling").metrics["eval/accuracy"] = 0.75
    rising = [
        {"step": i, "rewards/mean": i / 10, "rewards/critic": i / 10, "rewards/checker": 1 - i / 20, "kl": 0.1}
        for i in range(20)
    ]
    curves = {"optimize/j-optimize": rising, "reward_modeling/j-reward": [{"step": 1, "loss": 0.5}]}
    (found,) = reinforcement(job, curves)
    assert found["reward_model_accuracy"] == 0.75
    assert found["measures"]["rewards/critic"] == pytest.approx({"first": 0.05, "last": 1.85})
    assert found["measures"]["rewards/checker"] == pytest.approx({"first": 0.975, "last": 0.075})
    assert found["measures"]["completions/length"] == {"first": None, "last": None}
    assert reinforcement(job, {"optimize/j-optimize": [{"step": 1, "loss": 0.5}]}) == []
    html = html_of(replace(material(), curves=curves))
    assert 'id="rewards"' in html and "<td>critic</td>" in html
    assert 'id="rewards"' not in html_of(material())
