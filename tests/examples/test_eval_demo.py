"""`make eval-demo`: both models of the demo on the whole benchmark, and the oracle's word on the judges."""

import json
from pathlib import Path

import pytest

from examples.tinyworld import recipe
from examples.tinyworld.eval_demo import newest_state
from examples.tinyworld.evaluation import COMPOSITES, ROLES, Plan, evaluate
from examples.tinyworld.yardstick import Verdict, agreement, correlation
from omnialign.cli.output import Output
from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition
from services.embedded import embedded

MODEL = (Path(recipe.__file__).parent / "model").as_uri()


def verdict(item: str, judged: float, true: float) -> Verdict:
    return Verdict("amu", item, 1, False, "", "understanding", judged, true)


def test_a_judge_agrees_where_it_orders_two_answers_as_the_oracle_does() -> None:
    found = agreement(
        [verdict("a", 3, 9), verdict("a", 9, 9), verdict("a", 4, 2), verdict("b", 5, 5), verdict("b", 5, 8)]
    )
    assert found["pairs"] == 3  # the two nines are not told apart
    assert found["value"] == pytest.approx((0 + 1 + 0.5) / 3)
    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    assert agreement([verdict("a", 3, 5), verdict("b", 4, 9)]) == {"value": None, "interval": None, "pairs": 0}


def test_rank_correlation_asks_for_order_alone_and_shares_ranks() -> None:
    assert correlation([verdict("a", one, one**3) for one in range(5)]) == pytest.approx(1)
    assert correlation([verdict("a", -one, one) for one in range(5)]) == pytest.approx(-1)
    tied = [verdict("a", judged, true) for judged, true in ((1, 1), (1, 2), (2, 3), (2, 4))]
    assert correlation(tied) == pytest.approx(0.8944, abs=1e-4)  # as scipy.stats.spearmanr
    assert correlation([verdict("a", 5, one) for one in range(3)]) is None


def test_without_a_demo_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="run `make demo`") as caught:
        newest_state(tmp_path)
    assert caught.value.reason == "DEMO_MISSING"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_small_evaluation_of_both_models_has_all_figures(tmp_path: Path) -> None:
    async with embedded(tmp_path / "root") as stack, AsyncClient(stack.address) as client:
        models = {role: (await client.register_model(role, MODEL)).name for role in ROLES}
        plan = Plan(models, tmp_path / "out", small=True)
        await evaluate(client, plan, out=Output())
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        again = await evaluate(client, plan, out=Output())
    for role in ROLES:
        assert set(COMPOSITES) < set(report["models"][role])
        amu = report["models"][role]["amu"]
        # Judges of four steps abstain on much: a category of which nothing was judged leaves no AMU.
        low, high = amu["interval"] or (amu["value"], amu["value"])
        assert amu["value"] is None or 1 <= low <= amu["value"] <= high <= 10
        assert 1 <= report["models"][role]["by_the_oracle"]["amu"] <= 10
        assert set(report["ablation"][role]["amu"]) == {"value", "interval", "judged"}
    assert set(report["comparison"]) == set(COMPOSITES)
    assert report["judge"]["ratings"] > 0 and report["synergy"]["pairs"] == 4
    assert 0 <= report["synergy"]["agreement"] <= 1
    assert report["seconds"]["judges"].keys() == again["seconds"]["judges"].keys() == {"rating", "choosing", "synergy"}
    assert again["seconds"]["judges"] == report["seconds"]["judges"], "the judges are trained once"
    assert again["models"] == report["models"]
    assert "AMU" in (tmp_path / "out" / "evaluation.html").read_text()
