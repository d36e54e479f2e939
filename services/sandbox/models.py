"""Model folders in the sandbox: the first look at all that loading a model reads, but for its weights."""

from functools import partial
from pathlib import Path

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.modeling.first_look import ModelSummary, inspect_model
from services.sandbox.limits import Limits
from services.sandbox.media import current_sandbox
from services.sandbox.worker import preload

TOO_COSTLY = "MODEL_TOO_COSTLY_TO_READ"
LIMITS = Limits(cpu_seconds=120.0, memory_bytes=8 << 30)
"""Generous: a tokenizer of a large vocabulary takes seconds and hundreds of megabytes to read."""

# Importing these takes a child five seconds; the server of children does it once.
preload("omnialign.modeling.first_look", "omnialign.modeling.weights_check", "omnialign.modeling.model_folder")


def first_look(folder: Path, *, name: str, weights: bool = True) -> ModelSummary:
    """`inspect_model` in a child process (blocking). Raises what it raises, and MODEL_TOO_COSTLY_TO_READ.

    `name` is the caller's name of the model. Without an open sandbox, as in a tool, the folder is read in this process.
    """
    if (sandbox := current_sandbox()) is None:
        return inspect_model(folder, weights=weights)
    refusal = partial(_too_costly, name=name)
    return sandbox.call(_inspect, folder, weights, refusal=refusal, key=str(folder), limits=LIMITS)


def _inspect(folder: Path, weights: bool) -> ModelSummary:
    try:
        return inspect_model(folder, weights=weights)
    except (OmnialignError, MemoryError):
        raise
    except Exception as error:  # a broken folder breaks whatever reads it
        message = f"The settings in {folder.name} cannot be read: {type(error).__name__}: {error}"
        raise InvalidArgument(message, reason="MODEL_UNREADABLE", metadata={"folder": folder.name}) from error


def _too_costly(cause: str, *, name: str) -> InvalidArgument:
    message = (
        f"The settings of {name} cannot be read safely: the process that read them {cause}; take them from the model's "
        "publisher again, and see codecs.json, the chat template, the tokenizer and the LoRA's target_modules."
    )
    return InvalidArgument(message, reason=TOO_COSTLY, metadata={"model": name, "cause": cause})
