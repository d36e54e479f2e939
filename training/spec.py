"""The spec of one training run: what to train, on what, and how. `spec_file` reads it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omnialign.modeling.inputs import MediaPolicy

MAX_HOLDOUT = 0.5


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is held out of the rows, and what is done with it while the run trains (`training.evaluation`)."""

    holdout_fraction: float | None = None
    """Share of the rows that is evaluated instead of learnt; None means the default of the method."""
    every_steps: int = 0
    """Steps between evaluations; 0 means a tenth of the run."""
    patience: int = 0
    """The run ends after so many evaluations in a row without a lower loss; 0 means never."""
    num_samples: int | None = None
    """Prompts held out whose answers each evaluation writes down; None means 2."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """How to optimise. A zero means the default of the method (`training.methods`)."""

    learning_rate: float = 0.0
    num_epochs: float = 0.0
    max_steps: int = 0
    batch_size: int = 0
    micro_batch_size: int = 0
    max_length: int = 0
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    beta: float = 0.0
    sft_weight: float = 0.0
    seed: int = 0
    checkpoint_every_steps: int = 0
    no_warmup: bool = False
    """Whether the learning rate starts at its peak, which `warmup_ratio` cannot say."""
    train_towers: bool = False
    """Whether the encoders of pictures, videos and sounds learn too; otherwise only what follows them learns."""
    evaluation: Evaluation = field(default_factory=Evaluation)


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How the run is distributed."""

    num_processes: int = 1
    zero_stage: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    num_nodes: int = 1
    offload: Literal["", "optimizer", "optimizer_and_weights"] = ""
    """What ZeRO keeps in the machine's memory instead of the device's; weights only at stage 3."""
    gradient_checkpointing: bool = False
    """Computes the activations of each layer again in the backward pass instead of keeping them."""
    attention: Literal["", "eager", "sdpa", "flash_attention_2"] = ""
    """How attention is computed; empty means flash attention where it is there, otherwise SDPA."""

    @property
    def world_size(self) -> int:
        """Processes of all nodes."""
        return self.num_nodes * self.num_processes


DEFAULT_RANK = 16
"""Of a new LoRA."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA that is trained instead of the weights. A zero means a default, or what an earlier LoRA has."""

    rank: int = 0
    """0 means `DEFAULT_RANK`, or that of the LoRA that training goes on from."""
    alpha: int = 0
    """0 means twice the rank, or that of the LoRA that training goes on from."""
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    """Names, or last parts of names, of linear layers of the language model; empty means all of them."""
    merge: bool = False
    """Whether the result is a whole model, with the LoRA merged into the weights of its base."""
    quantize: Literal["", "nf4"] = ""
    """Holds the frozen weights in 4 bits (QLoRA, Dettmers et al. 2023)."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One training run."""

    job: str
    """Resource name of the job."""
    dataset: str
    """Resource name of the dataset, or of a version of it."""
    base_model_dir: Path
    """A whole model, also where training goes on from a LoRA of it."""
    output_dir: Path
    cache_dir: Path
    """Holds the examples, the bytes of their media, and features."""
    base_model: str = ""
    """Resource name of the model in `base_model_dir`, which a LoRA gives as its base, and on which a policy is opened;
    empty means the folder."""
    initial_lora_dir: str = ""
    """Folder of the LoRA that training goes on from; empty means none."""
    data_address: str = ""
    """May be empty when the examples are in `cache_dir` already."""
    training_address: str = ""
    """Where progress is reported to; empty means nowhere."""
    refinement_address: str = ""
    """Where the policy answers and its weights are handed over, for methods that draw their own answers."""
    judge_address: str = ""
    """Where judges and reward models answer."""
    critique_address: str = ""
    """Where feedback models answer."""
    token: str = ""
    """Proves to the services that the caller is the job."""
    splits: tuple[str, ...] = ()
    """Empty means all."""
    target: Literal["", "response", "feedback", "judgement", "understanding", "generation"] = ""
    """What sft learns to write; empty means responses. Must be empty for methods that read pairs."""
    media_policy: MediaPolicy = field(default_factory=MediaPolicy)
    max_dropped_fraction: float = 0.0
    """Largest share of examples that may be dropped for a fault; 0 means `training.examples.MAX_DROPPED_FRACTION`."""
    step_timeout_seconds: float = 600.0
    """A step, or a batch of the reference pass, that takes longer is stuck, and the run ends."""
    read_timeout_seconds: float = 6 * 3600.0
    """Likewise for reading records, making examples and loading the model."""
    rollout_timeout_seconds: float = 3600.0
    """Likewise for the answers of a step, their rewards, and handing the weights over."""
    save_timeout_seconds: float = 3600.0
    """Likewise for writing or reading a checkpoint, and for writing the finished model."""
    checkpoint_interval_seconds: float = 900.0
    """How often a checkpoint is written unless `checkpoint_every_steps` says."""
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    distribution: Distribution = field(default_factory=Distribution)
    lora: Lora | None = None
    """None trains the weights themselves."""
    method: str = "sft"
    """Name of the training method. Said beside the file and not in it."""
    settings: Any = None
    """What only the method knows: an instance of its `settings` type. In a file, a section of the method's name."""

    @property
    def model_dir(self) -> Path:
        """The finished model; the folder exists once the run is complete."""
        return self.output_dir / "model"
