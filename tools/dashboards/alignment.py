"""Alignment jobs: their progress, what waits, how many records are lost on the way, and what a kept pair costs."""

from tools.dashboards.panels import HERE, RATE, Board, Graph, Number, Row, Thresholds, increase, quantile, rate

RECORDS, VERDICTS = "omnialign_alignment_records_total", "omnialign_alignment_comparisons_total"
TOKENS, STEP = "omnialign_alignment_tokens_total", "omnialign_alignment_step_duration_seconds"
GATE = f'{HERE}, stage="verify"'
KEPT, TRIED = increase(VERDICTS, f'{GATE}, verdict="win"'), increase(VERDICTS, GATE)

JOBS_ROW = Row(
    "Jobs and queue",
    [
        Number(
            "Jobs running",
            f'sum(max by (namespace) (omnialign_alignment_jobs{{{HERE}, state="running"}}))',
            unit="none",
            width=3,
            height=8,
            description="Every replica reports all jobs, so replicas are not added up.",
        ),
        Number(
            "Yield of pairs",
            f"{KEPT} / {TRIED}",
            unit="percentunit",
            width=3,
            height=8,
            thresholds=Thresholds(yellow=0.3, red=0.1),
            description="Share of refinements that the gate kept, over the time shown.",
        ),
        Number(
            "Newest job's yield",
            f"max(omnialign_alignment_pair_yield_ratio{{{HERE}}})",
            unit="percentunit",
            width=3,
            height=8,
            description="Share of tried refinements kept so far, those of unreadable critiques included.",
        ),
        Number(
            "Records lost",
            f'sum(increase({RECORDS}{{{HERE}, outcome="quarantined"}}[$__range]))',
            unit="none",
            width=3,
            height=8,
            thresholds=Thresholds(yellow=10, red=100),
            description="Records that left their job through their own fault, over the time shown.",
        ),
        Graph(
            "Jobs by state",
            {"{{state}}": f"max by (state) (omnialign_alignment_jobs{{{HERE}}})"},
            unit="none",
            width=6,
            description="Jobs that have not ended.",
        ),
        Graph(
            "Jobs ended",
            {"{{state}}": increase("omnialign_alignment_jobs_ended_total", HERE, by="state", over="$__interval")},
            unit="none",
            width=6,
            description="Jobs that succeeded, failed or were cancelled, per interval of the graph.",
        ),
        Graph(
            "Queue depth",
            {"{{namespace}}": f"max by (namespace) (omnialign_alignment_queue_depth{{{HERE}}})"},
            unit="none",
            description="Chunks of records that wait for a replica.",
        ),
        Graph(
            "Queue age",
            {"{{namespace}}": f"max by (namespace) (omnialign_alignment_queue_age_seconds{{{HERE}}})"},
            unit="s",
            description="How long the chunk at the head of the queue has waited.",
        ),
        Graph(
            "Jobs that wait for a service",
            {"{{service}}": f"max by (service) (omnialign_alignment_waiting{{{HERE}}})"},
            unit="none",
            description="Jobs that cannot reach a service; they continue by themselves when it is back.",
        ),
    ],
)


def _records(outcome: str) -> str:
    return rate(RECORDS, f'{HERE}, outcome="{outcome}"', by="stage")


RECORDS_ROW = Row(
    "Records",
    [
        Graph(
            "Records completed",
            {"{{stage}}": _records("completed")},
            unit="cps",
            description="Records per second that a stage committed.",
        ),
        Graph(
            "Records quarantined",
            {"{{stage}}": _records("quarantined")},
            unit="cps",
            description="Records per second that left a job through their own fault. The job's table has the reasons.",
        ),
        Graph(
            "Records abstained",
            {"{{stage}}": _records("abstained")},
            unit="cps",
            description="Records per second for which a model's answer could not be read.",
        ),
        Graph(
            "Verdicts of the gate",
            {
                "{{verdict}}": f"{rate(VERDICTS, GATE, by='verdict')} / on () group_left () "
                f"sum(rate({VERDICTS}{{{GATE}}}[{RATE}]))"
            },
            unit="percentunit",
            stacked=True,
            maximum=1,
            description="Share of refinements that win, tie, lose against the first answer, or are not judged.",
        ),
        Graph(
            "Verdicts of the evaluation",
            {"{{verdict}}": f'sum by (verdict) (increase({VERDICTS}{{{HERE}, stage="evaluation"}}[$__range]))'},
            unit="none",
            description="Answers of the aligned model compared with those of the base model, over the time shown.",
        ),
        Graph(
            "Pairs kept",
            {"pairs": f'sum(rate({VERDICTS}{{{GATE}, verdict="win"}}[{RATE}]))'},
            unit="cps",
            description="Preference pairs per second that passed the gate.",
        ),
    ],
)
COST_ROW = Row(
    "Time and tokens",
    [
        Graph(
            "Tokens",
            {"{{stage}}": rate(TOKENS, HERE, by="stage")},
            unit="cps",
            width=6,
            description="Tokens per second written by models, by stage.",
        ),
        Graph(
            "Tokens per kept pair",
            {"{{stage}}": f"{increase(TOKENS, HERE, by='stage')} / on () group_left () {KEPT}"},
            unit="short",
            width=6,
            description="What a kept pair cost in each stage, over the time shown.",
        ),
        Graph(
            "Time of a chunk, median",
            {"{{stage}}": quantile(0.5, STEP, HERE, by="stage")},
            unit="s",
            width=6,
            description="Time of one stage of one chunk, its commit included.",
        ),
        Graph(
            "Time of a chunk, 95 %",
            {"{{stage}}": quantile(0.95, STEP, HERE, by="stage")},
            unit="s",
            width=6,
            description="95 % of the chunks take less in the stage.",
        ),
        Graph(
            "Chunks begun again",
            {"{{stage}}": rate("omnialign_alignment_steps_repeated_total", HERE, by="stage")},
            unit="cps",
            width=24,
            description="Chunks whose stage started again, after a crash or a move to another replica.",
        ),
    ],
)

BOARD = Board(
    "omnialign / Alignment jobs",
    uid="omnialign-alignment",
    description="The stages of alignment jobs: records, verdicts, tokens, and the queue of chunks.",
    rows=[JOBS_ROW, RECORDS_ROW, COST_ROW],
)
