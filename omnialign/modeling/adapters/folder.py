"""A model folder's processor and tokenizer: reading them, telling their revision, checking that they fit the model."""

import hashlib
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers import PreTrainedTokenizerBase as Tokenizer

from omnialign.errors import InvalidArgument
from omnialign.modeling.architectures import read_config

FILES = ("*token*.json", "vocab.*", "merges.txt", "*.model", "*processor*.json", "chat_template*", "config.json")
"""Files that decide what a model is fed."""
FORMAT = "1"
"""Goes up when this package makes other features of the same files, so that kept ones are not used any more."""
PROCESSORS = ("processor_config.json", "preprocessor_config.json")


def load_processor(folder: Path) -> Any:
    """The processor of a folder, or the tokenizer of a plain language model.

    Raises InvalidArgument PROCESSOR_UNSUPPORTED.
    """
    auto = AutoProcessor if any((folder / name).is_file() for name in PROCESSORS) else AutoTokenizer
    try:
        found = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever its parts raise
        raise _unsupported(folder, f"it does not load: {type(error).__name__}: {error}") from error
    tokenizer = getattr(found, "tokenizer", found)
    if not (isinstance(found, (ProcessorMixin, Tokenizer)) and isinstance(tokenizer, Tokenizer)):
        raise _unsupported(folder, f"{type(found).__name__} has no tokenizer")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise _unsupported(folder, f"{type(tokenizer).__name__} cannot be written as tokenizer.json")
    return found


def revision_of(folder: Path) -> str:
    """Sixteen hexadecimal digits that change with the files that decide what a model is fed, and with the library."""
    digest = hashlib.sha256(f"{FORMAT}/{transformers.__version__}".encode())
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def check_fit(folder: Path, tokenizer: Any, processor: Any) -> None:
    """Raises InvalidArgument TOKENIZER_MISMATCH where tokenizer and processor are those of another model."""
    config = read_config(folder)
    rows = config.get_text_config(decoder=True).vocab_size
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise _mismatch(folder, f"the tokenizer writes ids up to {highest}, but the model has {rows} embeddings")
    for name in ("image", "audio", "video"):
        wanted = getattr(config, f"{name}_token_id", None) or getattr(config, f"{name}_token_index", None)
        found = getattr(processor, f"{name}_token_id", None)
        if wanted is not None and found is not None and wanted != found:
            raise _mismatch(folder, f"the model looks for {name}s at id {wanted}, but the processor writes id {found}")


def _unsupported(folder: Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"The processor of {folder.name} is none that the general adapter can use ({why}); this family needs its own.",
        reason="PROCESSOR_UNSUPPORTED",
        metadata={"folder": folder.name},
    )


def _mismatch(folder: Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"The tokenizer of {folder.name} is not that of its model: {why}. Take both from the same release.",
        reason="TOKENIZER_MISMATCH",
        metadata={"folder": folder.name},
    )
