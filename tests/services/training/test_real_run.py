"""The whole way: records in the data service, torchrun under the training service, a registered model."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from omnialign.content import content
from omnialign.v1 import record_pb2
from omnialign.v1.training_service_pb2 import TrainingJob

CONTROL = ["<pad>", "<s>", "</s>", "<user>", "<assistant>", "<unk>"]


def make_model(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {token: index for index, token in enumerate([*CONTROL, *map(chr, range(33, 127))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(CONTROL[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "codecs.json").write_text(json.dumps({"codecs": []}))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_job_trains_on_two_ranks_reports_and_registers_its_model(serve, spec, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    spec.base_model = make_model(tmp_path / "tiny").as_uri()
    spec.method, spec.target = "sft", "response"
    spec.hyperparameters.max_steps, spec.hyperparameters.batch_size = 6, 4
    spec.distribution.num_processes, spec.distribution.zero_stage = 2, 2
    records = [
        record_pb2.Record(
            id=f"r{i}", subtask="t2t", prompt=content("hi"), responses=[record_pb2.Response(content=content("yes" * i))]
        )
        for i in range(1, 9)
    ] + [record_pb2.Record(id="lonely", subtask="t2t", prompt=content("hi"))]
    async with serve(()) as client:
        dataset = await client.create_dataset("pairs")
        await client.append_records(dataset.name, records)
        await client.commit_version(dataset.name)
        job = await client.create_training_job("tune", spec)
        job = [event async for event in client.watch_training_job(job.name)][-1].training_job
        assert job.state == TrainingJob.STATE_SUCCEEDED, job
        assert (job.progress.completed_steps, job.progress.total_steps) == (6, 6)
        assert job.progress.metrics["loss"] > 0
        assert (job.progress.examples, dict(job.progress.dropped)) == (8, {"NO_RESPONSE": 1})
        assert (await client.get_model_version(job.model)).uri.startswith("file://")
