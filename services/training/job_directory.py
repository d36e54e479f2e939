"""The folder of a job, and the spec file that its program reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import yaml
from google.protobuf.message import Message

from omnialign.errors import InvalidArgument
from omnialign.modeling.lora import is_lora, read_lora
from omnialign.v1.training_service_pb2 import TrainingJob, TrainingSpec
from services.training.model_registry import BaseModel
from training.files import write_atomically
from training.spec import Spec
from training.spec_file import parse_spec


@dataclass(frozen=True)
class JobDirectory:
    """The files of one job, under `<root>/jobs/<uid>`."""

    folder: Path

    @property
    def spec(self) -> Path:
        """The spec file; readable by the owner only, because it holds the job's token."""
        return self.folder / "job.yaml"

    @property
    def log(self) -> Path:
        """Everything that the processes print."""
        return self.folder / "log.txt"

    @property
    def output(self) -> Path:
        """What the program writes: progress, checkpoints, `error.json`, the finished model."""
        return self.folder / "output"

    @property
    def fetched(self) -> Path:
        """The base model, if it had to be fetched from another machine."""
        return self.folder / "base"

    @property
    def model(self) -> Path:
        """The finished model; the folder exists once training is complete."""
        return self.output / "model"

    def reports_to(self) -> str:
        """The address that the program reports to; empty if there is none."""
        try:
            return str(yaml.safe_load(self.spec.read_text(encoding="utf-8")).get("training_address", ""))
        except (OSError, yaml.YAMLError, AttributeError):
            return ""

    def prepare(self, document: dict[str, object]) -> None:
        """Makes the folders and writes the spec, which only the owner may read."""
        self.output.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        write_atomically(self.spec, yaml.safe_dump(document).encode())
        self.spec.chmod(0o600)


def spec_document(
    job: TrainingJob,
    directory: JobDirectory,
    *,
    base: BaseModel,
    addresses: Mapping[str, str],
    token: str,
) -> dict[str, object]:
    """The content of a job's spec file; `addresses` are the services by their keys in it."""
    return {
        "job": job.name,
        "token": token,
        **addresses,
        "base_model": base.name,
        "base_model_dir": str(base.folder),
        "initial_lora_dir": str(base.lora or ""),
        "output_dir": str(directory.output),
        "cache_dir": str(directory.folder / "cache"),
        **spec_settings(job.spec, trains_lora=base.lora is not None),
    }


def check_registrable(spec: TrainingSpec) -> None:
    """Raises `InvalidArgument` (BASE_MODEL_NOT_REGISTERED) for a LoRA that could not be registered once it is trained.

    A LoRA is registered on its base, which must be a model version.
    """
    base, folder = spec.base_model, Path(unquote(urlparse(spec.base_model).path))
    if not base.startswith("file://") or spec.lora.merge:
        return
    if is_lora(folder):
        base = read_lora(folder, name=base).base
    elif not spec.HasField("lora"):
        return
    if base.startswith("file://"):
        message = (
            f"a LoRA is registered on its base, and '{base}' is no registered model; register it first and name that "
            "version, or set lora.merge to get a whole model"
        )
        raise InvalidArgument(
            message,
            reason="BASE_MODEL_NOT_REGISTERED",
            metadata={"model": base},
            violations=[("training_job.spec.base_model", message)],
        )


def check_spec(spec: TrainingSpec, *, max_nodes: int) -> Spec:
    """The spec as the program will read it. Raises `InvalidArgument` for one that program or launcher would refuse."""
    if spec.distribution.num_nodes > max_nodes:
        raise InvalidArgument(
            f"this service runs jobs on at most {max_nodes} node(s), not {spec.distribution.num_nodes}",
            reason="TRAINING_SPEC_INVALID",
            violations=[("training_job.spec.distribution.num_nodes", f"must be at most {max_nodes}")],
        )
    check_registrable(spec)
    # The folders are not known yet; any name will do for the check.
    placeholders = {"job": "check", "base_model_dir": ".", "output_dir": ".", "cache_dir": "."}
    return parse_spec({**placeholders, **spec_settings(spec)}, method=spec.method)


def spec_settings(spec: TrainingSpec, *, trains_lora: bool = False) -> dict[str, object]:
    """The part of the spec file that says what to train and how; `trains_lora` adds a LoRA where the spec has none."""
    return {
        "dataset": spec.dataset,
        "splits": list(spec.splits),
        "target": spec.target,
        "hyperparameters": _set_fields(spec.hyperparameters),
        "distribution": _set_fields(spec.distribution),
        "media_policy": _set_fields(spec.media_policy),
        "max_dropped_fraction": spec.max_dropped_fraction,
        **({"lora": _set_fields(spec.lora)} if spec.HasField("lora") or trains_lora else {}),
        **({own: _set_fields(getattr(spec, own))} if (own := spec.WhichOneof("settings")) else {}),
    }


def _set_fields(message: Message) -> dict[str, object]:
    """The fields of a message that are set, by name; nested messages likewise."""
    return {field.name: _plain(value) for field, value in message.ListFields()}


def _plain(value: Any) -> object:
    if isinstance(value, Message):
        return _set_fields(value)
    return value if isinstance(value, str | int | float) else [_plain(item) for item in value]
