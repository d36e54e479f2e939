"""Makes `sentences.json`, what the base model writes about each topic without a constraint.

`python -m examples.instructions.sentences FOLDER`, with the folder of `base_model`; a minute.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.instructions.constraints import core, is_whole
from examples.instructions.dataset import SENTENCES
from examples.instructions.prompts import TOPICS

DRAWN, MAX_NEW_TOKENS = 16, 40


def collect(folder: Path) -> dict[str, list[str]]:
    """The different whole sentences among the answers of a model, by topic."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    torch.manual_seed(0)
    found = {}
    for topic in TOPICS:
        turns = [{"role": "user", "content": f"Write one sentence about {topic}."}]
        inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            drawn = model.generate(
                **inputs, do_sample=True, top_k=0, top_p=0.9, temperature=0.7, max_new_tokens=MAX_NEW_TOKENS,
                num_return_sequences=DRAWN,
            )  # fmt: skip
        answers = tokenizer.batch_decode(drawn[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        lines = [answer.strip().splitlines()[0] for answer in answers if answer.strip()]
        found[topic] = sorted({core(line) for line in lines if is_whole(line) and line.isascii()})
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    SENTENCES.write_text(json.dumps(collect(parser.parse_args().folder), indent=1) + "\n")


if __name__ == "__main__":
    main()
