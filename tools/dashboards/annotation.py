"""Annotation: what annotators do and lose to leases, how fast the service answers them, and what models draft."""

from tools.dashboards.panels import CALLS, HERE, Board, Graph, Number, Row, Thresholds, increase, quantile, rate

TASKS = "omnialign_annotation_tasks_total"
ANNOTATION = f'{CALLS}, service="omnialign.v1.AnnotationService"'

WORK_ROW = Row(
    "Work of annotators",
    [
        Number(
            "Annotations submitted",
            f'sum(increase({TASKS}{{{HERE}, outcome="submitted"}}[$__range]))',
            unit="none",
            width=6,
            height=8,
            description="Annotations that were submitted in the time shown.",
        ),
        Number(
            "Writes after the lease",
            f'sum(increase({TASKS}{{{HERE}, outcome="lost"}}[$__range]))',
            unit="none",
            width=6,
            height=8,
            thresholds=Thresholds(yellow=5, red=50),
            description="Drafts and submissions of somebody whose seat had gone to another, in the time shown.",
        ),
        Graph(
            "Steps of tasks",
            {"{{outcome}}": rate(TASKS, HERE, by="outcome")},
            unit="cps",
            width=12,
            description="Tasks leased, drafts saved, tasks submitted, skipped and flagged, and writes after the lease.",
        ),
    ],
)

CALLS_ROW = Row(
    "Calls of annotators",
    [
        Graph(
            "Calls",
            {"{{method}} {{code}}": rate("omnialign_rpc_requests_total", ANNOTATION, by="method, code")},
            unit="reqps",
            width=12,
            description="Finished calls per second.",
        ),
        Graph(
            "Duration, 99 %",
            {"{{method}}": quantile(0.99, "omnialign_rpc_duration_seconds", ANNOTATION, by="method")},
            unit="s",
            width=12,
            description="99 % of the calls are faster. Annotators wait for LeaseTask and SubmitTask.",
        ),
    ],
)

RECORDS, STEP = "omnialign_drafting_records_total", "omnialign_drafting_step_duration_seconds"

MODELS_ROW = Row(
    "Drafts of models",
    [
        Graph(
            "Draft jobs by state",
            {"{{state}}": f"max by (state) (omnialign_drafting_jobs{{{HERE}}})"},
            unit="none",
            description="Draft jobs that have not ended. A paused one may have used its budget.",
        ),
        Graph(
            "Draft jobs ended",
            {"{{state}}": increase("omnialign_drafting_jobs_ended_total", HERE, by="state", over="$__interval")},
            unit="none",
            description="Draft jobs that succeeded, failed or were cancelled, per interval of the graph.",
        ),
        Graph(
            "Pairs",
            {"{{outcome}}": rate(RECORDS, HERE, by="outcome")},
            unit="cps",
            description="Pairs per second that models were asked about, by what became of them.",
        ),
        Graph(
            "Tokens written",
            {"{{stage}}": rate("omnialign_drafting_tokens_total", HERE, by="stage")},
            unit="cps",
            description="Tokens per second that models wrote for drafts.",
        ),
        Graph(
            "Time of a chunk, 95 %",
            {"{{stage}}": quantile(0.95, STEP, HERE, by="stage")},
            unit="s",
            description="95 % of the chunks of pairs take less, commit included.",
        ),
        Graph(
            "Draft jobs that wait for a service",
            {"{{service}}": f"max by (service) (omnialign_drafting_waiting{{{HERE}}})"},
            unit="none",
            description="Draft jobs that cannot reach a service; they continue by themselves when it is back.",
        ),
    ],
)

BOARD = Board(
    "omnialign / Annotation",
    uid="omnialign-annotation",
    description="What annotators do and lose to leases, how fast the service answers, and what models draft.",
    rows=[WORK_ROW, CALLS_ROW, MODELS_ROW],
)
