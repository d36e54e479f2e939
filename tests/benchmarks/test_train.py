"""The contenders of the training benchmark learn from the same pairs."""

import torch
from transformers import AutoModelForCausalLM

from benchmarks import train, train_contenders
from examples.tinyworld.pretrain import FOLDER
from training import fused_lm_head
from training.batches import PairCollator, pair_row
from training.packing import IGNORED


def test_the_hand_written_loop_scores_answers_as_our_trainer_does():
    pairs = train.tinyworld_pairs(9, seed=3)
    plain, ours = (AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32) for _ in range(2))
    fused_lm_head.add_head(ours)
    batch = PairCollator(pad_id=0)([pair_row(pair) for pair in pairs])
    is_answer = batch.pop("completion_mask")
    labels = batch["input_ids"].masked_fill(is_answer == 0, IGNORED)
    with torch.no_grad():
        scored = ours(**batch, labels=labels, fused_lm_head=True).log_probs.sum(1)
        assert torch.allclose(train_contenders.log_probs(plain, pairs), scored, atol=1e-3)


def test_real_tokens_count_a_prompt_once_for_each_answer():
    assert train.real_tokens(train.long_prompts(3, prompt_tokens=10, answer_tokens=2, seed=0)) == 3 * 2 * 12


def test_the_useful_share_is_whole_for_one_rank():
    assert train.balance(ranks=1, rows=256) == 1.0
    assert 0.5 < train.balance(ranks=8, rows=1024) < 1.0
