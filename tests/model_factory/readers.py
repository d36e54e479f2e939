"""Tiny random models of the families that read media and write text, in folders as their users have them.

Each is the family's own architecture and processor classes with small sizes, a byte-level tokenizer trained on the spot
that has the family's control tokens, and a chat template of the family's shape. Pictures of 56 to 112 pixels, sounds of
a second and videos of a few frames give a handful of tokens each.
"""

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase

from tests.model_factory.family import CLIP_NAMES, TEXT, rename, save
from tests.model_factory.tokenizers import (
    MISTRAL,
    ONEVISION,
    QWEN_ENDS,
    VICUNA,
    llama_tokenizer,
    qwen_tokenizer,
    special_token_ids,
    turns_template,
    vocab_rows,
)


def clip_tower() -> dict[str, Any]:
    """A CLIP tower with patches of 14 pixels."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "projection_dim": 32,
        "initializer_range": 0.2,
    }


def make_llava(folder: Path) -> None:
    """LLaVA 1.5: CLIP and Llama; every picture is 16 tokens."""
    tokenizer = llama_tokenizer()
    config = transformers.LlavaConfig(
        vision_config=clip_tower(),
        text_config={
            "model_type": "llama",
            "vocab_size": vocab_rows(tokenizer),
            **special_token_ids(tokenizer),
            **TEXT,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    save(folder, transformers.LlavaForConditionalGeneration(config), processor, tokenizer, ["</s>"])
    rename(folder, CLIP_NAMES)


def make_llava_next(folder: Path) -> None:
    """LLaVA-NeXT: pictures are cut into tiles, so their number of tokens depends on their shape."""
    tokenizer = llama_tokenizer()
    grid = [[56, 112], [112, 56], [112, 112]]
    config = transformers.LlavaNextConfig(
        vision_config=clip_tower(),
        text_config={
            "model_type": "mistral",
            "vocab_size": vocab_rows(tokenizer),
            **special_token_ids(tokenizer),
            **TEXT,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        image_seq_length=16,
    )
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessor(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=grid
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=MISTRAL,
    )
    save(folder, transformers.LlavaNextForConditionalGeneration(config), processor, tokenizer, ["</s>"])
    rename(folder, CLIP_NAMES)


def make_llava_onevision(folder: Path) -> None:
    """LLaVA-OneVision: SigLIP and Qwen2; pictures in tiles, videos in pooled frames."""
    tokenizer = qwen_tokenizer(["<image>", "<video>"])
    grid = [[56, 56], [56, 112], [112, 56], [112, 112]]
    tower = {**clip_tower(), "model_type": "siglip_vision_model", "num_hidden_layers": 2, "vision_use_head": False}
    config = transformers.LlavaOnevisionConfig(
        vision_config=tower,
        text_config={
            "model_type": "qwen2",
            "vocab_size": vocab_rows(tokenizer),
            **special_token_ids(tokenizer),
            **TEXT,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    size = {"height": 56, "width": 56}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        tokenizer=tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION,
    )
    save(folder, transformers.LlavaOnevisionForConditionalGeneration(config), processor, tokenizer, QWEN_ENDS)
    rename(folder, CLIP_NAMES)


VISION_CONTROL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
VISION_TEMPLATE = turns_template(
    "<|vision_start|><|image_pad|><|vision_end|>", "", "<|vision_start|><|video_pad|><|vision_end|>"
)


def vision_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids that the configs of the Qwen-VL families name."""
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, tokenizer.convert_tokens_to_ids(list(VISION_CONTROL)), strict=True))


def qwen_tower(**sizes: Any) -> dict[str, Any]:
    """A vision tower of the Qwen-VL families."""
    tower = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 64}
    return {**tower, "initializer_range": 0.2, **sizes}


def mrope(**more: Any) -> dict[str, Any]:
    """Rotary positions in time, height and width, for heads of 32."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5], **more}


def make_qwen2_5_vl(folder: Path) -> None:
    """Qwen2.5-VL: a token for every 28 x 28 pixels and, in videos, two frames."""
    tokenizer = qwen_tokenizer(VISION_CONTROL)
    config = transformers.Qwen2_5_VLConfig(
        vision_config=qwen_tower(patch_size=14, window_size=56, fullatt_block_indexes=[1]),
        text_config={
            "vocab_size": vocab_rows(tokenizer),
            "rope_parameters": mrope(),
            **special_token_ids(tokenizer),
            **TEXT,
        },
        **vision_ids(tokenizer),
    )
    pixels = {"min_pixels": 28 * 28, "max_pixels": 112 * 112}
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**pixels),
        video_processor=transformers.Qwen2VLVideoProcessor(**pixels, cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=VISION_TEMPLATE,
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    save(folder, model, processor, tokenizer, QWEN_ENDS)


HALF = [0.5, 0.5, 0.5]
"""Mean and deviation of Qwen3-VL's pictures and videos, as published."""


def make_qwen3_vl(folder: Path) -> None:
    """Qwen3-VL: a token for every 32 x 32 pixels; each frame pair of a video is preceded by its time in words."""
    tokenizer = qwen_tokenizer(VISION_CONTROL)
    config = transformers.Qwen3VLConfig(
        vision_config=qwen_tower(patch_size=16, num_position_embeddings=64, deepstack_visual_indexes=[0]),
        text_config={
            "vocab_size": vocab_rows(tokenizer),
            "head_dim": 32,
            "rope_parameters": mrope(mrope_interleaved=True),
            **special_token_ids(tokenizer),
            **TEXT,
        },
        **vision_ids(tokenizer),
    )
    pixels = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=pixels, patch_size=16, image_mean=HALF, image_std=HALF),
        video_processor=transformers.Qwen3VLVideoProcessor(
            size={**pixels, "longest_edge": 16 * 128 * 128}, cap_pixels_per_frame=False
        ),
        tokenizer=tokenizer,
        chat_template=VISION_TEMPLATE,
    )
    model = transformers.Qwen3VLForConditionalGeneration(config)
    save(folder, model, processor, tokenizer, QWEN_ENDS)


def make_qwen2_audio(folder: Path) -> None:
    """Qwen2-Audio: 25 tokens per second of sound, thirty seconds at most."""
    tokenizer = qwen_tokenizer(["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"])
    config = transformers.Qwen2AudioConfig(
        audio_config={
            "d_model": 64,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 128,
            "num_mel_bins": 32,
            "max_source_positions": 1500,
            "initializer_range": 0.2,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": vocab_rows(tokenizer),
            **special_token_ids(tokenizer),
            **TEXT,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    processor = transformers.Qwen2AudioProcessor(
        feature_extractor=transformers.WhisperFeatureExtractor(feature_size=32),
        tokenizer=tokenizer,
        chat_template=turns_template("", "Audio: <|audio_bos|><|AUDIO|><|audio_eos|>\n", ""),
    )
    model = transformers.Qwen2AudioForConditionalGeneration(config)
    save(folder, model, processor, tokenizer, QWEN_ENDS)


def whisper_features(**settings: Any) -> Any:
    """The feature extractor of the Qwen-Omni families: 32 mel bins, 100 frames per second."""
    return transformers.WhisperFeatureExtractor(feature_size=32, **settings)


def omni_tower(**sizes: Any) -> dict[str, Any]:
    """An audio tower of the Qwen-Omni families."""
    tower = {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 128}
    return {**tower, "num_mel_bins": 32, "output_dim": 64, "initializer_range": 0.2, **sizes}


def omni_tokenizer(image: str, audio: str, video: str, *, begin: str, end: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Qwen-Omni family, with what stands for a medium and what is around it."""
    media = {"image_token": image, "audio_token": audio, "video_token": video}
    around = {
        f"{kind}_{place}_token": f"<|{kind}_{word}|>"
        for kind in ("vision", "audio")
        for place, word in (("bos", begin), ("eos", end))
    }
    return qwen_tokenizer((), **media, **around)


def qwen2_5_omni_thinker() -> tuple[Any, Any, PreTrainedTokenizerBase]:
    """Config, processor and tokenizer of a Qwen2.5-Omni thinker."""
    tokenizer = omni_tokenizer("<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>", begin="bos", end="eos")
    config = transformers.Qwen2_5OmniThinkerConfig(
        audio_config=omni_tower(n_window=50, max_source_positions=250),
        vision_config=qwen_tower(patch_size=14, window_size=56, fullatt_block_indexes=[1]),
        text_config={
            "vocab_size": vocab_rows(tokenizer),
            "rope_parameters": mrope(),
            "tie_word_embeddings": False,
            **special_token_ids(tokenizer),
            **TEXT,
        },
        audio_token_index=tokenizer.audio_token_id,
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
    )
    pixels = {"min_pixels": 28 * 28, "max_pixels": 112 * 112}
    processor = transformers.Qwen2_5OmniProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**pixels),
        video_processor=transformers.Qwen2VLVideoProcessor(**pixels, cap_pixels_per_frame=False),
        feature_extractor=whisper_features(chunk_length=5),
        tokenizer=tokenizer,
        chat_template=turns_template(
            "<|vision_bos|><|IMAGE|><|vision_eos|>",
            "<|audio_bos|><|AUDIO|><|audio_eos|>",
            "<|vision_bos|><|VIDEO|><|vision_eos|>",
        ),
    )
    return config, processor, tokenizer


def make_qwen2_5_omni(folder: Path) -> None:
    """The thinker of Qwen2.5-Omni, alone: text, pictures, sounds and videos in, text out."""
    config, processor, tokenizer = qwen2_5_omni_thinker()
    model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)
    save(folder, model, processor, tokenizer, QWEN_ENDS)


def make_qwen3_omni_moe(folder: Path) -> None:
    """The thinker of Qwen3-Omni, alone: a mixture of four experts."""
    tokenizer = omni_tokenizer("<|image_pad|>", "<|audio_pad|>", "<|video_pad|>", begin="start", end="end")
    config = transformers.Qwen3OmniMoeThinkerConfig(
        audio_config=omni_tower(n_window=50, n_window_infer=100, downsample_hidden_size=16),
        vision_config=qwen_tower(
            patch_size=16, image_size=128, num_position_embeddings=64, deepstack_visual_indexes=[0]
        ),
        text_config={
            "vocab_size": vocab_rows(tokenizer),
            "head_dim": 32,
            "rope_parameters": mrope(mrope_interleaved=True),
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "tie_word_embeddings": False,
            **special_token_ids(tokenizer),
            **TEXT,
        },
        audio_token_id=tokenizer.audio_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        audio_start_token_id=tokenizer.audio_bos_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
    )
    pixels = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    processor = transformers.Qwen3OmniMoeProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=pixels, patch_size=16),
        video_processor=transformers.Qwen2VLVideoProcessor(size=pixels, patch_size=16, cap_pixels_per_frame=False),
        feature_extractor=whisper_features(),
        tokenizer=tokenizer,
        chat_template=turns_template(
            "<|vision_start|><|image_pad|><|vision_end|>",
            "<|audio_start|><|audio_pad|><|audio_end|>",
            "<|vision_start|><|video_pad|><|vision_end|>",
        ),
    )
    model = transformers.Qwen3OmniMoeThinkerForConditionalGeneration(config)
    save(folder, model, processor, tokenizer, QWEN_ENDS)


def make_text(folder: Path) -> None:
    """Qwen2: a plain language model with a chat template."""
    tokenizer = qwen_tokenizer(())
    tokenizer.chat_template = turns_template("", "", "")
    config = transformers.Qwen2Config(vocab_size=vocab_rows(tokenizer), **special_token_ids(tokenizer), **TEXT)
    save(folder, transformers.Qwen2ForCausalLM(config), tokenizer, tokenizer, QWEN_ENDS)
