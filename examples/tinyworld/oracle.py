"""The oracle: scores any answer to a tiny-world prompt, says what is wrong with it and how to fix it.

It takes the place of human annotators and is the final yardstick. It reads only the prompt and the answer's decoded
files; no answer key comes with a prompt. Scores are 0 to 3 on each dimension of the subtask's rubric.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from examples.tinyworld import examiners, presenting, understanding
from examples.tinyworld.findings import Findings
from examples.tinyworld.language import KINDS, NAMES, find_attributes, find_thing, read_edit, read_phrase
from examples.tinyworld.presenting import Invitation, read_invitation
from examples.tinyworld.sight import Seen, look, watch
from examples.tinyworld.understanding import Question, read_question
from examples.tinyworld.world import ATTRIBUTES, Thing
from omnialign.content import output_modalities
from omnialign.errors import InvalidArgument
from omnialign.media import MediaError, read_audio, read_video
from omnialign.modeling.inputs import MediaBytes, Piece
from omnialign.rubrics import MAX_SCORE, rubric
from omnialign.v1 import record_pb2

CLIPPING_PEAK, FLASH_STEP = 0.98, 100.0


def wanted(prompt: Sequence[Piece], subtask: str) -> Thing:
    """The thing that a prompt asks for. Raises InvalidArgument PROMPT_FOREIGN for a prompt from elsewhere."""
    text = _text(prompt)
    media = [piece for piece in prompt if isinstance(piece, MediaBytes)]
    thing = look(media[0]).thing if media else find_thing(text)
    if thing is None or (subtask in KINDS and thing.kind != KINDS[subtask]):
        raise _foreign(prompt)
    edit = read_edit(thing.kind, text)
    return thing.changed(*edit) if edit else thing


def check(prompt: Sequence[Piece], response: Sequence[Piece], subtask: str) -> record_pb2.Feedback:
    """Language feedback on a response. A medium that does not decode counts as missing and scores 0."""
    return examine(prompt, response, subtask).feedback(rubric(subtask))


def account(prompt: Sequence[Piece], response: Sequence[Piece], subtask: str) -> str:
    """What was asked for and what was given, without a judgement."""
    return examine(prompt, response, subtask).account()


def rating(prompt: Sequence[Piece], response: Sequence[Piece], subtask: str) -> int:
    """1 to 10, as a benchmark rates: the share of things that are as asked for."""
    return examine(prompt, response, subtask).rating()


def examine(prompt: Sequence[Piece], response: Sequence[Piece], subtask: str) -> Findings:
    """All that is found out about a response. Raises InvalidArgument PROMPT_FOREIGN for a prompt from elsewhere."""
    if subtask in understanding.SUBTASKS:
        return examiners.examine_answer(question_in(prompt), response)
    if subtask in presenting.SUBTASKS:
        return examiners.examine_parts(invitation_in(prompt), response)
    return _examine(wanted(prompt, subtask), response, subtask)


def question_in(prompt: Sequence[Piece]) -> Question:
    """The question about a scene in a prompt. Raises InvalidArgument PROMPT_FOREIGN."""
    scene = examiners.scene_in([piece for piece in prompt if isinstance(piece, MediaBytes)])
    found = read_question(_text(prompt), scene) if scene else None
    if found is None:
        raise _foreign(prompt)
    return found


def invitation_in(prompt: Sequence[Piece]) -> Invitation:
    """The open instruction in a prompt. Raises InvalidArgument PROMPT_FOREIGN."""
    found = read_invitation(_text(prompt))
    if found is None:
        raise _foreign(prompt)
    return found


def _examine(goal: Thing, response: Sequence[Piece], subtask: str) -> Findings:
    findings = Findings()
    text = " ".join(piece for piece in response if isinstance(piece, str))
    media = next((piece for piece in response if isinstance(piece, MediaBytes)), None)
    written = output_modalities(subtask)
    read = _check_text(findings, goal, text, subtask) if "text" in written else None
    shown = _check_media(findings, goal, media) if written != ("text",) else None
    if len(written) > 1:
        _check_consistency(findings, read, shown.thing if shown else None)
    return findings


def correct(feedback: record_pb2.Feedback) -> bool:
    """Whether an answer is fully correct, that is, has the best score on every dimension."""
    return bool(feedback.scores) and all(score.score == MAX_SCORE for score in feedback.scores)


def total(feedback: record_pb2.Feedback) -> int:
    """The sum of the scores; the better of two answers has the higher one."""
    return sum(score.score for score in feedback.scores)


def _text(prompt: Sequence[Piece]) -> str:
    return " ".join(piece for piece in prompt if isinstance(piece, str))


def _foreign(prompt: Sequence[Piece]) -> InvalidArgument:
    message = f"The prompt {_text(prompt)[:60]!r} is not of the tiny world."
    return InvalidArgument(message, reason="PROMPT_FOREIGN")


def _check_text(findings: Findings, goal: Thing, text: str, subtask: str) -> dict[str, str]:
    found = find_attributes(goal.kind, text)
    read = {name: next(iter(values)) for name, values in found.items() if len(values) == 1}
    contradictions = [name for name, values in found.items() if len(values) > 1]
    missing = [name for name in ATTRIBUTES[goal.kind] if name not in found]
    clarity = "clarity" if "clarity" in rubric(subtask) else "ca"
    findings.score("objective_rules", MAX_SCORE - 2 * len(contradictions) if found else 0, "contradiction")
    findings.score("information_richness", MAX_SCORE - len(missing), "incomplete")
    _check_attributes(findings, goal, {**dict.fromkeys(contradictions, "unclear"), **read}, verb="say")
    plain = read_phrase(goal.kind, text) is not None
    if not plain:
        findings.score(clarity, 1 if found else 0, "unclear words")
    findings.compare("words", "plain", "plain" if plain else "unclear", fix="say it plainly.")
    return read


def _check_attributes(findings: Findings, goal: Thing, read: Mapping[str, str], *, verb: str) -> None:
    """Prompt following: one point less for each attribute that is wrong or missing."""
    wrong = [name for name, value in goal.attributes.items() if read.get(name) != value]
    findings.score("prompt_following", MAX_SCORE - len(wrong), "wrong " + " ".join(wrong))
    for name, value in goal.attributes.items():
        findings.compare(name, value, read.get(name, "missing"), fix=f"{verb} the {name} {value}.")


def _check_media(findings: Findings, goal: Thing, media: MediaBytes | None) -> Seen | None:
    try:
        seen = look(media) if media else None
    except (MediaError, KeyError):
        seen = None
    if seen is None or seen.thing.kind != goal.kind:
        _check_absent(findings, goal)
        return None
    _check_attributes(findings, goal, seen.thing.attributes, verb="make")
    findings.compare("noise", "none", "some" if seen.noise else "none", fix=f"clean the {NAMES[goal.kind]}.")
    quality = {"picture": _check_picture, "sound": _check_sound, "clip": _check_clip}[goal.kind]
    quality(findings, seen, media.data if media else b"")
    return seen


def _check_absent(findings: Findings, goal: Thing) -> None:
    quality = ("aesthetics", "ca", "audio_quality", "consistency", "temporal_consistency", "content_coherence")
    for name in ("prompt_following", "objective_rules", "information_richness", *quality, "motion_naturalness"):
        findings.score(name, 0, "nothing there")
    name = NAMES[goal.kind]
    findings.compare(name, "present", "missing", fix=f"make the {name}.")


def _cleanness(noise: int, bounds: tuple[int, int]) -> int:
    """3 without noise, 2 up to `bounds[0]` noisy codes, 1 up to `bounds[1]`, else 0."""
    return MAX_SCORE if not noise else 2 if noise <= bounds[0] else 1 if noise <= bounds[1] else 0


def _check_picture(findings: Findings, seen: Seen, _: bytes) -> None:
    for name in ("aesthetics", "ca"):
        findings.score(name, _cleanness(seen.noise, (1, 2)), "noisy")
    _check_recognisable(findings, seen)


def _check_recognisable(findings: Findings, seen: Seen) -> None:
    """Objective rules: a medium shows one shape in one colour, which must be recognisable."""
    share = seen.noise_share
    findings.score(
        "objective_rules", 3 if share <= 0.1 else 2 if share <= 0.2 else 1 if share <= 0.35 else 0, "no object"
    )
    if not seen.codes.any():
        findings.score("information_richness", 0, "empty")


def _check_sound(findings: Findings, seen: Seen, data: bytes) -> None:
    samples, _ = read_audio(data)
    peak = float(np.abs(samples).max(initial=0.0))
    findings.score("audio_quality", _cleanness(seen.noise, (1, 3)), "noisy")
    findings.score(
        "consistency", MAX_SCORE if seen.noise_share <= 0.1 else 2 if seen.noise_share <= 0.25 else 1, "uneven"
    )
    findings.score("information_richness", MAX_SCORE if seen.codes.any() else 0, "silent")
    findings.score("safety", 0 if peak >= CLIPPING_PEAK else MAX_SCORE, "clipping")


def _check_clip(findings: Findings, seen: Seen, data: bytes) -> None:
    motion, frames = watch(seen), read_video(data)[0]
    light = frames.mean(axis=(1, 2, 3))
    findings.score("aesthetics", _cleanness(seen.noise, (1, 3)), "noisy")
    _check_recognisable(findings, seen)
    findings.score("temporal_consistency", motion.steady_frames - 1, "frames differ")
    findings.score("content_coherence", motion.coherent_frames - 1, "stray colours")
    findings.score("motion_naturalness", motion.right_steps, "jumps")
    findings.score("safety", 0 if (np.abs(np.diff(light)) > FLASH_STEP).any() else MAX_SCORE, "flashing")


def _check_consistency(findings: Findings, read: dict[str, str] | None, shown: Thing | None) -> None:
    """Text and picture must agree."""
    if read is None or shown is None:
        return
    differing = sum(read.get(name, value) != value for name, value in shown.attributes.items())
    findings.score("consistency", MAX_SCORE - differing, "text and picture differ")
    findings.compare("text and picture", "alike", "different" if differing else "alike", fix="make them agree.")
