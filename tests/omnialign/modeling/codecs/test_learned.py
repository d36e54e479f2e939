"""Learned codecs, as tiny random models of the real classes: media to codes of their ranges, and back to files."""

import json
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from omnialign.errors import InvalidArgument
from omnialign.media import MediaError, read_audio, read_image, read_video, write_audio, write_image, write_video
from omnialign.modeling.codecs import build
from omnialign.modeling.codecs.vq_codecs import sample_frames
from omnialign.modeling.decoding import resampled
from tests.model_factory import codecs as tiny_codecs

SOUNDS = {"encodec": tiny_codecs.encodec, "dac": tiny_codecs.dac, "mimi": tiny_codecs.mimi}
PICTURES = {
    "chameleon_image": (tiny_codecs.chameleon_vq, {"side_pixels": 16}),
    "janus_image": (tiny_codecs.janus_vq, {}),
    "emu3_image": (tiny_codecs.emu3_vq, {"side_pixels": 32}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codecs")
    for name, make in {**SOUNDS, **{name: make for name, (make, _) in PICTURES.items()}}.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)  # the same weights whatever ran before
            make(folder / name)
    return folder


def sound_codec(root, name, **options):
    return build(name, {"folder": name, "max_frames": 200, **options}, root)


def picture_codec(root, name):
    return build(name, {"folder": name, **PICTURES[name][1]}, root)


def tone(seconds, rate=8000):
    return write_audio((np.sin(np.arange(round(seconds * rate)) / rate * 2000) / 2).astype(np.float32), rate)


def noise(height, width, seed=0):
    return write_image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def in_units(codec, codes):
    units, rest = divmod(len(codes), len(codec.unit))
    return (
        rest == 0
        and codec.min_units <= units <= codec.max_units
        and all(code in codec.unit[place % len(codec.unit)] for place, code in enumerate(codes))
    )


@pytest.mark.parametrize("rate", [8000, 16000, 11025])
@pytest.mark.parametrize("name", list(SOUNDS))
def test_a_sound_is_whole_frames_of_codes_and_comes_back_at_the_codecs_rate_and_length(root, name, rate):
    codec = sound_codec(root, name)
    codes = codec.encode(tone(0.1, rate))
    assert in_units(codec, codes)
    frames = len(codes) // codec.codebooks
    assert frames == -(-800 // codec.frame_samples)
    samples, rate_hz = read_audio(codec.decode(codes))
    assert (len(samples), rate_hz) == (frames * codec.frame_samples, 8000)
    assert codec.encode(tone(0.1, rate)) == codes


@pytest.mark.parametrize("name", list(SOUNDS))
def test_the_codes_are_those_of_the_model_in_the_order_of_frames_and_books(root, name):
    codec = sound_codec(root, name)
    module = codec._module()
    samples, _ = read_audio(tone(0.4))
    padded = torch.from_numpy(codec._padded(samples))[None, None]
    with torch.inference_mode():
        if name == "encodec":
            expected = module.encode(padded, bandwidth=3.2).audio_codes[0, 0]
        else:
            expected = module.encode(padded).audio_codes[0]
    found = np.array(codec.encode_array(samples, 8000)).reshape(-1, codec.codebooks)
    assert (found - np.arange(codec.codebooks) * 16).T.tolist() == expected.tolist()


@pytest.mark.parametrize("name", list(SOUNDS))
def test_fewer_books_are_the_first_of_all_books(root, name):
    whole, part = sound_codec(root, name), sound_codec(root, name, codebooks=2)
    assert part.num_codes == 32
    all_books = np.array(whole.encode(tone(0.3))).reshape(-1, whole.codebooks)
    assert part.encode(tone(0.3)) == all_books[:, :2].flatten().tolist()


@pytest.mark.parametrize("name", list(SOUNDS))
@given(data=st.data())
@settings(max_examples=10)
def test_any_codes_of_a_sound_are_a_wav_of_its_length(root, name, data):
    codec = sound_codec(root, name)
    frames = data.draw(st.integers(1, 6))
    codes = [data.draw(st.integers(part[0], part[-1])) for _ in range(frames) for part in codec.unit]
    samples, rate_hz = read_audio(codec.decode(codes))
    assert (len(samples), rate_hz) == (frames * codec.frame_samples, codec.rate_hz)
    assert np.isfinite(samples).all()


def test_a_short_sound_is_filled_and_a_long_one_refused_with_the_seconds(root):
    codec = sound_codec(root, "encodec", min_frames=5, max_frames=10)
    for short in (np.zeros(0, np.float32), np.zeros(1, np.float32)):
        assert len(codec.encode_array(short, 8000)) == 5 * codec.codebooks
    with pytest.raises(MediaError, match=r"0\.1 seconds.*takes at most 0\.1") as caught:
        codec.encode(tone(0.051))
    assert caught.value.reason == "AUDIO_TOO_LONG"


def test_resampling_keeps_the_length_in_seconds_and_the_pitch():
    samples, _ = read_audio(tone(0.5, 44100))
    found = resampled(samples, 44100, 8000)
    assert len(found) == 4000
    spectrum = np.abs(np.fft.rfft(found))
    assert abs(spectrum.argmax() * 2 - 2000 / (2 * np.pi)) < 4


@pytest.mark.parametrize("name", list(PICTURES))
def test_a_picture_of_any_size_is_a_fixed_number_of_codes_and_comes_back_as_a_square(root, name):
    codec = picture_codec(root, name)
    codes = codec.encode(noise(23, 41))
    assert in_units(codec, codes)
    assert codes == codec.encode(noise(23, 41)) != codec.encode(noise(23, 41, seed=1))
    assert len(set(codes)) > 1
    assert read_image(codec.decode(codes)).shape == (codec.side_pixels, codec.side_pixels, 3)


def test_the_codes_of_a_janus_picture_come_back_through_its_own_decoder(root):
    codec = picture_codec(root, "janus_image")
    codes = codec.encode(noise(32, 32))
    with torch.inference_mode():
        expected = codec.vq._module().decode(torch.tensor(codes)[None])[0]
    pixels = ((expected.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert (read_image(codec.decode(codes)) == pixels).all()


def test_a_picture_codec_without_a_decoder_reads_and_says_why_it_does_not_write(root, tmp_path):
    import shutil

    shutil.copytree(root / "chameleon_image", tmp_path / "encoder")
    shutil.rmtree(tmp_path / "encoder" / "image_decoder")
    codec = build("chameleon_image", {"folder": "encoder", "side_pixels": 16}, tmp_path)
    codes = codec.encode(noise(16, 16))
    with pytest.raises(InvalidArgument, match="image_decoder") as caught:
        codec.decode(codes)
    assert caught.value.reason == "MODALITY_UNSUPPORTED"


def video_codec(root, **options):
    chosen = {"folder": "emu3_image", "side_pixels": 16, "frames_per_second": 4.0, "max_units": 3, **options}
    return build("emu3_video", chosen, root)


@pytest.mark.parametrize(("frames", "rate", "units"), [(1, 8.0, 1), (8, 4.0, 2), (9, 4.0, 3), (200, 10.0, 3)])
def test_a_video_is_units_of_four_frames_at_the_codecs_rate(root, frames, rate, units):
    codec = video_codec(root)
    pixels = np.random.default_rng(0).integers(0, 256, (frames, 20, 30, 3), dtype=np.uint8)
    codes = codec.encode(write_video(pixels, rate))
    assert in_units(codec, codes)
    assert len(codes) == units * len(codec.unit)
    found, found_rate = read_video(codec.decode(codes))
    assert (found.shape, found_rate) == ((4 * units, 16, 16, 3), 4.0)


@given(frames=st.integers(1, 300), rate=st.floats(0.5, 60), wanted=st.floats(0.5, 60), most=st.integers(1, 5))
def test_frames_are_chosen_in_order_and_over_the_whole_video(frames, rate, wanted, most):
    chosen = sample_frames(frames, rate, wanted, 4, (4, 4 * most))
    assert len(chosen) % 4 == 0 and 4 <= len(chosen) <= 4 * most
    assert chosen == sorted(chosen) and chosen[0] >= 0 and chosen[-1] < frames
    if frames / rate * wanted > 4 * most:
        assert chosen[-1] >= frames * (1 - 1 / len(chosen)) - 1


def test_a_codec_loads_once_however_many_threads_use_it_first(root):
    codec, results = sound_codec(root, "dac"), []
    loads, make = [], codec._module._make
    codec._module._make = lambda: loads.append(1) or make()
    threads = [threading.Thread(target=lambda: results.append(codec.encode(tone(0.05)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [1] and len(results) == 6 and results.count(results[0]) == 6


def test_building_a_codec_and_telling_its_revision_needs_no_weights_in_memory(root):
    codec = sound_codec(root, "mimi")
    assert codec.revision == sound_codec(root, "mimi").revision != sound_codec(root, "mimi", codebooks=2).revision
    assert codec._module._module is None


def spoilt(root, tmp_path, change):
    import shutil

    shutil.copytree(root / "dac", tmp_path / "dac", dirs_exist_ok=True)
    change(tmp_path / "dac")
    return tmp_path


def rewrite_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def rewrite_weights(folder, more):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | more, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "CODEC_WEIGHTS_MISSING"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04pickle"), "CODEC_WEIGHTS_INVALID"),
        (lambda folder: (folder / "config.json").write_text("<html>"), "CODEC_WEIGHTS_INVALID"),
        (lambda folder: rewrite_config(folder, model_type="mimi"), "CODEC_WEIGHTS_INVALID"),
        (lambda folder: rewrite_config(folder, n_codebooks=7), "CODEC_WEIGHTS_INVALID"),
        (lambda folder: rewrite_config(folder, codebook_size=32), "CODEC_WEIGHTS_INVALID"),
        (lambda folder: rewrite_config(folder, decoder_hidden_size=10**6), "CODEC_WEIGHTS_INVALID"),
        (lambda folder: rewrite_config(folder, codebook_size=10**9), "CODEC_OPTIONS_INVALID"),
        (lambda folder: rewrite_config(folder, n_codebooks=10**6), "CODEC_OPTIONS_INVALID"),
        (lambda folder: rewrite_config(folder, sampling_rate=10**9), "CODEC_OPTIONS_INVALID"),
        (lambda folder: rewrite_weights(folder, {"stray": torch.zeros(3)}), "CODEC_WEIGHTS_INVALID"),
    ],
)
def test_weights_that_are_missing_or_another_models_are_typed_errors(root, tmp_path, change, reason):
    with pytest.raises(InvalidArgument) as caught:
        sound_codec(spoilt(root, tmp_path, change), "dac").encode(tone(0.01))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "options",
    [
        {"max_frames": 3, "colour": 1},
        {},
        {"max_frames": 3, "codebooks": 9},
        {"max_frames": 3, "min_frames": 4},
        {"max_frames": 10**9},
        {"max_frames": 3.0},
        {"max_frames": "3"},
        {"max_frames": 3, "folder": "../elsewhere"},
    ],
)
def test_options_that_do_not_fit_are_typed_errors(root, options):
    with pytest.raises(InvalidArgument) as caught:
        build("dac", {"folder": "dac", **options}, root)
    assert caught.value.reason == "CODEC_OPTIONS_INVALID"


def test_an_encodec_model_whose_loudness_is_no_code_is_refused(root, tmp_path):
    import shutil

    shutil.copytree(root / "encodec", tmp_path / "encodec")
    rewrite_config(tmp_path / "encodec", normalize=True)
    with pytest.raises(InvalidArgument, match="loudness") as caught:
        sound_codec(tmp_path, "encodec")
    assert caught.value.reason == "CODEC_OPTIONS_INVALID"
