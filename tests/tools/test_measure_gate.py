"""The tables of the gate's measurement, from runs of known numbers."""

from omnialign.v1 import alignment_service_pb2
from tools.measure_gate import Refinement, Run, page

JOB = alignment_service_pb2.AlignmentJob()
JOB.spec.seed, JOB.gate.precision = 11, 0.7


def run(refinements: list[Refinement]) -> Run:
    """A run whose judge is right on three of four held-out pairs, and surer where it is right."""
    return Run(JOB, refinements, [2.0, 2.0, 2.0, -1.0] * 15)


def test_both_rules_are_held_against_the_oracle_on_the_same_refinements() -> None:
    refinements = [Refinement(3, 2, is_better=True), Refinement(5, -1, is_better=True)]
    refinements += [Refinement(-2, 1, is_better=False), Refinement(-2, -2, is_better=True)]
    row = page([run(refinements)]).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:9] == ["11", "4", "3 (75.0%)", "1", "100.0%", "2", "100.0%", "2.00", "3.00"]
    assert cells[10] == "75.0% of 60"


def test_the_gain_of_each_job_stands_beside_its_rule() -> None:
    mean = {"base": 0.4, "aligned": 0.9, "gain": 0.5, "gain_interval": [0.45, 0.55]}
    report = {"seed": 11, "gate": None, "mean": mean, "pairs": {"kept": 248}}
    weighed = {**report, "gate": {"rule": "probability"}, "pairs": {"kept": 325}}
    rows = page([Run(JOB, [Refinement(1, 1, is_better=True)], [1.0] * 60, [report, weighed])]).split("\n\n")[2]
    assert rows.splitlines()[2:] == [
        "| 11 | probability | 325 | 40.0% | 90.0% | +50.0 | +45.0 to +55.0 |",
        "| 11 | words | 248 | 40.0% | 90.0% | +50.0 | +45.0 to +55.0 |",
    ]


def test_every_precision_has_a_row_and_one_out_of_reach_keeps_nothing() -> None:
    """Half of the surest are wrong."""
    chance = Run(JOB, [Refinement(1, 1, is_better=True)], [1.0, -1.0] * 30)
    rows = page([chance]).split("\n\n")[1].splitlines()[-6:]
    assert [row.split("|")[1].strip() for row in rows] == ["0.7", "0.75", "0.8", "0.85", "0.9", "0.95"]
    assert {tuple(cell.strip() for cell in row.split("|")[2:6]) for row in rows} == {("0.0%", "–", "0", "–")}
