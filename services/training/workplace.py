"""The folder of a job, and the spec file that its program reads."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from google.protobuf.message import Message

from omnialign.errors import InvalidArgument
from omnialign.v1.training_service_pb2 import TrainingJob, TrainingSpec
from training.files import write_atomically
from training.spec import Spec, parse_spec


@dataclass(frozen=True)
class Workplace:
    """The files of one job, under `<root>/jobs/<uid>`."""

    folder: Path

    @property
    def spec(self) -> Path:
        """The spec file; readable by the owner only, because it holds the job's token."""
        return self.folder / "job.yaml"

    @property
    def log(self) -> Path:
        """All that the processes print."""
        return self.folder / "log.txt"

    @property
    def output(self) -> Path:
        """What the program writes: progress, checkpoints, `error.json`."""
        return self.folder / "output"

    @property
    def fetched(self) -> Path:
        """Where the base model is fetched to when it is not on this machine."""
        return self.folder / "base"

    @property
    def model(self) -> Path:
        """The finished model; it exists when training is complete."""
        return self.output / "model"

    def reports_to(self) -> str:
        """The address that the program was told to report to; empty when it was told none."""
        try:
            return str(yaml.safe_load(self.spec.read_text(encoding="utf-8")).get("training_address", ""))
        except (OSError, yaml.YAMLError, AttributeError):
            return ""

    def prepare(self, document: dict[str, object]) -> None:
        """Makes the folders and writes the spec."""
        self.output.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        write_atomically(self.spec, yaml.safe_dump(document).encode())
        self.spec.chmod(0o600)


def document(
    job: TrainingJob,
    workplace: Workplace,
    *,
    base_model_dir: Path,
    data_address: str,
    training_address: str,
    token: str,
) -> dict[str, object]:
    """The spec file's content for a job."""
    return {
        "job": job.name,
        "token": token,
        "data_address": data_address,
        "training_address": training_address,
        "base_model_dir": str(base_model_dir),
        "output_dir": str(workplace.output),
        "cache_dir": str(workplace.folder / "cache"),
        **settings_of(job.spec),
    }


def check(spec: TrainingSpec, *, max_nodes: int) -> Spec:
    """Refuses a spec that the program or the launcher would refuse. Raises `InvalidArgument`."""
    if spec.distribution.num_nodes > max_nodes:
        raise InvalidArgument(
            f"this service runs jobs on {max_nodes} node(s) at most, not {spec.distribution.num_nodes}",
            reason="TRAINING_SPEC_INVALID",
            violations=[("training_job.spec.distribution.num_nodes", f"must be at most {max_nodes}")],
        )
    if spec.method == "dpo" and spec.target:
        raise InvalidArgument(
            "target must be empty for dpo, which reads pairs",
            reason="TRAINING_SPEC_INVALID",
            violations=[("training_job.spec.target", "must be empty for dpo")],
        )
    nowhere = {"job": "check", "base_model_dir": ".", "output_dir": ".", "cache_dir": "."}
    return parse_spec({**nowhere, **settings_of(spec)})


def settings_of(spec: TrainingSpec) -> dict[str, object]:
    """The part of the spec file that says what to train and how."""
    return {
        "dataset": spec.dataset,
        "splits": list(spec.splits),
        "target": spec.target,
        "hyperparameters": _set_fields(spec.hyperparameters),
        "distribution": _set_fields(spec.distribution),
        "media_policy": _set_fields(spec.media_policy),
    }


def _set_fields(message: Message) -> dict[str, object]:
    return {field.name: value for field, value in message.ListFields()}
