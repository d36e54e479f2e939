"""Training: jobs and what holds them up, then each run's curves, speed, checkpoints and ranks."""

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.parts import (
    HERE,
    RATE,
    Levels,
    Query,
    board,
    choice,
    graph,
    increase,
    listing,
    number,
    quantile,
    rate,
    row,
)

RUN = f'{HERE}, training_job=~"$run"'
STEP_SECONDS = "omnialign_train_step_duration_seconds"
CHECKPOINT_SECONDS = "omnialign_train_checkpoint_duration_seconds"


def build() -> dashboard.Dashboard:
    """The dashboard."""
    made = board(
        "omnialign / Training",
        uid="omnialign-training",
        description="Training jobs as the service sees them, and the runs themselves as their rank 0 tells.",
        variables=[choice("run", "Run", f"label_values(omnialign_train_info{{{HERE}}}, training_job)")],
    )
    return _checkpoints(_speed(_curves(_jobs(made))))


def _jobs(made: dashboard.Dashboard) -> dashboard.Dashboard:
    wait = "omnialign_training_start_wait_seconds"
    return (
        made.with_row(row("Jobs"))
        .with_panel(
            number(
                "Most silent job",
                Query(f"max(omnialign_training_heartbeat_age_seconds{{{HERE}}})"),
                height=8,
                unit="s",
                description="Time since the most silent running job last spoke. After its limit a job is ended.",
                levels=Levels(yellow=60, red=180),
                width=3,
            )
        )
        .with_panel(
            number(
                "Oldest queued job",
                Query(f"max(omnialign_training_queue_age_seconds{{{HERE}}})"),
                height=8,
                unit="s",
                description="How long the job at the head of the queue has waited to start.",
                levels=Levels(yellow=600, red=3600),
                width=3,
            )
        )
        .with_panel(
            graph(
                "Jobs by state",
                Query(f"max by (state) (omnialign_training_jobs{{{HERE}}})", "{{state}}"),
                unit="none",
                description="Jobs that have not ended.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Jobs ended",
                Query(
                    increase("omnialign_training_jobs_ended_total", HERE, by="state", over="$__interval"), "{{state}}"
                ),
                unit="none",
                description="Jobs that succeeded, failed or were cancelled, per interval of the graph.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Jobs held up",
                Query(f"max by (reason) (omnialign_training_jobs_held{{{HERE}}})", "{{reason}}"),
                unit="none",
                description="Jobs that cannot start or go on, by reason: UNSCHEDULABLE, IMAGE_PULL_FAILED and so on.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Wait for the start",
                Query(quantile(0.5, wait, HERE), "median"),
                Query(quantile(0.95, wait, HERE), "95 %"),
                unit="s",
                description="Time from a job's creation to the start of its first process.",
                width=12,
            )
        )
        .with_panel(
            graph(
                "Attempts begun again",
                Query(f"sum(rate(omnialign_training_restarts_total{{{HERE}}}[{RATE}]))", "restarts"),
                unit="cps",
                description="Attempts after a crash or an eviction; each goes on from the newest checkpoint.",
                width=12,
            )
        )
    )


def _curves(made: dashboard.Dashboard) -> dashboard.Dashboard:
    def curve(metric: str) -> Query:
        return Query(f"omnialign_train_{metric}{{{RUN}}}", "{{training_job}}")

    return (
        made.with_row(row("Curves"))
        .with_panel(graph("Loss", curve("loss"), unit="short", description="Loss of the last step.", minimum=None))
        .with_panel(
            graph(
                "Gradient norm",
                curve("grad_norm"),
                unit="short",
                description="Before clipping, which is at 1. It grows tenfold before a loss is no number.",
            )
        )
        .with_panel(
            graph("Learning rate", curve("learning_rate"), unit="sci", description="Learning rate of the last step.")
        )
        .with_panel(
            graph(
                "Reward margin (DPO)",
                curve("reward_margin"),
                unit="short",
                description="How far the chosen answers are ahead of the rejected ones, in the loss's own unit.",
                minimum=None,
                width=12,
            )
        )
        .with_panel(
            graph(
                "Reward accuracy (DPO)",
                curve("reward_accuracy_ratio"),
                unit="percentunit",
                description="Share of pairs whose chosen answer is ahead.",
                maximum=1,
                width=12,
            )
        )
    )


def _speed(made: dashboard.Dashboard) -> dashboard.Dashboard:
    waited = rate("omnialign_train_data_wait_seconds_total", RUN, by="training_job")
    stepped = rate(f"{STEP_SECONDS}_sum", RUN, by="training_job")
    return (
        made.with_row(row("Speed"))
        .with_panel(
            graph(
                "Progress",
                Query(f"omnialign_train_step{{{RUN}}} / omnialign_train_steps_planned{{{RUN}}}", "{{training_job}}"),
                unit="percentunit",
                description="Steps done of the steps planned.",
                maximum=1,
                width=6,
            )
        )
        .with_panel(
            graph(
                "Step time",
                Query(quantile(0.5, STEP_SECONDS, RUN, by="training_job"), "{{training_job}} median"),
                Query(quantile(0.95, STEP_SECONDS, RUN, by="training_job"), "{{training_job}} 95 %"),
                unit="s",
                description="Time of a step, without the wait for its data. Far above the median: a straggling rank.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Tokens",
                Query(rate("omnialign_train_tokens_total", RUN, by="training_job"), "{{training_job}}"),
                unit="cps",
                description="Tokens per second over all ranks.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Wait for data",
                Query(f"{waited} / ({waited} + {stepped})", "{{training_job}}"),
                unit="percentunit",
                description="Share of the time between steps. Above a tenth, the loader is the bottleneck.",
                maximum=1,
                width=6,
            )
        )
    )


def _checkpoints(made: dashboard.Dashboard) -> dashboard.Dashboard:
    last = f"omnialign_train_last_checkpoint_timestamp_seconds{{{RUN}}}"
    return (
        made.with_row(row("Ranks and checkpoints"))
        .with_panel(
            graph(
                "Ranks",
                Query(f"omnialign_train_ranks{{{RUN}}}", "{{training_job}}"),
                unit="none",
                description="Processes of a run. A step ends only when all took part, so see the next panel too.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Time since the last step",
                Query(f"time() - omnialign_train_last_step_timestamp_seconds{{{RUN}}}", "{{training_job}}"),
                unit="s",
                description="A run that stands still waits for a rank, for its data, or writes a checkpoint.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Age of the last checkpoint",
                Query(f"time() - ({last} > 0)", "{{training_job}}"),
                unit="s",
                description="What a crash now would cost. Empty before the first checkpoint.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Time of a checkpoint",
                Query(
                    quantile(0.95, CHECKPOINT_SECONDS, RUN, by="training_job"),
                    "{{training_job}}",
                ),
                unit="s",
                description="95 % of the checkpoints are written in less.",
                width=6,
            )
        )
        .with_panel(
            listing(
                "Runs",
                Query(f"max by (training_job, method, model) (omnialign_train_info{{{RUN}}})"),
                description="What the runs train: method and base model.",
                width=24,
            )
        )
    )
