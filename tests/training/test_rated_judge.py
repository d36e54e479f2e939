"""A judge from rated records to ratings: what training shows it is what the judge service asks it."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from omnialign.content import content
from omnialign.modeling.adapters import load_adapter
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1 import judge_service_pb2 as pb
from tests.services.inference.model_factory import random_model
from tests.services.inference.service_stack import serve_stack
from training.batches import SftCollator, sft_row
from training.examples import Example, Tally, make_examples

STEPS, BATCH, RATE = 130, 16, 3e-3


def item(number: int) -> record_pb2.Record:
    """An item of a benchmark with one response, which is good if it has a `z`, and was rated so."""
    draw, is_good = random.Random(number), number % 2 == 0
    asked, answer = ("".join(draw.choices("abcdefg", k=draw.randint(2, 6))) for _ in range(2))
    at = draw.randint(0, len(answer))
    response = record_pb2.Response(content=content(f"{answer[:at]}{'z' * is_good}{answer[at:]}"))
    for aspect in ("understanding", "instruction_following"):
        score, rationale = (9, "it has z") if is_good else (2, "no z")
        response.assessments.add(aspect=aspect, score=score, rationale=rationale)
    record = record_pb2.Record(id=str(number), prompt=content(asked), responses=[response])
    record.benchmark_item.references.add(answer=asked)
    return record


def train(folder: Path, examples: list[Example], *, pad_id: int) -> None:
    """Trains the model in a folder, starting from smaller weights than it has."""
    model, collate, draw = AutoModelForCausalLM.from_pretrained(folder), SftCollator(pad_id=pad_id), random.Random(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.2 if weight.dim() > 1 else 1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.15)
    for _ in range(STEPS):
        batch = collate([sft_row(example) for example in draw.sample(examples, BATCH)])
        labels = batch["input_ids"].masked_fill(~batch["completion_mask"].bool(), -100)
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


@pytest.mark.slow
async def test_a_judge_that_was_trained_on_ratings_gives_new_responses_theirs(tmp_path: Path):
    name = random_model(tmp_path / "judge", hidden_size=64, intermediate_size=128)
    adapter, tally = load_adapter(tmp_path / "judge"), Tally()
    records = [(item(number), {}) for number in range(200)]
    given = {"method": "sft", "target": "judgement", "max_length": 512}
    examples = list(make_examples(records, adapter=adapter, tally=tally, **given))
    assert (len(examples), tally.dropped) == (400, {})
    train(tmp_path / "judge", examples, pad_id=adapter.pad_id)
    understood, followed = pb.ScoreUnderstandingRequest(model=name), pb.ScoreGenerationRequest(model=name)
    fresh = {record.id: record for record in map(item, range(1000, 1040))}
    for record in fresh.values():
        shown = {"id": record.id, "prompt": record.prompt, "response": record.responses[0].content}
        understood.items.add(**shown, references=record.benchmark_item.references)
        followed.items.add(**shown, modality=content_pb2.MODALITY_TEXT)
    async with serve_stack(tmp_path / "data") as plane:
        for results in (plane.client.score_understanding(understood), plane.client.score_generation(followed)):
            ratings = {result.id: result.rating async for result in results}
            wanted = {name: record.responses[0].assessments[0] for name, record in fresh.items()}
            right = [ratings[n].score == w.score and ratings[n].reason == w.rationale for n, w in wanted.items()]
            assert sum(right) >= 36
