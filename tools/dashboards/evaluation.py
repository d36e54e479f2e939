"""Evaluations: their progress, what waits, how many items are lost on the way, and on how many judges abstain."""

from tools.dashboards.panels import HERE, Board, Graph, Number, Row, Thresholds, increase, quantile, rate

RECORDS, ASSESSED = "omnialign_evaluation_records_total", "omnialign_evaluation_assessments_total"
TOKENS, STEP = "omnialign_evaluation_tokens_total", "omnialign_evaluation_step_duration_seconds"

JOBS_ROW = Row(
    "Evaluations and queue",
    [
        Number(
            "Evaluations running",
            f'sum(max by (namespace) (omnialign_evaluation_jobs{{{HERE}, state="running"}}))',
            unit="none",
            width=6,
            height=8,
            description="Every replica reports all evaluations, so replicas are not added up.",
        ),
        Number(
            "Items lost",
            f'sum(increase({RECORDS}{{{HERE}, outcome="quarantined"}}[$__range]))',
            unit="none",
            width=6,
            height=8,
            thresholds=Thresholds(yellow=10, red=100),
            description="Items that left their evaluation through their own fault, over the time shown.",
        ),
        Graph(
            "Evaluations by state",
            {"{{state}}": f"max by (state) (omnialign_evaluation_jobs{{{HERE}}})"},
            unit="none",
            width=6,
            description="Evaluations that have not ended.",
        ),
        Graph(
            "Evaluations ended",
            {"{{state}}": increase("omnialign_evaluation_jobs_ended_total", HERE, by="state", over="$__interval")},
            unit="none",
            width=6,
            description="Evaluations that succeeded, failed or were cancelled, per interval of the graph.",
        ),
        Graph(
            "Queue depth",
            {"{{namespace}}": f"max by (namespace) (omnialign_evaluation_queue_depth{{{HERE}}})"},
            unit="none",
            description="Chunks of records that wait for a replica.",
        ),
        Graph(
            "Queue age",
            {"{{namespace}}": f"max by (namespace) (omnialign_evaluation_queue_age_seconds{{{HERE}}})"},
            unit="s",
            description="How long the chunk at the head of the queue has waited.",
        ),
        Graph(
            "Evaluations that wait for a service",
            {"{{service}}": f"max by (service) (omnialign_evaluation_waiting{{{HERE}}})"},
            unit="none",
            description="Evaluations that cannot reach a service; they continue by themselves when it is back.",
        ),
    ],
)
ITEMS_ROW = Row(
    "Items",
    [
        Graph(
            "Records",
            {"{{stage}} {{outcome}}": rate(RECORDS, HERE, by="stage, outcome")},
            unit="cps",
            description="Records per second through a stage, by what became of them.",
        ),
        Graph(
            "Assessments",
            {"{{benchmark}}": rate(ASSESSED, f'{HERE}, outcome="scored"', by="benchmark")},
            unit="cps",
            description="Scores per second that judges and rules gave, by benchmark.",
        ),
        Graph(
            "Assessments without a score",
            {"{{benchmark}}": rate(ASSESSED, f'{HERE}, outcome="abstained"', by="benchmark")},
            unit="cps",
            description="Assessments per second on which a judge abstained, by benchmark.",
        ),
        Graph(
            "Tokens",
            {"{{stage}}": rate(TOKENS, HERE, by="stage")},
            unit="cps",
            description="Tokens per second of what models wrote, by stage, reused answers included.",
        ),
        Graph(
            "Time of a chunk, 95 %",
            {"{{stage}}": quantile(0.95, STEP, HERE, by="stage")},
            unit="s",
            description="95 % of the chunks take less in the stage, commit included.",
        ),
        Graph(
            "Answers reused",
            {"{{stage}}": rate("omnialign_evaluation_reused_answers_total", HERE, by="stage")},
            unit="cps",
            description="Answers per second that an earlier evaluation had, so that no model or judge was asked.",
        ),
        Graph(
            "Chunks begun again",
            {"{{stage}}": rate("omnialign_evaluation_steps_repeated_total", HERE, by="stage")},
            unit="cps",
            description="Chunks whose stage started again, after a crash or a move to another replica.",
        ),
    ],
)

BOARD = Board(
    "omnialign / Evaluations",
    uid="omnialign-evaluation",
    description="The stages of evaluations: items, scores, abstentions, tokens, and the queue of chunks.",
    rows=[JOBS_ROW, ITEMS_ROW],
)
