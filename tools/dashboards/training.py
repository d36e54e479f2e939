"""Training: jobs and what blocks them, then each run's curves, speed, checkpoints and ranks."""

from tools.dashboards.panels import (
    HERE,
    RATE,
    Board,
    Graph,
    Number,
    Row,
    Table,
    Thresholds,
    Variable,
    increase,
    quantile,
    rate,
)

RUN = f'{HERE}, training_job=~"$run"'
STEP_SECONDS = "omnialign_train_step_duration_seconds"
CHECKPOINT_SECONDS = "omnialign_train_checkpoint_duration_seconds"
START_WAIT = "omnialign_training_start_wait_seconds"

JOBS_ROW = Row(
    "Jobs",
    [
        Number(
            "Most silent job",
            f"max(omnialign_training_heartbeat_age_seconds{{{HERE}}})",
            unit="s",
            width=3,
            height=8,
            thresholds=Thresholds(yellow=60, red=180),
            description="Time since the most silent running job last reported. At its limit, the service ends a job.",
        ),
        Number(
            "Oldest queued job",
            f"max(omnialign_training_queue_age_seconds{{{HERE}}})",
            unit="s",
            width=3,
            height=8,
            thresholds=Thresholds(yellow=600, red=3600),
            description="How long the job at the head of the queue has waited to start.",
        ),
        Graph(
            "Jobs by state",
            {"{{state}}": f"max by (state) (omnialign_training_jobs{{{HERE}}})"},
            unit="none",
            width=6,
            description="Jobs that have not ended.",
        ),
        Graph(
            "Jobs ended",
            {"{{state}}": increase("omnialign_training_jobs_ended_total", HERE, by="state", over="$__interval")},
            unit="none",
            width=6,
            description="Jobs that succeeded, failed or were cancelled, per interval of the graph.",
        ),
        Graph(
            "Jobs held up",
            {"{{reason}}": f"max by (reason) (omnialign_training_jobs_held{{{HERE}}})"},
            unit="none",
            width=6,
            description="Jobs that cannot start or go on, by reason: UNSCHEDULABLE, IMAGE_PULL_FAILED and so on.",
        ),
        Graph(
            "Wait for the start",
            {
                "median": quantile(0.5, START_WAIT, HERE),
                "95 %": quantile(0.95, START_WAIT, HERE),
            },
            unit="s",
            width=12,
            description="Time from a job's creation to the start of its first process.",
        ),
        Graph(
            "Attempts begun again",
            {"restarts": f"sum(rate(omnialign_training_restarts_total{{{HERE}}}[{RATE}]))"},
            unit="cps",
            width=12,
            description="Attempts after a crash or an eviction; each continues from the newest checkpoint.",
        ),
    ],
)


def _curve(metric: str) -> dict[str, str]:
    return {"{{training_job}}": f"omnialign_train_{metric}{{{RUN}}}"}


CURVES_ROW = Row(
    "Curves",
    [
        Graph(
            "Loss",
            _curve("loss"),
            unit="short",
            minimum=None,
            description="Loss of the last step.",
        ),
        Graph(
            "Loss on examples held out",
            _curve("eval_loss"),
            unit="short",
            minimum=None,
            description="In the last evaluation. It rises when the run begins to learn its examples by heart.",
        ),
        Graph(
            "Gradient norm",
            _curve("grad_norm"),
            unit="short",
            description="Before clipping at 1. It grows tenfold before a loss becomes NaN.",
        ),
        Graph(
            "Learning rate",
            _curve("learning_rate"),
            unit="sci",
            description="Learning rate of the last step.",
        ),
        Graph(
            "Reward margin (DPO)",
            _curve("reward_margin"),
            unit="short",
            minimum=None,
            description="How far the chosen answers are ahead of the rejected ones, in the loss's own unit.",
        ),
        Graph(
            "Reward accuracy (DPO)",
            _curve("reward_accuracy_ratio"),
            unit="percentunit",
            maximum=1,
            description="Share of pairs whose chosen answer is ahead.",
        ),
    ],
)

START_WAITed = rate("omnialign_train_data_wait_seconds_total", RUN, by="training_job")
DATA_WAIT = rate("omnialign_train_data_wait_seconds_total", RUN, by="training_job")
STEP_TIME = rate(f"{STEP_SECONDS}_sum", RUN, by="training_job")

SPEED_ROW = Row(
    "Speed",
    [
        Graph(
            "Progress",
            {"{{training_job}}": f"omnialign_train_step{{{RUN}}} / omnialign_train_steps_planned{{{RUN}}}"},
            unit="percentunit",
            width=6,
            maximum=1,
            description="Steps done of the steps planned.",
        ),
        Graph(
            "Step time",
            {
                "{{training_job}} median": quantile(0.5, STEP_SECONDS, RUN, by="training_job"),
                "{{training_job}} 95 %": quantile(0.95, STEP_SECONDS, RUN, by="training_job"),
            },
            unit="s",
            width=6,
            description="Time of a step, without the wait for its data. Far above the median means a straggling rank.",
        ),
        Graph(
            "Tokens",
            {"{{training_job}}": rate("omnialign_train_tokens_total", RUN, by="training_job")},
            unit="cps",
            width=6,
            description="Tokens per second over all ranks.",
        ),
        Graph(
            "Wait for data",
            {"{{training_job}}": f"{DATA_WAIT} / ({DATA_WAIT} + {STEP_TIME})"},
            unit="percentunit",
            width=6,
            maximum=1,
            description="Share of the time spent waiting for data. Above a tenth, the loader is the bottleneck.",
        ),
    ],
)

LAST_CHECKPOINT = f"omnialign_train_last_checkpoint_timestamp_seconds{{{RUN}}}"

CHECKPOINTS_ROW = Row(
    "Ranks and checkpoints",
    [
        Graph(
            "Ranks",
            {"{{training_job}}": f"omnialign_train_ranks{{{RUN}}}"},
            unit="none",
            width=6,
            description="Processes of a run. A step ends only when all have taken part, so see the next panel too.",
        ),
        Graph(
            "Time since the last step",
            {"{{training_job}}": f"time() - omnialign_train_last_step_timestamp_seconds{{{RUN}}}"},
            unit="s",
            width=6,
            description="A stalled run waits for a rank or for data, or writes a checkpoint.",
        ),
        Graph(
            "Age of the last checkpoint",
            {"{{training_job}}": f"time() - ({LAST_CHECKPOINT} > 0)"},
            unit="s",
            width=6,
            description="What a crash now would cost. Empty before the first checkpoint.",
        ),
        Graph(
            "Time of a checkpoint",
            {"{{training_job}}": quantile(0.95, CHECKPOINT_SECONDS, RUN, by="training_job")},
            unit="s",
            width=6,
            description="95 % of the checkpoints are written in less.",
        ),
        Table(
            "Runs",
            f"max by (training_job, method, model) (omnialign_train_info{{{RUN}}})",
            width=24,
            description="What the runs train: method and base model.",
        ),
    ],
)

BOARD = Board(
    "omnialign / Training",
    uid="omnialign-training",
    description="Training jobs as the service sees them, and the runs as their rank 0 reports them.",
    variables=[Variable("run", "Run", f"label_values(omnialign_train_info{{{HERE}}}, training_job)")],
    rows=[JOBS_ROW, CURVES_ROW, SPEED_ROW, CHECKPOINTS_ROW],
)
