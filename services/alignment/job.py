"""What an alignment job is: its stages, the tables that it writes, and the defaults of its spec."""

from collections.abc import Sequence
from pathlib import Path

from omnialign import names
from omnialign.v1 import alignment_service_pb2, generation_pb2, training_service_pb2
from services.alignment.reviews import REVIEWS
from services.pipeline.kind import JobKind
from services.runtime.migrations import Migrations

Job = alignment_service_pb2.AlignmentJob
Spec = alignment_service_pb2.AlignmentSpec
StageStatus = alignment_service_pb2.StageStatus

# Tables by purpose. The first four are also the stages of self improving that fill them.
SAMPLE, CRITIQUE, REFINE, VERIFY = "sample", "critique", "refine", "verify"
PAIRS, FEEDBACK, JUDGEMENT, PROMPTS = "pairs", "feedback", "judgement", "prompts"
CALIBRATION = "calibration"
ANSWERS_BASE, ANSWERS_ALIGNED, EVALUATION = "answers-base", "answers-aligned", "evaluation"

# Stages that are not named as a table, and phases: parts that work on chunks of records.
PREFLIGHT, FEEDBACK_MODELING, CALIBRATE, PAIR, OPTIMIZE, EVALUATE, REPORT = (
    "preflight",
    "feedback_modeling",
    "calibrate",
    "pair",
    "optimize",
    "evaluate",
    "report",
)
LOOP = "loop"

LOOP_STAGES = (SAMPLE, CRITIQUE, REFINE, VERIFY)
REVIEW, REVIEWED_PAIRS = "review", "reviewed"
"""The stage in which people review pairs, and the table of what is left of them."""
REWARD_MODELING = "reward_modeling"
EVALUATION_STEPS = (ANSWERS_BASE, ANSWERS_ALIGNED, EVALUATION)

MAX_ROUNDS = 8
ROUNDS = range(1, MAX_ROUNDS + 1)
DEFAULT_CHUNK_SIZE = 64
DEFAULT_QUARANTINE_FRACTION = 0.2
DEFAULT_METHOD = "dpo"
ONLINE_METHODS = ("grpo", "ppo")
"""Methods that answer prompts anew while they train."""
TRAINED = "trained"
"""Names, among rewards, a model of the job's own."""
DEFAULT_MIN_YIELD = 0.05
DEFAULT_GATE_PRECISION = 0.95
DEFAULT_GATE_HOLDOUT = 0.15
DEFAULT_REVIEW_SAMPLE, DEFAULT_REVIEW_AGREEMENT = 0.1, 0.8

MIGRATIONS = Migrations("alignment", Path(__file__).parent / "migrations", witness="alignment_jobs")

ALIGNMENT = JobKind(
    name="alignment",
    noun="alignment job",
    pattern=names.ALIGNMENT_JOB,
    job=Job,
    plan=Spec,
    stage=StageStatus,
    event=alignment_service_pb2.WatchAlignmentJobResponse,
    event_field="alignment_job",
    quota="alignment_jobs",
    migrations=MIGRATIONS,
    own_tables=(REVIEWS,),
    quarantine_limit=lambda plan: float(plan.max_quarantine_fraction),
    is_deterministic=lambda plan: bool(plan.sampling.deterministic),
)


def with_defaults(spec: Spec) -> Spec:
    """The spec with its documented defaults filled in, except the prompt split, which depends on the dataset."""
    plan = Spec()
    plan.CopyFrom(spec)
    plan.feedback_split = spec.feedback_split or "train"
    plan.evaluation_split = spec.evaluation_split or "test"
    plan.feedback_fraction = spec.feedback_fraction or 1.0
    plan.max_quarantine_fraction = spec.max_quarantine_fraction or DEFAULT_QUARANTINE_FRACTION
    plan.chunk_size = spec.chunk_size or DEFAULT_CHUNK_SIZE
    plan.optimization.method = spec.optimization.method or DEFAULT_METHOD
    plan.rounds = spec.rounds or 1
    plan.min_yield = spec.min_yield or DEFAULT_MIN_YIELD
    plan.gate_precision = spec.gate_precision or DEFAULT_GATE_PRECISION
    if not spec.HasField("gate_holdout_fraction"):
        plan.gate_holdout_fraction = DEFAULT_GATE_HOLDOUT
    if spec.HasField("review"):
        plan.review.sample = spec.review.sample or DEFAULT_REVIEW_SAMPLE
        if not spec.review.HasField("min_agreement"):
            plan.review.min_agreement = DEFAULT_REVIEW_AGREEMENT
    if plan.pair_source == alignment_service_pb2.PAIR_SOURCE_UNSPECIFIED:
        plan.pair_source = alignment_service_pb2.PAIR_SOURCE_LANGUAGE_FEEDBACK
    if not spec.HasField("feedback_sampling"):
        plan.feedback_sampling.CopyFrom(generation_pb2.SamplingParams(temperature=0.0))
    plan.feedback_sampling.deterministic |= spec.sampling.deterministic
    return plan


def is_binary(plan: Spec) -> bool:
    """Whether the pairs are the annotated preferences, so that self improving is left out."""
    return plan.pair_source == alignment_service_pb2.PAIR_SOURCE_BINARY


def calibrates(plan: Spec) -> bool:
    """Whether the gate is to be calibrated on held-out annotated pairs, if there are enough."""
    return not is_binary(plan) and plan.gate_holdout_fraction > 0


def skipped_stages(plan: Spec, models: alignment_service_pb2.JobModels) -> frozenset[str]:
    """Stages that a plan does not need."""
    is_given = bool(models.judge and (models.feedback or is_binary(plan)))
    skipped = {FEEDBACK_MODELING: is_given, CALIBRATE: not calibrates(plan)}
    skipped |= dict.fromkeys(LOOP_STAGES, is_binary(plan))
    return frozenset(stage for stage, is_skipped in skipped.items() if is_skipped)


def of_round(name: str, number: int) -> str:
    """What a stage, step, table or phase is called in a round: `sample`, and from the second round on `sample-2`."""
    return name if number == 1 else f"{name}-{number}"


def stages_of(plan: Spec) -> tuple[str, ...]:
    """The stages of a job, in order."""
    rounds = [of_round(stage, number) for number in range(1, plan.rounds + 1) for stage in round_stages(plan)]
    return (PREFLIGHT, FEEDBACK_MODELING, CALIBRATE, *rounds, EVALUATE, REPORT)


def round_stages(plan: Spec) -> tuple[str, ...]:
    """The stages of one round, in order."""
    review = (REVIEW,) if plan.HasField("review") else ()
    return (*LOOP_STAGES, PAIR, *review, *((REWARD_MODELING,) if trains_reward_model(plan) else ()), OPTIMIZE)


def reward_terms(plan: Spec) -> Sequence[training_service_pb2.RewardTerm]:
    """What answers are rewarded by, for a method that rewards them; else nothing."""
    if plan.optimization.method not in ONLINE_METHODS:
        return ()
    own = getattr(plan.optimization, plan.optimization.method)
    return own.rollout.rewards or (training_service_pb2.RewardTerm(reward_model=TRAINED),)


def trains_reward_model(plan: Spec) -> bool:
    """Whether the job trains a reward model on its pairs."""
    return any(term.reward_model == TRAINED for term in reward_terms(plan))


def policy_of(job: Job, number: int) -> str:
    """The policy that a round begins with: the initial model, then the one that the round before it made."""
    return str(job.models.policies[number - 2] if number > 1 else job.models.base)
