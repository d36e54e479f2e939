"""What the pages show in these tests: jobs in every state, records with media, models, campaigns; and hostile text
wherever people or models write.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from omnialign.content import content
from omnialign.v1 import data_service_pb2, record_pb2
from omnialign.v1.annotation_service_pb2 import Adjudication, Campaign
from omnialign.v1.record_pb2 import Mark, TimeSpan
from tests.browser.pairs import pair_of, picture, thread, tone, uploaded
from tests.services.annotation.conftest import filled, pair
from tests.services.console.conftest import Running
from tests.services.console.hostile import SCRIPT
from tests.services.console.test_jobs import Evaluation, Job, alignment, training

REPORT = "<!doctype html><title>Report</title><h1>What the job did</h1>" + SCRIPT
ODD_FOLDER = "'\"><img src=x onerror=alert(1)>"
"""A name that a file system takes, and a page must not."""
ARABIC = "ما هذا؟ 🙂"


async def fill_console(console: Running, folder: Path) -> list[str]:
    """Fills the services behind a console; returns the paths of all its pages."""
    for state in (Job.STATE_SUCCEEDED, Job.STATE_FAILED, Job.STATE_PAUSED):
        console.jobs.add(alignment(state, f"projects/demo/alignmentJobs/job-{state}"))
        console.jobs.reports[f"projects/demo/alignmentJobs/job-{state}"] = REPORT.encode()
    running = console.jobs.add(alignment())
    running.spec.dataset = SCRIPT
    trained = console.jobs.add(training()[0], *training()[1])
    evaluation = Evaluation(name="projects/demo/evaluations/scored", state=Evaluation.STATE_SUCCEEDED)
    evaluation.spec.models.append("projects/demo/models/base/versions/1")
    evaluation.scores.add(
        benchmark="amu",
        measure="understanding",
        model=evaluation.spec.models[0],
        value=7.1,
        low=6.8,
        high=7.4,
        judged=60,
    )
    console.jobs.add(evaluation)
    dataset = await _dataset(console)
    model = await _model(console, folder)
    jobs = [running.name, "projects/demo/alignmentJobs/job-4", trained.name, evaluation.name]
    pages = [
        "projects/demo/jobs",
        "projects/demo/new-alignment-job",
        *jobs,
        "projects/demo/datasets",
        "projects/demo/new-dataset",
        dataset,
        f"{dataset}/versions/1",
    ]
    pages += [f"{dataset}/records", f"{dataset}/quarantine", "projects/demo/models", model.rpartition("/versions/")[0]]
    pages += [model, f"projects/demo/lineage?name={model}", "projects/demo/evaluations"]
    pages += ["projects/demo/compare", *await _brought(console, folder), *await _campaign(console)]
    await console.client.add_lineage(
        [
            data_service_pb2.LineageEdge(source=f"{dataset}/versions/1", target=model, relation="trained_on"),
            data_service_pb2.LineageEdge(source=model, target=running.name, relation=SCRIPT[:60]),
        ]
    )
    return [f"/{page}" for page in pages]


async def _dataset(console: Running) -> str:
    client = console.client
    shown, heard = await uploaded(console, "i", picture()), await uploaded(console, "a", tone())
    texts = (SCRIPT, ARABIC, "word " * 400)
    records = []
    for number, text in enumerate(texts):
        record = record_pb2.Record(id=f"record-{number}", subtask="tia2t", split="train")
        record.prompt.CopyFrom(content(text, shown, heard))
        for answer in (text, "The other answer."):
            response = record.responses.add(content=content(answer), source=SCRIPT)
            response.feedback.critique, response.feedback.refinement = text, text
            response.feedback.scores.add(dimension="prompt_following", score=2, rationale=text)
        record.preference.preferred, record.preference.reason = 1, text
        records.append(record)
    dataset = await client.create_dataset("scenes")
    await client.append_records(dataset.name, records)
    await client.commit_version(dataset.name)
    return str(dataset.name)


async def _model(console: Running, folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"weight": np.zeros((4, 4), dtype=np.float32)}, folder / "model.safetensors")
    return str((await console.client.register_model("base", folder.as_uri(), display_name=SCRIPT)).name)


async def _brought(console: Running, folder: Path) -> list[str]:
    """Rows of files, some of which are set aside."""
    place = folder / ODD_FOLDER
    place.mkdir()
    good = {"question": "Why?", "response_1": "a", "response_2": "b", "overall_response": 1}
    rows = [{**good, "question": f"Why {number}?"} for number in range(18)]
    rows += [{**good, "question": SCRIPT, "response_1": ""}, {**good, "overall_response": SCRIPT}]
    (place / "text-to-text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    async for _ in console.client.import_dataset("brought", place.as_uri()):
        pass
    return ["projects/demo/datasets/brought", "projects/demo/datasets/brought/quarantine"]


async def _campaign(console: Running) -> list[str]:
    """Pairs that two people see differently, one that is set aside, and one with what is hard to show."""
    client = console.client
    hard = await pair_of(console, "ti2t", record_id="sorts-last")
    hard.prompt.parts.add(media=await uploaded(console, "i", thread()))
    hard.responses[0].content.CopyFrom(content(f"{ARABIC} " * 1500))
    hard.responses[1].content.CopyFrom(content("a" * 20_000))
    records = [await pair_of(console, "ta2t", record_id=SCRIPT[:200]), pair(2), hard]
    for response in records[1].responses:
        response.content.CopyFrom(content(SCRIPT))
    dataset = await client.create_dataset("pairs")
    await client.append_records(dataset.name, records)
    version = await client.commit_version(dataset.name)
    words = {"display_name": SCRIPT, "instructions": f"{SCRIPT} {ARABIC}"}
    made = await client.create_campaign(
        "people", Campaign(dataset_version=version.name, overlap=2, keep_sides=True, **words)
    )
    people = (SCRIPT, ARABIC)
    for side, who in enumerate(people, start=1):
        task = (await client.lease_task(made.name, annotator=who)).task
        annotation = filled(task.rubric, preferred=side, words=SCRIPT)
        span = TimeSpan(start_seconds=1, end_seconds=2)
        annotation.feedback[0].marks.append(Mark(in_prompt=True, part=1, span=span, note=SCRIPT))
        await client.submit_task(task.name, annotation, revision=task.revision, annotator=who)
    task = (await client.lease_task(made.name, annotator=SCRIPT)).task
    await client.flag_task(task.name, SCRIPT, annotator=SCRIPT)
    first = f"{made.name}/items/1"
    await client.adjudicate_item(first, Adjudication(annotator=SCRIPT, reason=SCRIPT), adjudicator=SCRIPT)
    lists = [f"{made.name}/items?only={word}" for word in ("disagreements", "flagged", "adjudicated", "answered")]
    return ["projects/demo/campaigns", made.name, *lists, first, f"{made.name}/items/2", f"{made.name}/annotate"]
