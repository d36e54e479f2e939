"""Annotation: what annotators do, what they lose to leases, and how fast the service answers them."""

from tools.dashboards.panels import CALLS, HERE, Board, Graph, Number, Row, Thresholds, quantile, rate

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

BOARD = Board(
    "omnialign / Annotation",
    uid="omnialign-annotation",
    description="What annotators do, what they lose to leases, and how fast the service answers.",
    rows=[WORK_ROW, CALLS_ROW],
)
