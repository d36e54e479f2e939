"""Alignment jobs: how far they are, what waits, how many records are lost on the way, and what a kept pair costs."""

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.parts import HERE, RATE, Levels, Query, board, graph, increase, number, quantile, rate, row

RECORDS, VERDICTS = "omnialign_alignment_records_total", "omnialign_alignment_comparisons_total"
TOKENS, STEP = "omnialign_alignment_tokens_total", "omnialign_alignment_step_duration_seconds"
GATE = f'{HERE}, stage="verify"'


def build() -> dashboard.Dashboard:
    """The dashboard."""
    made = board(
        "omnialign / Alignment jobs",
        uid="omnialign-alignment",
        description="The stages of alignment jobs: records, verdicts, tokens, and the queue of chunks.",
    )
    return _cost(_records(_jobs(made)))


def _jobs(made: dashboard.Dashboard) -> dashboard.Dashboard:
    kept, tried = increase(VERDICTS, f'{GATE}, verdict="win"'), increase(VERDICTS, GATE)
    return (
        made.with_row(row("Jobs and queue"))
        .with_panel(
            number(
                "Jobs running",
                Query(f'sum(max by (namespace) (omnialign_alignment_jobs{{{HERE}, state="running"}}))'),
                height=8,
                unit="none",
                description="Every replica shows all jobs, so replicas are not added up.",
                width=3,
            )
        )
        .with_panel(
            number(
                "Yield of pairs",
                Query(f"{kept} / {tried}"),
                height=8,
                unit="percentunit",
                description="Share of refinements that the gate kept, over the time shown.",
                width=3,
                levels=Levels(yellow=0.3, red=0.1),
            )
        )
        .with_panel(
            number(
                "Newest job's yield",
                Query(f"max(omnialign_alignment_pair_yield_ratio{{{HERE}}})"),
                height=8,
                unit="percentunit",
                description="Share of tried refinements kept so far, those of unreadable critiques included.",
                width=3,
            )
        )
        .with_panel(
            number(
                "Records lost",
                Query(f'sum(increase({RECORDS}{{{HERE}, outcome="quarantined"}}[$__range]))'),
                height=8,
                unit="none",
                description="Records that left their job for their own fault, over the time shown.",
                width=3,
                levels=Levels(yellow=10, red=100),
            )
        )
        .with_panel(
            graph(
                "Jobs by state",
                Query(f"max by (state) (omnialign_alignment_jobs{{{HERE}}})", "{{state}}"),
                unit="none",
                description="Jobs that have not ended.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Jobs ended",
                Query(
                    increase("omnialign_alignment_jobs_ended_total", HERE, by="state", over="$__interval"), "{{state}}"
                ),
                unit="none",
                description="Jobs that succeeded, failed or were cancelled, per interval of the graph.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Queue depth",
                Query(f"max by (namespace) (omnialign_alignment_queue_depth{{{HERE}}})", "{{namespace}}"),
                unit="none",
                description="Chunks of records that wait for a replica.",
            )
        )
        .with_panel(
            graph(
                "Queue age",
                Query(f"max by (namespace) (omnialign_alignment_queue_age_seconds{{{HERE}}})", "{{namespace}}"),
                unit="s",
                description="How long the chunk at the head of the queue has waited.",
            )
        )
        .with_panel(
            graph(
                "Jobs that wait for a service",
                Query(f"max by (service) (omnialign_alignment_waiting{{{HERE}}})", "{{service}}"),
                unit="none",
                description="Jobs whose calls to a service find it away; they go on by themselves when it is back.",
            )
        )
    )


def _records(made: dashboard.Dashboard) -> dashboard.Dashboard:
    def of(outcome: str) -> str:
        return rate(RECORDS, f'{HERE}, outcome="{outcome}"', by="stage")

    return (
        made.with_row(row("Records"))
        .with_panel(
            graph(
                "Records completed",
                Query(of("completed"), "{{stage}}"),
                unit="cps",
                description="Records per second that a stage committed.",
            )
        )
        .with_panel(
            graph(
                "Records quarantined",
                Query(of("quarantined"), "{{stage}}"),
                unit="cps",
                description="Records per second that left a job for their own fault. The job's table has the reasons.",
            )
        )
        .with_panel(
            graph(
                "Records abstained",
                Query(of("abstained"), "{{stage}}"),
                unit="cps",
                description="Records per second for which a model's answer could not be read.",
            )
        )
        .with_panel(
            graph(
                "Verdicts of the gate",
                Query(
                    f"{rate(VERDICTS, GATE, by='verdict')} / on () group_left () "
                    f"sum(rate({VERDICTS}{{{GATE}}}[{RATE}]))",
                    "{{verdict}}",
                ),
                unit="percentunit",
                description="Share of refinements that win, tie, lose against the first answer, or are not judged.",
                stacked=True,
                maximum=1,
            )
        )
        .with_panel(
            graph(
                "Verdicts of the evaluation",
                Query(
                    f'sum by (verdict) (increase({VERDICTS}{{{HERE}, stage="evaluation"}}[$__range]))', "{{verdict}}"
                ),
                unit="none",
                description="Answers of the aligned model against those of the base model, over the time shown.",
            )
        )
        .with_panel(
            graph(
                "Pairs kept",
                Query(f'sum(rate({VERDICTS}{{{GATE}, verdict="win"}}[{RATE}]))', "pairs"),
                unit="cps",
                description="Preference pairs per second that passed the gate.",
            )
        )
    )


def _cost(made: dashboard.Dashboard) -> dashboard.Dashboard:
    kept = increase(VERDICTS, f'{GATE}, verdict="win"')
    return (
        made.with_row(row("Time and tokens"))
        .with_panel(
            graph(
                "Tokens",
                Query(rate(TOKENS, HERE, by="stage"), "{{stage}}"),
                unit="cps",
                description="Tokens per second written by models, by stage.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Tokens per kept pair",
                Query(f"{increase(TOKENS, HERE, by='stage')} / on () group_left () {kept}", "{{stage}}"),
                unit="short",
                description="What a kept pair cost in each stage, over the time shown.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Time of a chunk, median",
                Query(quantile(0.5, STEP, HERE, by="stage"), "{{stage}}"),
                unit="s",
                description="Time of one stage of one chunk, its commit included.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Time of a chunk, 95 %",
                Query(quantile(0.95, STEP, HERE, by="stage"), "{{stage}}"),
                unit="s",
                description="95 % of the chunks take less in the stage.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Chunks begun again",
                Query(rate("omnialign_alignment_steps_repeated_total", HERE, by="stage"), "{{stage}}"),
                unit="cps",
                description="Chunks whose stage began a second time, after a crash or a move to another replica.",
                width=24,
            )
        )
    )
