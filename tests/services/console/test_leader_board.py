"""The leader board: boards of evaluations that did the same, sorted by address, ties as intervals that overlap."""

import re

from omnialign.v1.alignment_service_pb2 import StageStatus
from omnialign.v1.evaluation_service_pb2 import Evaluation
from services.console.leader_board import boards_of, rows_of
from tests.services.console.hostile import SCRIPT, fill
from tests.services.console.test_jobs import assert_harmless

PATH = "/projects/demo/leader-board"
BASE, TUNED, BEST = (f"projects/demo/models/{name}/versions/1" for name in ("base", "tuned", "best"))


def evaluation(name, *scores, seed=1, day=1):
    """An evaluation with scores (model, measure, value, half of its interval, group)."""
    made = Evaluation(name=f"projects/demo/evaluations/{name}", state=Evaluation.STATE_SUCCEEDED)
    made.create_time.FromJsonString(f"2026-11-{day:02}T10:00:00Z")
    made.manifest.seed = seed
    identity = made.manifest.benchmarks.add(items=60)
    identity.benchmark.name, identity.benchmark.dataset = "checkers", "projects/demo/datasets/world/versions/1"
    made.stages.add(stage="score", state=StageStatus.STATE_DONE, dataset=f"projects/demo/datasets/{name}-scores")
    for model, measure, value, half, group in scores:
        score = made.scores.add(benchmark="checkers", model=model, measure=measure, value=value, group=group)
        score.low, score.high = value - half, value + half
        made.manifest.models.add(model=model)
    return made


def filled(console):
    console.jobs.add(evaluation("first", (BASE, "correct", 0.3, 0.05, ""), (TUNED, "correct", 0.6, 0.1, ""), day=1))
    console.jobs.add(evaluation("second", (BEST, "correct", 0.7, 0.1, ""), (BEST, "loss", 0.2, 0.1, "t2i"), day=2))
    console.jobs.add(evaluation("other-seed", (BASE, "correct", 0.9, 0.01, ""), seed=2, day=3))


def order(page):
    """The models of a page in the order of its rows."""
    return re.findall(r'<tr><th scope="row"><a href="/(projects[^"]+)"', page)


async def test_models_are_sorted_by_a_column_and_ties_are_overlaps(console, browser):
    filled(console)
    newest = (await browser.get(PATH)).text
    assert order(newest) == [BASE]  # what was measured otherwise is on a board of its own
    board = re.findall(r'href="([^"]*\?board=[0-9a-f]{12})"', newest)[1]
    page = (await browser.get(board)).text
    assert order(page) == [BEST, TUNED, BASE]
    assert 'aria-sort="descending"' in page and "[0.600, 0.800]" in page
    rows = page.split("<tr>")[2:]
    assert "the highest" in rows[0] and "its interval overlaps the best" in rows[1]
    assert "overlaps" not in rows[2] and "compare with the best" in rows[2]
    assert not re.search(r"\brank|#\d", page)
    rising = re.search(r'href="([^"]*order=rising)"', page)[1].replace("&amp;", "&")
    assert order((await browser.get(rising)).text) == [BASE, TUNED, BEST]


async def test_a_score_leads_to_its_evaluation_its_items_and_a_comparison(console, browser):
    filled(console)
    board = re.findall(r'href="([^"]*\?board=[0-9a-f]{12})"', (await browser.get(PATH)).text)[1]
    page = (await browser.get(board)).text
    assert 'href="/projects/demo/evaluations/first"' in page
    assert 'href="/projects/demo/datasets/first-scores/records"' in page
    compare = re.search(r'href="(/projects/demo/compare[^"]*)"', page)[1].replace("&amp;", "&")
    assert "a=first" in compare and "b=second" in compare
    assert (await browser.get(compare)).status_code == 200
    assert ("compare", "projects/demo/evaluations/first projects/demo/evaluations/second") in console.jobs.asked


async def test_groups_are_columns_of_their_own_and_less_may_be_better(console, browser):
    filled(console)
    board = re.findall(r'href="([^"]*\?board=[0-9a-f]{12})"', (await browser.get(PATH)).text)[1]
    page = (await browser.get(f"{board}&groups=1")).text
    assert "text → image" in page and "the lowest" in page
    assert order(page) == [BEST, BASE, TUNED]  # those without a score come last


def test_the_newest_score_of_a_model_counts():
    old, new = (evaluation(name, (BASE, "correct", value, 0.1, "")) for name, value in (("old", 0.2), ("new", 0.4)))
    (board,) = boards_of([new, old])
    (column,) = board.columns(group=False)
    (row,) = rows_of(board, column, rising=False)
    assert row.cells[column].evaluation.name.endswith("/new")
    assert list(row.line) == [0.0, 50.0, 100.0]


def test_a_score_about_a_judge_is_in_the_row_of_the_judge():
    made = evaluation("preferences")
    made.scores.add(benchmark="preference", judge=TUNED, measure="accuracy", value=0.8, judged=10)
    made.scores.add(benchmark="preference", measure="agreement", value=0.8)  # of several judges: nobody's
    made.scores.add(benchmark="preference", judge=BASE, measure="accuracy")  # nothing was judged
    (board,) = boards_of([made])
    assert list(board.cells) == [TUNED]


async def test_nothing_that_others_wrote_runs_on_the_board(console, browser):
    made = evaluation("hostile", (SCRIPT, SCRIPT, 0.5, 0.1, SCRIPT))
    fill(made.manifest)
    for score in made.scores:
        fill(score)
    made.scores.add(benchmark=SCRIPT, model=SCRIPT, measure=SCRIPT, value=0.4)
    console.jobs.add(made)
    for query in ({}, {"groups": "1"}, {"board": SCRIPT, "sort": SCRIPT, "order": SCRIPT}):
        page = await browser.http.get(PATH, params=query)
        assert page.status_code == 200
        assert_harmless(page.text)


async def test_a_project_without_scores_says_so(console, browser):
    assert "There are no scores yet" in (await browser.get(PATH)).text
    assert (await browser.get("/projects/other/leader-board")).status_code == 404
