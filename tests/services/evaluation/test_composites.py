"""AMU, AMG and overall: the published table, and what the formulas must be whatever the numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from omnialign.modeling.benchmark_items import CATEGORIES
from services.evaluation.composites import amg, amu, overall

GENERATION = (
    "selection", "following-t", "following-v", "following-a", "synergy-tv", "synergy-ta", "synergy-av",
)  # fmt: skip
# arXiv 2412.15838: four categories, AMU, seven parts, AMG, overall, as printed.
TABLE = {
    "LLaVA-v1.5-7B": "2.66 2.67 2.50 2.90 2.68 .182 5.62 9.47 4.73 .29 .33 .66 1.56 2.12",
    "Qwen2-VL": "2.76 3.07 2.40 4.05 3.07 .177 6.70 9.51 4.83 .52 .57 .66 2.16 2.62",
    "Qwen2-Audio": "3.58 4.53 3.40 2.65 3.54 .190 5.93 9.30 4.85 .42 .46 .66 1.97 2.75",
    "Chameleon-7B": "1.44 2.97 2.80 2.45 2.41 .156 4.21 9.39 4.66 .45 .47 .70 1.57 1.99",
    "Llama-3.1-8B-Instruct": "1.05 1.20 1.20 1.35 1.20 .231 7.69 9.58 5.15 .55 .59 .65 3.08 2.14",
    "Gemini-1.5-Pro": "5.36 5.67 6.70 6.70 6.11 .227 9.45 9.65 6.76 .44 .47 .66 3.05 4.58",
    "GPT-4o": "2.66 3.48 4.20 5.15 3.87 .266 9.51 9.70 6.64 .51 .56 .67 3.96 3.92",
}
ROUNDING = 0.0055
"""Half of the last printed digit, and what the rounding of the printed parts adds."""
SHARE = st.floats(0, 1)
SCORE = st.floats(0, 10)


@pytest.mark.parametrize("model", TABLE)
def test_the_published_table(model):
    *parts, printed_overall = map(float, TABLE[model].split())
    understanding = dict(zip(CATEGORIES, parts[:4], strict=True))
    generation = dict(zip(GENERATION, parts[5:12], strict=True))
    assert amu(understanding) == pytest.approx(parts[4], abs=ROUNDING)
    assert amg(generation) == pytest.approx(parts[12], abs=ROUNDING)
    assert overall(understanding | generation) == pytest.approx(printed_overall, abs=2 * ROUNDING)


def test_the_best_possible_model_has_thirty():
    assert amg(dict(zip(GENERATION, [1, 10, 10, 10, 1, 1, 1], strict=True))) == 30


@given(st.tuples(SHARE, SCORE, SCORE, SCORE, SHARE, SHARE, SHARE), st.integers(0, 6), st.floats(0, 1))
def test_generation_never_falls_when_a_part_rises(values, which, more):
    raised = list(values)
    raised[which] += more
    before, after = (amg(dict(zip(GENERATION, found, strict=True))) for found in (values, raised))
    assert after >= before - 1e-9


@given(SCORE, SCORE, SHARE, SHARE)
def test_images_and_videos_weigh_alike_in_the_visual_modality(images, videos, with_images, with_videos):
    parts = {"selection": 1.0, "following-t": 5.0, "following-a": 5.0, "synergy-ta": 0.5}
    both = {"following-i": images, "following-v": videos, "synergy-ti": with_images, "synergy-tv": with_videos}
    mean = {"following-v": (images + videos) / 2, "synergy-tv": (with_images + with_videos) / 2, "synergy-ia": 0.5}
    assert amg(parts | both | {"synergy-ia": 0.5}) == pytest.approx(amg(parts | mean))


def test_samples_of_a_bootstrap_go_through_the_same_formula():
    rows = np.random.default_rng(0).uniform(size=(5, len(GENERATION)))
    together = amg(dict(zip(GENERATION, rows.T, strict=True)))
    assert together == pytest.approx([amg(dict(zip(GENERATION, row, strict=True))) for row in rows])


@pytest.mark.parametrize("missing", GENERATION)
def test_a_part_that_was_not_measured_is_named(missing):
    with pytest.raises(InvalidArgument, match=missing) as refused:
        amg({name: 1.0 for name in GENERATION if name != missing})
    assert refused.value.reason == "PARTS_MISSING"


def test_understanding_takes_its_four_categories_and_no_others():
    with pytest.raises(InvalidArgument, match="safety"):
        amu(dict.fromkeys(CATEGORIES[:3], 1.0))
    with pytest.raises(InvalidArgument, match="'humour' is no category"):
        amu(dict.fromkeys((*CATEGORIES, "humour"), 1.0))
