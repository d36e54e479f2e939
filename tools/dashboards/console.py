"""The console: what browsers and the OpenAI-compatible door ask for, how fast it answers, and who follows jobs."""

from tools.dashboards.panels import HERE, Board, Graph, Row, quantile, rate

REQUESTS = "omnialign_console_requests_total"

REQUESTS_ROW = Row(
    "Traffic",
    [
        Graph(
            "Requests",
            {"{{route}} {{status}}": rate(REQUESTS, HERE, by="route, status")},
            unit="reqps",
            width=12,
            description="Requests that were answered, by route and status. Routes that begin with /v1 are the door.",
        ),
        Graph(
            "Time to the first byte, 95 %",
            {"{{route}}": quantile(0.95, "omnialign_console_request_duration_seconds", HERE, by="route")},
            unit="s",
            width=12,
            description="95 % of the answers begin sooner. It includes the calls of the services behind a page.",
        ),
    ],
)

PEOPLE_ROW = Row(
    "At the moment",
    [
        Graph(
            "Requests in flight",
            {"{{pod}}": f"sum by (pod) (omnialign_console_in_flight{{{HERE}}})"},
            unit="none",
            width=12,
            description="Requests being answered, those of streams among them.",
        ),
        Graph(
            "Browsers that follow a job",
            {"{{pod}}": f"sum by (pod) (omnialign_console_event_streams{{{HERE}}})"},
            unit="none",
            width=12,
            description="Open pages of jobs that have not ended.",
        ),
    ],
)

BOARD = Board(
    "omnialign / Console",
    uid="omnialign-console",
    description="What browsers and programs ask the console for, and how fast it answers.",
    rows=[REQUESTS_ROW, PEOPLE_ROW],
)
