# ruff: noqa: N802  the names of RPCs
"""Reports from real media, and over a real data service beside a training service that only tells its history."""

import datetime
import hashlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from omnialign import media, names
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.v1 import (
    alignment_service_pb2,
    content_pb2,
    data_service_pb2,
    record_pb2,
    training_service_pb2,
    training_service_pb2_grpc,
)
from services.alignment.report import gallery, lineage, make_report, page
from services.alignment.report.gather import Material
from services.alignment.report.statistics import report_numbers
from services.alignment.report.tallies import Tallies
from services.data import __main__ as data
from services.data.config import DataConfig
from services.pipeline.pages.template import duration
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from tests.pages import Page
from tests.services.alignment.test_evaluation import tallied

SUBTASKS = ("t2t", "ti2t", "ta2t", "tv2t", "t2i", "t2a", "t2v", "ti2ti")
STAGES = ["preflight", "feedback_modeling", "sample", "critique", "refine"]
STAGES += ["verify", "pair", "optimize", "evaluate", "report"]
COLOURS = {"red": (214, 60, 52), "blue": (52, 92, 214), "green": (44, 150, 84), "yellow": (230, 190, 50)}
HOSTILE = '<script>alert("x")</script><img src=https://example.com/p.png onerror=alert(1)>'


def shape(colour: str, *, offset: int = 0) -> np.ndarray:
    pixels = np.full((32, 32, 3), 245, dtype=np.uint8)
    pixels[8 + offset : 22 + offset, 6:22] = COLOURS[colour]
    return pixels


def tone(hertz: float, *, seconds: float = 1.0, rate_hz: int = 8000) -> bytes:
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    return media.write_audio((0.5 * np.sin(2 * np.pi * hertz * time * (1 + 0.2 * time))).astype(np.float32), rate_hz)


def clip(colour: str) -> bytes:
    return media.write_video(np.stack([shape(colour, offset=i) for i in range(0, 10, 2)]), 4)


class Store:
    """Media by digest, as the data service would hold them."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def add(self, letter: str, number: int) -> content_pb2.Media:
        colour = list(COLOURS)[number % 4]
        modality, mime, data = {
            "i": (content_pb2.MODALITY_IMAGE, "image/png", media.write_image(shape(colour))),
            "a": (content_pb2.MODALITY_AUDIO, "audio/wav", tone(400 + 300 * (number % 4))),
            "v": (content_pb2.MODALITY_VIDEO, "video/mp4", clip(colour)),
        }[letter]
        sha256 = hashlib.sha256(data).hexdigest()
        self.data[sha256] = data
        return content_pb2.Media(modality=modality, mime_type=mime, sha256=sha256, size_bytes=len(data))

    def message(self, letters: str, text: str, number: int) -> content_pb2.Content:
        return content(*(text if letter == "t" else self.add(letter, number) for letter in letters))


def evaluated(store: Store, subtask: str, number: int, *, prompt: str = "") -> record_pb2.Record:
    read, _, written = subtask.partition("2")
    record = record_pb2.Record(id=f"{subtask}-{number:04d}", subtask=subtask, split="test")
    question = prompt or f"Draw what I say: two {list(COLOURS)[number % 4]} squares above a small circle, please."
    record.prompt.CopyFrom(store.message(read, question, number))
    correct = (number % 4 == 0, number % 6 != 0)
    for side, answer in enumerate(("There is one red square.", "There are two squares above a circle.")):
        response = record.responses.add(content=store.message(written, answer, number + 1 - side), source="model")
        response.feedback.critique = "All as asked." if correct[side] else "The colour is not the one asked for."
        for dimension in ("prompt_following", "objective_rules", "clarity"):
            score = 3 if correct[side] else (number + len(dimension)) % 3
            response.feedback.scores.add(
                dimension=dimension, score=score, rationale="" if score == 3 else "wrong colour"
            )
    record.labels["correct_base"], record.labels["correct_aligned"] = (str(mark).lower() for mark in correct)
    record.labels["held_out"] = str(number % 3 == 0).lower()
    record.comparison.verdict = [1, 1, 1, 2, 1, 3, 1, 4][number % 8]  # type: ignore[assignment]
    return record


def looped(store: Store, subtask: str, number: int) -> record_pb2.Record:
    record = evaluated(store, subtask, number)
    record.responses[0].feedback.refinement = "Use the colour that was asked for, and add a second square."
    record.comparison.forward_reason = "The second answer has the right colour."
    record.comparison.backward_reason = "The first answer has the right colour."
    if record.comparison.verdict == record_pb2.VERDICT_ABSTAIN:
        record.comparison.abstain_reason = "ANSWER_UNPARSABLE"
    return record


def job() -> alignment_service_pb2.AlignmentJob:
    made = alignment_service_pb2.AlignmentJob(name="projects/default/alignmentJobs/tinyworld-llf", state=2)
    made.spec.base_model = "projects/default/models/tinyworld-base/versions/1"
    made.spec.dataset = "projects/default/datasets/tinyworld/versions/1"
    made.spec.seed, made.spec.feedback_fraction = 7, 0.25
    made.spec.checkers.append("tinyworld")
    for role, name in (
        ("base", "tinyworld-base"),
        ("feedback", "j-feedback"),
        ("judge", "j-judge"),
        ("aligned", "j-aligned"),
    ):
        setattr(made.models, role, f"projects/default/models/{name}/versions/1")
    made.pairs.tried, made.pairs.kept, made.pairs.tied, made.pairs.lost, made.pairs.abstained = 1500, 891, 402, 140, 67
    for number, name in enumerate(STAGES):
        status = made.stages.add(stage=name, state=3, completed=1500, total=1500, tokens=120000 * (number % 4))
        status.elapsed.FromTimedelta(datetime.timedelta(seconds=3.4 * number * number + 0.2))
        status.metrics["loss"] = float("nan") if name == "optimize" else 0.5
    made.update_time.FromDatetime(datetime.datetime(2026, 11, 23, 12, 30))
    made.create_time.FromDatetime(datetime.datetime(2026, 11, 23, 12, 20))
    return made


def edges() -> list[data_service_pb2.LineageEdge]:
    start = "projects/default/"
    pairs = [
        ("datasets/tinyworld/versions/1", "trainingJobs/j-feedback", "read_by"),
        ("models/tinyworld-base/versions/1", "trainingJobs/j-feedback", "tuned_by"),
        ("trainingJobs/j-feedback", "models/j-feedback/versions/1", "made"),
        ("models/j-feedback/versions/1", "datasets/j-critique", "wrote"),
        ("datasets/j-sample", "datasets/j-critique", "criticised_in"),
        ("models/tinyworld-base/versions/1", "datasets/j-sample", "wrote"),
        ("datasets/j-critique", "datasets/j-pairs", "paired_in"),
        ("datasets/j-pairs", "trainingJobs/j-optimize", "read_by"),
        ("trainingJobs/j-optimize", "models/j-aligned/versions/1", "made"),
    ]
    return [data_service_pb2.LineageEdge(source=start + a, target=start + b, relation=r) for a, b, r in pairs]


def material(*, per_subtask: int = 12, hostile: bool = False) -> Material:
    store = Store()
    records = [evaluated(store, name, i) for name in SUBTASKS for i in range(per_subtask)]
    if hostile:
        records[0].prompt.CopyFrom(content(HOSTILE))
        for record in records:
            record.responses[1].feedback.critique = HOSTILE
            record.id = record.id + "<b>"
    loop = [looped(store, name, i) for name in SUBTASKS for i in range(8)]
    answers, chosen = choose(gallery.AnswerChoice(7), records), choose(gallery.FeedbackChoice(7), loop)
    if hostile:
        answers["t2t"] = [records[0]]
        records[0].history.add(role=content_pb2.ROLE_SYSTEM, content=content(HOSTILE))
    references = gallery.media_of([*chosen, *(record for group in answers.values() for record in group)])
    curve = [{"step": i, "loss": 2 / (1 + i / 20), "rewards/accuracies": 1 - 0.5 / (1 + i)} for i in range(1, 120)]
    curves = {"feedback_modeling/j-feedback": curve, "optimize/j-optimize": curve}
    return Material(tallied(records), answers, chosen, references, store.data, curves, edges())


def choose(choice, records):
    for record in records:
        choice.add(record)
    return choice.close()


def numbers_of(made: Material) -> dict:
    return report_numbers(job(), tallies=made.tallies, curves=made.curves, edges=made.edges)


def html_of(made: Material) -> str:
    return page.render(numbers_of(made), job=job(), material=made)


class Training(training_service_pb2_grpc.TrainingServiceServicer):
    """Tells the history of a job that ended."""

    async def WatchTrainingJob(self, request, context):
        for step in range(1, 4):
            event = training_service_pb2.WatchTrainingJobResponse(sequence=step)
            event.training_job.name = request.name
            event.training_job.state = 3 if step == 3 else 2  # type: ignore[assignment]
            event.training_job.progress.completed_steps = step
            event.training_job.progress.metrics["loss"] = 1 / step
            if step > 1:  # the evaluation of step 2, which the report of step 3 repeats
                event.training_job.progress.evaluated_step = 2
                event.training_job.progress.metrics["eval/loss"] = 0.75
            yield event


@pytest.fixture
async def address(tmp_path) -> AsyncIterator[str]:
    server = Server(ServerConfig(), name="test")
    async with data.wire(server, DataConfig(root=tmp_path / "data")), serving(server) as address:
        yield address


@pytest.fixture
async def client(address) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address) as connected:
        yield connected


@pytest.fixture
async def training() -> AsyncIterator[AsyncClient]:
    """A client of the training service, which has an address of its own in a cluster."""
    server = Server(ServerConfig(), name="test")
    full_name = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name
    server.add(training_service_pb2_grpc.add_TrainingServiceServicer_to_server, Training(), full_name)
    async with serving(server) as address, AsyncClient(address) as connected:
        yield connected


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    await server.start()
    server.set_serving()
    yield server.address
    await server.stop(0)


async def stored(client: AsyncClient, dataset_id: str, records: Sequence[record_pb2.Record], store: "Store") -> str:
    """Puts records and their media into the data service and returns the dataset's name."""
    for reference in gallery.media_of(records).values():
        await client.upload_media(store.data[reference.sha256], modality=reference.modality)
    dataset = await client.create_dataset(dataset_id)
    await client.append_records(dataset.name, records)
    return dataset.name


@pytest.fixture(scope="module")
def sample() -> Material:
    return material()


@pytest.fixture(scope="module")
def html(sample: Material) -> str:
    return html_of(sample)


def test_the_page_loads_nothing_from_outside(html):
    found = Page(html)
    assert found.loads
    assert all(value.startswith(("data:", "#")) for value in found.loads)
    assert not re.search(r"@import|url\(", html)
    assert "default-src 'none'" in html


def test_a_hostile_prompt_is_text_and_nothing_else():
    found = Page(html_of(material(per_subtask=2, hostile=True)))
    assert not {"script", "b>"} & set(found.tags)
    assert found.handlers == []
    assert HOSTILE in "".join(found.words)


def test_an_example_shows_what_came_before_its_prompt_with_the_roles():
    made = material(per_subtask=2)
    record = made.loop[0]
    picture = Store().add("i", 1)
    for role, words in ((content_pb2.ROLE_SYSTEM, "Be brief."), (content_pb2.ROLE_USER, "Said before.")):
        record.history.add(role=role, content=content(words, picture))
    made.references.update(gallery.media_of([record]))
    found = html_of(made)
    labels = [found.index(f'<div class="label">{role}</div>') for role in ("system", "user")]
    assert labels[0] < found.index("Be brief.") < labels[1] < found.index("Said before.")


def test_every_subtask_is_on_the_page_with_pictures_players_and_frames(html):
    found = Page(html)
    for name in SUBTASKS:
        assert f'data-subtask="{name}"' in html
    assert found.tags.count("audio") > 2
    assert found.tags.count("video") > 2
    assert "data:image/png;base64," in html
    assert "data:audio/wav;base64," in html
    assert "data:video/mp4;base64," in html


def test_failures_are_shown_beside_successes(html):
    for word in ("improved", "still wrong", "regressed", "refused: tie", "refused: judge abstained"):
        assert word in html


def test_the_numbers_are_valid_json_with_the_promised_keys(sample):
    numbers = json.loads(json.dumps(numbers_of(sample), allow_nan=False))
    assert set(numbers["subtasks"]) == set(SUBTASKS)
    for measures in (*numbers["subtasks"].values(), numbers["mean"]):
        assert {"base", "aligned", "base_interval", "aligned_interval", "gain", "win_rate", "judge"} <= set(measures)
    assert numbers["pairs"] == {"tried": 1500, "kept": 891, "tied": 402, "lost": 140, "abstained": 67}
    assert list(numbers["stages"]) == STAGES
    assert numbers["stages"]["optimize"]["metrics"] == {"loss": None}
    assert numbers["stages"]["verify"]["seconds_per_kept_pair"] == pytest.approx(85.2 / 891)
    assert (numbers["seed"], numbers["job"]) == (7, "projects/default/alignmentJobs/tinyworld-llf")
    assert numbers["spec"]["feedback_fraction"] == 0.25


async def test_a_report_is_made_from_what_the_services_hold(client, training):
    store, finished = Store(), job()
    records = [evaluated(store, name, i) for name in ("t2i", "t2a", "tv2t") for i in range(6)]
    await stored(client, "tinyworld-llf-evaluation", records, store)
    await stored(client, "tinyworld-llf-verify", [looped(store, "t2i", i) for i in range(4)], store)
    await client.add_lineage(edges())
    finished.models.aligned = "projects/default/models/j-aligned/versions/1"
    finished.stages[7].training_jobs.append("projects/default/trainingJobs/j-optimize")
    report = await make_report(finished, data=client, training=training)
    numbers = json.loads(report["json"])
    assert list(numbers["subtasks"]) == ["tv2t", "t2i", "t2a"]
    assert [point["loss"] for point in numbers["training"]["optimize/j-optimize"]] == [1, 0.5, pytest.approx(1 / 3)]
    assert [point.get("eval/loss") for point in numbers["training"]["optimize/j-optimize"]] == [None, 0.75, None]
    assert len(numbers["lineage"]) >= len(edges())
    html = report["html"].decode()
    assert "The second answer has the right colour." in html
    assert all(value.startswith(("data:", "#")) for value in Page(html).loads)


@pytest.mark.parametrize("project", ["default", "elsewhere"])
async def test_names_in_a_stored_job_are_followed_within_its_project_only(client, training, address, project):
    store, finished = Store(), job()
    aligned = finished.models.aligned = f"projects/{project}/models/named/versions/1"
    async with AsyncClient(address, project=project) as owner:
        table = await stored(owner, "named", [evaluated(store, "t2i", i) for i in range(6)], store)
        await owner.add_lineage([data_service_pb2.LineageEdge(source=table, target=aligned, relation="made")])
    for status in finished.stages:
        status.dataset = table
    finished.stages[7].training_jobs.append(f"projects/{project}/trainingJobs/named")
    numbers = json.loads((await make_report(finished, data=client, training=training))["json"])
    found = (list(numbers["subtasks"]), list(numbers["training"]), [edge["target"] for edge in numbers["lineage"]])
    assert found == ((["t2i"], ["optimize/named"], [aligned]) if project == "default" else ([], [], []))


async def test_a_job_that_left_no_tables_gets_a_report_with_gaps(client, training):
    assert json.loads((await make_report(job(), data=client, training=training))["json"])["subtasks"] == {}


def test_a_job_without_evaluation_pairs_or_training_still_has_a_page():
    empty = Material(Tallies(), {}, [], {}, {})
    assert "No evaluated answers." in html_of(empty)


def test_the_choice_of_examples_is_the_same_for_the_same_seed():
    store = Store()
    records = [evaluated(store, "t2i", number) for number in range(12)]
    orders = (records, records[::-1], records)
    chosen = [choose(gallery.AnswerChoice(seed), order) for seed, order in zip((7, 7, 8), orders, strict=True)]
    assert chosen[0] == chosen[1] != chosen[2]
    kinds = [gallery.outcome(record) for record in chosen[0]["t2i"]]
    assert kinds[:2] == ["improved", "improved"]
    assert {"still wrong", "right before and after"} <= set(kinds) or "regressed" in kinds


def test_lineage_is_drawn_from_sources_to_products_and_survives_a_ring():
    graph = lineage.draw(edges())
    top = {names.id_of(node.name): node.y for node in graph.nodes if "datasets/j" in node.name}
    assert top["j-sample"] < top["j-critique"] < top["j-pairs"]
    assert all(node.x >= 0 and node.x + 196 <= graph.width for node in graph.nodes)
    ring = [data_service_pb2.LineageEdge(source=a, target=b, relation="made") for a, b in ("ab", "ba", "aa")]
    assert len(lineage.draw(ring).nodes) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.25, "0.25 s"), (42, "42 s"), (61.4, "1 min 01 s"), (7260, "2 h 01 min")],
)
def test_durations_are_written_for_people(seconds, text):
    assert duration(seconds) == text
