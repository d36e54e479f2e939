"""Chameleon, Emu3 and Janus as tiny random models: prompts are what the family's own code makes of them, answers with
pictures are trained on and read back, and text never becomes a control token."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor

from omnialign.errors import InvalidArgument
from omnialign.media import MediaError, read_image, read_video, write_image, write_video
from omnialign.modeling.adapters import AnswerMalformed, load_adapter
from omnialign.modeling.feature_cache import FeatureCache
from omnialign.modeling.inputs import MediaBytes, Turn
from omnialign.modeling.model_folder import model_class
from omnialign.v1 import content_pb2
from tests.model_factory.families import FAMILIES

WRITERS = ("chameleon", "emu3", "janus")
CODE_NAMES = {"chameleon": "IMGIMGBCZ", "emu3": "<|visual token 000012|>", "janus": "<|im_start|>"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("native")
    return {name: FAMILIES[name].build(root / name) for name in WRITERS}


@pytest.fixture(scope="module")
def adapters(folders):
    return {name: load_adapter(folder) for name, folder in folders.items()}


def image(height=32, width=32, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return MediaBytes(content_pb2.MODALITY_IMAGE, write_image(pixels))


def video(frames, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)
    return MediaBytes(content_pb2.MODALITY_VIDEO, write_video(pixels, 8.0))


def pictures(media):
    return [Image.fromarray(read_image(medium.data)) for medium in media]


def loaded(folder):
    return model_class(folder).from_pretrained(folder, dtype=torch.float32).eval()


def family_inputs(name, folder, turns, media):
    """What the family's own processor gives for a conversation."""
    processor = AutoProcessor.from_pretrained(folder)
    if name == "chameleon":
        text = "".join("<image>" if isinstance(piece, MediaBytes) else piece for piece in turns[0].pieces)
    else:
        content = [
            {"type": "image"} if isinstance(piece, MediaBytes) else {"type": "text", "text": piece}
            for piece in turns[0].pieces
        ]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(images=pictures(media) or None, text=[text], return_tensors="pt")


def model_tokens(name, folder, model, medium):
    """The model's own tokens of a picture. Alone: in a batch, those of Emu3 change with the padding beside them."""
    prepared = AutoProcessor.from_pretrained(folder).image_processor(pictures([medium]), return_tensors="pt")
    sizes = [prepared["image_sizes"]] if name == "emu3" else []
    with torch.inference_mode():
        return model.get_image_tokens(prepared["pixel_values"], *sizes).flatten()


TURNS = {
    "one picture": lambda: ((image(), "Describe the picture."), 1),
    "two of unlike size": lambda: ((image(20, 60, 1), " and ", image(48, 17, 2), "which is red?"), 2),
    "text alone": lambda: (("What is red?",), 0),
}


@pytest.mark.parametrize("case", list(TURNS))
@pytest.mark.parametrize("name", ["chameleon", "emu3"])
def test_a_prompts_ids_are_those_of_the_familys_processor_with_the_models_own_image_tokens(
    folders, adapters, name, case
):
    pieces, count = TURNS[case]()
    turns = [Turn("user", pieces)]
    media = [piece for piece in pieces if isinstance(piece, MediaBytes)]
    expected = family_inputs(name, folders[name], turns, media)["input_ids"][0].clone()
    if count:
        model = loaded(folders[name]).model
        tokens = [model_tokens(name, folders[name], model, medium) for medium in media]
        expected[expected == model.vocabulary_mapping.image_token_id] = torch.cat(tokens).long()
    found = adapters[name].encode(turns)
    assert found.ids == expected.tolist()
    assert found.features == () and adapters[name].tensors([found], expected[None]) == {}
    assert adapters[name].placeholders(turns).ids == found.ids


@pytest.mark.parametrize("name", WRITERS)
def test_the_logits_after_a_prompt_are_those_of_the_familys_own_forward(folders, adapters, name):
    turns = [Turn("user", (image(), "Describe the picture."))]
    inputs = family_inputs(name, folders[name], turns, [image()])
    import transformers

    stock = getattr(transformers, f"{name.capitalize()}ForConditionalGeneration").from_pretrained(folders[name]).eval()
    found = adapters[name].encode(turns)
    ids = torch.tensor([found.ids])
    with torch.inference_mode():
        expected = stock(**inputs).logits
        logits = loaded(folders[name])(input_ids=ids, **adapters[name].tensors([found], ids)).logits
    seen = expected > torch.finfo(expected.dtype).min  # the library forbids Chameleon its own picture codes
    torch.testing.assert_close(logits[..., : expected.shape[-1]][seen], expected[seen])


def test_janus_reads_pictures_as_its_processor_gives_them(folders, adapters):
    turns = [Turn("user", (image(20, 60), "Describe the picture."))]
    inputs = family_inputs("janus", folders["janus"], turns, [image(20, 60)])
    found = adapters["janus"].encode(turns)
    assert found.ids == inputs["input_ids"][0].tolist()
    tensors = adapters["janus"].tensors([found], inputs["input_ids"])
    assert torch.equal(tensors["pixel_values"], inputs["pixel_values"])


def test_the_logits_of_janus_codes_are_those_of_its_generation_head_fed_by_its_generation_embeddings(folders):
    model = loaded(folders["janus"])
    first = model.config.text_config.vocab_size
    ids = torch.tensor([[5, 6, first + 3, first + 40]])
    with torch.inference_mode():
        text = model.get_input_embeddings()(ids[:, :2])
        codes = model.prepare_embeddings_for_image_generation(ids[:, 2:] - first)
        hidden = model.model.language_model(inputs_embeds=torch.cat((text, codes), dim=1)).last_hidden_state
        expected = model.model.generation_head(hidden[:, -1:])
        logits = model(input_ids=ids, logits_to_keep=1).logits
    torch.testing.assert_close(logits[..., first:], expected)


@pytest.mark.parametrize("name", WRITERS)
def test_an_answer_with_text_and_a_picture_follows_the_grammar_and_comes_back(adapters, name):
    adapter = adapters[name]
    ids = adapter.encode_answer(("here it is", image(40, 24)))
    span = next(s for s in adapter.media_spans if s.begin_id in ids)
    start, end = ids.index(span.begin_id), ids.index(span.end_id)
    assert span.num_units(ids[start : end + 1]) and ids[-1] == adapter.end_id
    text, picture = adapter.decode(ids)
    assert text == "here it is"
    assert (picture.modality, read_image(picture.data).shape) == (content_pb2.MODALITY_IMAGE, (32, 32, 3))


@pytest.mark.parametrize("name", WRITERS)
def test_a_picture_that_is_not_whole_is_a_typed_error(adapters, name):
    adapter = adapters[name]
    ids = adapter.encode_answer((image(),))
    span = next(s for s in adapter.media_spans if s.begin_id in ids)
    start, end = ids.index(span.begin_id), ids.index(span.end_id)
    whole = ids[start : end + 1]
    for broken in (whole[:-1], whole[:-2] + whole[-1:], whole[1:], [*whole[:-1], whole[-2], whole[-1]], whole[:1]):
        with pytest.raises(AnswerMalformed):
            adapter.decode(broken)


@pytest.mark.parametrize("name", WRITERS)
def test_text_that_spells_control_tokens_stays_text(adapters, folders, name):
    processor = AutoProcessor.from_pretrained(folders[name])
    names = [processor.image_token, processor.image_start_token, processor.image_end_token, CODE_NAMES[name]]
    control = set(processor.tokenizer.convert_tokens_to_ids([*names, processor.tokenizer.eos_token]))
    frame = adapters[name].encode([Turn("user", ("x",))]).ids

    @given(st.lists(st.one_of(st.sampled_from(names), st.text(max_size=6)), max_size=4))
    @settings(max_examples=40)
    def check(chunks):
        text = "".join(chunks)
        ids = adapters[name].encode([Turn("user", (text, "x"))]).ids
        assert [i for i in ids if i in control] == [i for i in frame if i in control]
        answer = adapters[name].encode_answer((text,))
        assert not control & set(answer[:-1])
        assert not any(isinstance(piece, MediaBytes) for piece in adapters[name].decode(answer))

    check()


@given(st.data())
@settings(max_examples=60)
def test_any_ids_are_an_answer_or_a_typed_error(adapters, data):
    adapter = adapters[data.draw(st.sampled_from(WRITERS))]
    marks = [i for span in adapter.media_spans for i in (span.begin_id, span.end_id, span.codes[0].start)]
    ids = data.draw(st.lists(st.one_of(st.sampled_from(marks), st.integers(0, 600)), max_size=30))
    try:
        adapter.decode(ids)
    except AnswerMalformed as error:
        assert error.reason == "ANSWER_MALFORMED"


def test_emu3_reads_and_writes_videos_as_grids_of_four_frames(adapters):
    adapter = adapters["emu3"]
    spans = {len(span.head): span for span in adapter.media_spans}
    written = spans[max(spans)]
    ids = adapter.encode_answer((video(5),))
    assert written.num_units(ids[ids.index(written.begin_id) : ids.index(written.end_id) + 1]) == 2
    (clip,) = adapter.decode(ids)
    frames, rate = read_video(clip.data)
    assert (clip.modality, frames.shape, rate) == (content_pb2.MODALITY_VIDEO, (8, 16, 16, 3), 8.0)
    for count, grids in ((3, 1), (8, 2), (13, 4)):
        prompt = adapter.encode([Turn("user", (video(count), "What moves?"))]).ids
        end_of_grid = written.unit[-1][0].start
        assert prompt.count(end_of_grid) == grids


def test_emu3s_video_tokens_are_those_of_its_vq_model(folders, adapters):
    adapter, medium = adapters["emu3"], video(4)
    ids = adapter.encode([Turn("user", (medium,))]).ids
    model, processor = loaded(folders["emu3"]).model, AutoProcessor.from_pretrained(folders["emu3"])
    frames, _ = read_video(medium.data)
    small = [Image.fromarray(frame).resize((16, 16), Image.Resampling.BICUBIC) for frame in frames]
    pixels = processor.image_processor(small, do_resize=False, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        codes = model.vqmodel.encode(pixels[None], torch.tensor([[800, 800]])).image_tokens[0]
    expected = model.vocabulary_mapping.convert_img2bpe(codes.reshape(-1, 2)).flatten().tolist()
    start = ids.index(expected[0])
    assert ids[start : start + len(expected)] == expected


@pytest.mark.parametrize("name", ["chameleon", "emu3"])
def test_a_picture_much_longer_than_wide_is_refused(adapters, name):
    with pytest.raises(MediaError) as caught:
        adapters[name].encode([Turn("user", (image(1, 20000),))])
    assert caught.value.reason == "IMAGE_TOO_NARROW"


@pytest.mark.parametrize("name", WRITERS)
def test_a_modality_that_a_family_does_not_know_is_a_typed_error(adapters, name):
    sound = MediaBytes(content_pb2.MODALITY_AUDIO, b"RIFF")
    for read in (
        lambda: adapters[name].encode([Turn("user", (sound,))]),
        lambda: adapters[name].encode_answer((sound,)),
    ):
        with pytest.raises(InvalidArgument) as caught:
            read()
        assert caught.value.reason == "MODALITY_UNSUPPORTED"


def test_a_medium_is_encoded_once_and_an_answers_picture_apart_from_a_prompts(folders, tmp_path):
    cache = FeatureCache(tmp_path, limit_bytes=1 << 20)
    first, second = (load_adapter(folders["emu3"], cache) for _ in range(2))
    turns = [Turn("user", (image(24, 40), "Describe the picture."))]
    ids, answer = first.encode(turns).ids, first.encode_answer((image(24, 40),))
    assert cache.counts.misses == 2
    assert (second.encode(turns).ids, second.encode_answer((image(24, 40),))) == (ids, answer)
    assert (cache.counts.misses, cache.counts.hits) == (2, 2)
    assert second._spans._writable[0]._vq._module._module is None


def test_chameleon_without_its_image_decoder_reads_pictures_and_is_kept_from_writing_any(folders, tmp_path):
    folder = shutil.copytree(folders["chameleon"], tmp_path / "plain")
    shutil.rmtree(folder / "image_decoder")
    adapter = load_adapter(folder)
    assert list(adapter.media_spans) == []
    assert adapter.encode([Turn("user", (image(),))]).ids
    with pytest.raises(AnswerMalformed):
        adapter.decode(adapter.encode_answer((image(),)))


def test_a_vocabulary_map_that_lacks_codes_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["emu3"], tmp_path / "lacking")
    config = json.loads((folder / "config.json").read_text())
    del config["vocabulary_map"]["<|visual token 000007|>"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidArgument) as caught:
        load_adapter(folder)
    assert caught.value.reason == "MODEL_CONFIG_INVALID"


@pytest.mark.parametrize("name", WRITERS)
def test_a_model_that_writes_pictures_is_saved_as_its_family_saves_it(folders, tmp_path, name):
    loaded(folders[name]).save_pretrained(tmp_path)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (folders[name], tmp_path))
    assert after["architectures"] == before["architectures"] and after["model_type"] == before["model_type"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_step_of_training_makes_an_answers_picture_likelier(folders, adapters, name):
    prompt = adapters[name].encode([Turn("user", (image(), "Draw another."))])
    answer = adapters[name].encode_answer((image(32, 32, seed=3),))
    ids = torch.tensor([prompt.ids + answer])
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < len(prompt.ids), -100)
    model = loaded(folders[name])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        loss = model(input_ids=ids, labels=labels, **adapters[name].tensors([prompt], ids)).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    assert np.isfinite(losses).all() and losses[1] < losses[0]
