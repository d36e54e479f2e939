"""How much memory a run takes on each device, estimated from the shape of its model before a device is taken.

Weights, gradients and optimiser states are arithmetic, and so is a reference or a teacher beside them. Activations are
what the layers of a Llama keep for the backward pass, counted by hand; other families keep about as much. The peak is
reached in a pass, when activations and what the output head needs are on top of the rest, or after it, when gradients
are averaged over ranks in a copy. A test compares the sum with the measured peak.

Not counted: features of media before they reach the language model, the head of a reward or value, and memory that an
allocator keeps unused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from omnialign.errors import ResourceExhausted
from training.methods import METHODS, complete
from training.model_shape import ModelShape
from training.spec import DEFAULT_RANK, Hyperparameters, Lora, Spec

FLOAT, HALF = 4, 2
NF4_BYTES = 0.52
"""A parameter of 4 bits, with its share of the scales."""
BUCKET = 50_000_000
"""Gradients that ZeRO reduces, and weights that it gathers, at a time (`deepspeed/zero*.json`)."""
TILE_ROWS, TILE_COLUMNS = 4096, 32768
"""Positions and tokens whose logits exist at a time (TRL's `TOKEN_CHUNK_SIZE` and `_CHUNKED_LOGPROB_CHUNK_SIZE`)."""
TILES = {"cpu": 7, "gpu": 1}
"""Copies of these logits: torch makes several in turn, the kernel for GPUs works in place."""
INDEX = 8
WHOLE, COMPARED = 3, 4
"""How often a student's distributions exist at a time: whole (log-probabilities, their gradient, that of the logits),
and of the tokens that are compared (log-probabilities, the terms of the divergence, gradients)."""
LIBRARY_BYTES = {"cpu": 600_000_000, "gpu": 1_000_000_000}
"""What libraries take before there is a model: code on a CPU, CUDA's context and workspaces on a GPU."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on each device at the peak, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Of a pass whose examples are all as long as `max_length` allows."""
    logits: int
    update: int
    """Gradients a second time, while they are averaged over ranks; activations and logits are gone by then."""
    libraries: int
    offloaded: int
    """In the memory of the machine instead, per process."""

    @property
    def total(self) -> int:
        """Bytes on the device at most."""
        return self._held + max(self.activations + self.logits, self.update)

    @property
    def least(self) -> int:
        """Bytes on the device however short the examples are."""
        return self._held + self.update

    @property
    def _held(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.libraries


def estimate(spec: Spec, shape: ModelShape, *, device: str) -> MemoryEstimate:
    """What a run of `spec` takes; `device` is `cpu` or `gpu`. On a CPU, what is offloaded counts too."""
    learnt, frozen = _learnt(spec, shape), _frozen_bytes(spec, shape)
    distribution = spec.distribution
    stage, ranks = distribution.zero_stage, distribution.world_size
    sharded = ranks if stage == 3 else 1
    weights = (FLOAT * learnt + frozen + _copies(spec, shape)) / sharded
    # The shards of ZeRO's optimiser are a second copy of the weights, although those are float32 too.
    optimizer = (8 + (FLOAT if stage else 0)) * learnt / (ranks if stage else 1)
    gradients = FLOAT * learnt / (ranks if stage >= 2 else 1)
    offloaded = 0.0
    if distribution.offload:
        offloaded, optimizer = offloaded + optimizer, 0.0
    if distribution.offload == "optimizer_and_weights":
        offloaded, weights = offloaded + weights, 0.0
    if stage == 3:  # a layer is complete while it computes, and the next one is on its way
        weights += 2 * shape.largest_layer * (FLOAT if spec.lora is None else frozen / max(shape.parameters, 1))
    if device == "cpu":
        optimizer, offloaded = optimizer + offloaded, 0.0
    return MemoryEstimate(
        weights=int(weights),
        gradients=int(gradients),
        optimizer=int(optimizer),
        activations=int(_activations(spec, shape)),
        logits=int(_logits(spec, shape, device=device)),
        update=FLOAT * _reduced(learnt, stage=stage, ranks=ranks),
        libraries=LIBRARY_BYTES[device],
        offloaded=int(offloaded),
    )


def _reduced(learnt: int, *, stage: int, ranks: int) -> int:
    """Gradients that are copied at a time to be averaged over ranks."""
    if stage:
        return min(learnt, BUCKET)
    return learnt if ranks > 1 else 0


def check_fits(spec: Spec, shape: ModelShape, *, device: str, device_bytes: int) -> MemoryEstimate:
    """The estimate of a run. Raises `ResourceExhausted` (MEMORY_TOO_SMALL) if a device is too small for any examples.

    `device_bytes` is the memory of a device; 0 means that it is not known. How long examples are is not known either
    before they are read, so a run that is too large only with the longest ones is not refused.
    """
    found = estimate(spec, shape, device=device)
    if not device_bytes or found.least <= device_bytes:
        return found
    parts = ("weights", "gradients", "optimizer", "update", "libraries")
    listed = ", ".join(f"{name} {gigabytes(getattr(found, name))}" for name in parts)
    better = {way: estimate(change, shape, device=device).least for way, change in _savings(spec)}
    helps = sorted((least, way) for way, least in better.items() if least < found.least)
    hint = ", ".join(f"with {way} {gigabytes(least)}" for least, way in helps)
    raise ResourceExhausted(
        f"the run needs at least {gigabytes(found.least)} on each device ({listed}), which has "
        f"{gigabytes(device_bytes)}; {hint or 'take a smaller model'}",
        reason="MEMORY_TOO_SMALL",
        metadata={"needed_bytes": str(found.least), "device_bytes": str(device_bytes)},
    )


def gigabytes(number: int) -> str:
    """A number of bytes for people."""
    return f"{number / 1e9:.1f} GB"


def _savings(spec: Spec) -> Iterator[tuple[str, Spec]]:
    """Settings with which a run may hold less on a device."""

    def placed(**changes: Any) -> Spec:
        return replace(spec, distribution=replace(spec.distribution, **changes))

    if spec.lora is None:
        yield "lora", replace(spec, lora=Lora(), hyperparameters=replace(spec.hyperparameters, train_towers=False))
    if spec.distribution.world_size > 1 and spec.distribution.zero_stage < 3:
        yield "zero_stage 3", placed(zero_stage=3)
    if not spec.distribution.offload:
        yield "offload of the optimizer", placed(offload="optimizer", zero_stage=max(spec.distribution.zero_stage, 1))
    if spec.lora is not None and not spec.lora.quantize and spec.distribution.zero_stage < 3:
        yield "lora.quantize", replace(spec, lora=replace(spec.lora, quantize="nf4", merge=False))


def _learnt(spec: Spec, shape: ModelShape) -> int:
    """Parameters that learn."""
    if spec.lora is not None:
        return (spec.lora.rank or DEFAULT_RANK) * shape.linear_sides
    return shape.parameters - (0 if spec.hyperparameters.train_towers else shape.tower_parameters)


def _frozen_bytes(spec: Spec, shape: ModelShape) -> float:
    """Bytes of the weights that do not learn, on all devices together if they are sharded."""
    if spec.lora is None:
        return FLOAT * (shape.parameters - _learnt(spec, shape))
    in_half = spec.distribution.precision == "bf16" and shape.bytes_per_parameter <= HALF
    width = HALF if in_half else FLOAT
    quantized = shape.linear_parameters if spec.lora.quantize else 0
    return width * (shape.parameters - quantized) + NF4_BYTES * quantized


def _copies(spec: Spec, shape: ModelShape) -> float:
    """Bytes of the weights that a method holds a second time, on all devices together if they are sharded."""
    copies, learnt = METHODS[spec.method].copies, FLOAT * _learnt(spec, shape)
    if copies == "learnt":
        return learnt
    is_switched_off = spec.lora is not None and not spec.initial_lora_dir
    has_reference = copies == "model" and _settings(spec).beta and not is_switched_off
    return learnt + _frozen_bytes(spec, shape) if has_reference else 0.0


def _settings(spec: Spec) -> Hyperparameters:
    return complete(spec, num_processes=spec.distribution.world_size)


def _rows_of_step(spec: Spec) -> int:
    """Examples that a device takes in a step, on average; of methods that draw their own answers, these."""
    answers = spec.settings.samples_per_prompt if METHODS[spec.method].rows == "prompt" else 1
    return -(-_settings(spec).batch_size * answers // spec.distribution.world_size)


def _rows(spec: Spec) -> int:
    """Examples, or drawn answers, of a pass, on average."""
    of_step = _rows_of_step(spec)
    return min(_settings(spec).micro_batch_size or of_step, of_step)


def _tokens(spec: Spec) -> int:
    """Tokens of a pass at most: rows of the longest length, two for each pair."""
    rows, length = METHODS[spec.method].rows, _settings(spec).max_length
    if rows == "prompt":
        length += spec.settings.rollout.max_new_tokens
    return _rows(spec) * length * (2 if rows in ("pair", "rated_pair") else 1)


def _activations(spec: Spec, shape: ModelShape) -> float:
    """Bytes that the layers keep for the backward pass."""
    hidden, key_value, intermediate = shape.hidden, shape.key_value, shape.intermediate
    # Of each token and layer: two norms, the queries, keys, values and results of attention, the feed-forward part.
    norms = (4 if spec.lora else 6) * hidden
    rest = 3 * hidden + 2 * key_value + 4 * intermediate
    # In bf16, norms compute in float32, and pass on a copy of half the size.
    of_layer = FLOAT * norms + (HALF if spec.distribution.precision == "bf16" else FLOAT) * rest
    tokens = _tokens(spec)
    if spec.distribution.gradient_checkpointing:
        return float(tokens * (shape.layers * hidden * FLOAT + of_layer))
    cast = HALF * _learnt(spec, shape) if spec.distribution.precision == "bf16" else 0  # autocast keeps its copies
    return float(tokens * shape.layers * of_layer + cast)


def _logits(spec: Spec, shape: ModelShape, *, device: str) -> float:
    """Bytes of the logits of a tile, and of the gradient of the output head while it is summed up."""
    rows, columns = min(_tokens(spec), TILE_ROWS), min(shape.vocabulary, TILE_COLUMNS)
    tiles = float(TILES[device] * rows * columns * FLOAT)
    if compared := METHODS[spec.method].num_compared(spec.settings, shape.vocabulary):
        tiles = _distributions(spec, shape, compared=compared)
    if spec.lora is None:
        tiles += FLOAT * shape.hidden * (shape.vocabulary + (columns if device == "cpu" else 0))
    return tiles


def _distributions(spec: Spec, shape: ModelShape, *, compared: int) -> float:
    """Bytes of what is said of each token of the answers: the teacher's word on a step, the student's on a pass."""
    passes = -(-_rows_of_step(spec) // _rows(spec))
    teacher = (FLOAT + INDEX) * compared * passes
    student = FLOAT * (WHOLE * shape.vocabulary + COMPARED * compared)
    return float(_tokens(spec) * (teacher + student))
