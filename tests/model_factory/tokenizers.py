"""Tokenizers and chat templates of the tiny models, in the shapes of the families."""

import json
from collections.abc import Sequence

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

CORPUS = (
    "Describe the picture, the sound and the video. What is the colour of the shape on the left of the square?",
    "A red circle moves to the right. user assistant system helpful image audio video USER: ASSISTANT: [INST] [/INST]",
    "The tone is higher than the one before, and then it ends. Which of these answers is better? 0 1 2 3 4 5 6 7 8 9",
)


def train_bpe(specials: Sequence[str], merges: int = 200) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE whose first ids are `specials`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


QWEN_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_ENDS = ("<|im_end|>", "<|endoftext|>")
QWEN_TOOLS = ("<tool_call>", "</tool_call>")


def qwen_tokenizer(controls: Sequence[str], **named: str) -> PreTrainedTokenizerBase:
    """A Qwen2 tokenizer with further control tokens; `named` are those that it knows by an attribute."""
    vocabulary, merges = train_bpe(())
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, extra_special_tokens=named, model_max_length=4096
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*QWEN_CONTROL[1:], *controls]})
    tokenizer.add_tokens(list(QWEN_TOOLS))
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    return tokenizer


def llama_tokenizer(image: str = "<image>") -> PreTrainedTokenizerBase:
    """A byte-level tokenizer that begins every text with `<s>`, as those of Llama and Mistral do."""
    vocabulary, merges = train_bpe(("<unk>", "<s>", "</s>", "<pad>"))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    found.add_special_tokens({"additional_special_tokens": [image]})
    return found


def vocab_rows(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows of the embedding: the tokens rounded up, as published models have it."""
    return -(-len(tokenizer) // 64) * 64


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """The ids that every text config names."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def turns_template(image: str, audio: str, video: str, system: str = "You are a helpful assistant.") -> str:
    """The ChatML shape of the Qwen families: a system turn, media where they stand among the texts."""
    return (
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}"
        "<|im_start|>system\n" + system + "<|im_end|>\n{% endif %}"
        "<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for content in message['content'] %}"
        "{% if content['type'] == 'image' %}" + image + "{% elif content['type'] == 'audio' %}" + audio + ""
        "{% elif content['type'] == 'video' %}" + video + "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""LLaVA 1.5: pictures before the texts of their turn, and nothing that ends the assistant's."""

MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ ' ' + content['text'] + '</s>' }}{% endfor %}{% endif %}{% endfor %}"
)
"""LLaVA-NeXT on Mistral: the answer ends with the tokenizer's end token."""

ONEVISION = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + content['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
