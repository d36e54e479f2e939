"""The table of tiny model families: what each reads and writes, and whether vLLM runs it."""

from collections.abc import Mapping

from tests.model_factory.family import Family
from tests.model_factory.readers import (
    make_llava,
    make_llava_next,
    make_llava_onevision,
    make_qwen2_5_omni,
    make_qwen2_5_vl,
    make_qwen2_audio,
    make_qwen3_omni_moe,
    make_qwen3_vl,
    make_text,
)
from tests.model_factory.writers import make_chameleon, make_emu3, make_janus

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("qwen2", (), make_text),
        Family("llava", ("image",), make_llava),
        Family("llava_next", ("image",), make_llava_next),
        Family("llava_onevision", ("image", "video"), make_llava_onevision),
        Family("qwen2_5_vl", ("image", "video"), make_qwen2_5_vl),
        Family("qwen3_vl", ("image", "video"), make_qwen3_vl),
        Family("qwen2_audio", ("audio",), make_qwen2_audio),
        Family("qwen2_5_omni", ("image", "audio", "video"), make_qwen2_5_omni, vllm=False),
        Family("chameleon", ("image",), make_chameleon, writes=("image",), vllm=False),
        Family("emu3", ("image", "video"), make_emu3, writes=("image", "video"), vllm=False),
        Family("janus", ("image",), make_janus, writes=("image",), vllm=False),
        Family("qwen3_omni_moe", ("image", "audio", "video"), make_qwen3_omni_moe, vllm=False),
    )
}
