"""Overview: whether everything is up, how many calls fail, how long they take, what runs and what alerts."""

from tools.dashboards.panels import (
    CALLS,
    FAULTS,
    HERE,
    RATE,
    Bars,
    Board,
    Graph,
    Number,
    Row,
    Table,
    Thresholds,
    Variable,
    quantile,
    rate,
)

REQUESTS, DURATION = "omnialign_rpc_requests_total", "omnialign_rpc_duration_seconds"
SELECTED = f'{CALLS}, service=~"$service"'
ENDING = f'{SELECTED}, method!~"Watch.*"'
"""All calls but watches, which last as long as what they watch."""
OURS = f'{HERE}, component!=""'
"""Every program exports process metrics under the same names; ours have the label `component`."""
READY = f"omnialign_ready{{{HERE}}}"
FAILED_CALLS = f"sum(rate({REQUESTS}{{{CALLS}, {FAULTS}}}[{RATE}]))"

NOW_ROW = Row(
    "Now",
    [
        Number(
            "Services without a ready replica",
            f"count(max by (namespace, service) ({READY}) == 0) or vector(0)",
            unit="none",
            thresholds=Thresholds(yellow=1, red=1.5),
            description="Services with no serving replica. Anything but 0 means that calls are refused.",
        ),
        Number(
            "Alerts firing",
            'count(ALERTS{alertname=~"Omnialign.*", alertstate="firing"}) or vector(0)',
            unit="none",
            thresholds=Thresholds(yellow=1, red=3),
            description="Alerts of this chart that fire now, in all namespaces. Each has a page in docs/runbooks.",
        ),
        Number(
            "Failed calls",
            f"({FAILED_CALLS} or vector(0)) / sum(rate({REQUESTS}{{{CALLS}}}[{RATE}]))",
            unit="percentunit",
            thresholds=Thresholds(yellow=0.01, red=0.05),
            description="Share of calls that failed through the server's fault, or for lack of room or time.",
        ),
        Number(
            "Alignment jobs running",
            f'sum(max by (namespace) (omnialign_alignment_jobs{{{HERE}, state="running"}}))',
            unit="none",
            description="Running alignment jobs. Every replica reports all jobs, so replicas are not added up.",
        ),
        Number(
            "Training jobs running",
            f'sum(max by (namespace) (omnialign_training_jobs{{{HERE}, state="running"}}))',
            unit="none",
            description="Training jobs whose processes are running.",
        ),
        Number(
            "Oldest chunk that waits",
            f"max(omnialign_alignment_queue_age_seconds{{{HERE}}})",
            unit="s",
            thresholds=Thresholds(yellow=600, red=3600),
            description="How long the chunk of records at the head of the queue has waited for a replica.",
        ),
    ],
)

FAILED_BY_SERVICE = f"sum by (service) (rate({REQUESTS}{{{SELECTED}, {FAULTS}}}[{RATE}]))"
BY_SERVICE = rate(REQUESTS, SELECTED, by="service")

CALLS_ROW = Row(
    "Calls: rate, errors, duration",
    [
        Graph(
            "Calls",
            {"{{service}}": BY_SERVICE},
            unit="reqps",
            description="Finished calls per second by service.",
        ),
        Graph(
            "Calls that did not end well",
            {"{{service}} {{code}}": rate(REQUESTS, f'{SELECTED}, code!="OK"', by="service, code")},
            unit="reqps",
            description="By status code. NOT_FOUND and the like are the callers' concern; INTERNAL is always ours.",
        ),
        Graph(
            "Failed share",
            {"{{service}}": f"({FAILED_BY_SERVICE} or 0 * {BY_SERVICE}) / {BY_SERVICE}"},
            unit="percentunit",
            maximum=1,
            description="Share of calls that failed through the server's fault, or for lack of room or time.",
        ),
        Graph(
            "Duration, median",
            {"{{service}}": quantile(0.5, DURATION, ENDING, by="service")},
            unit="s",
            width=6,
            description="Half of the calls are faster. Watches, which last as long as a job, are left out.",
        ),
        Graph(
            "Duration, 95 %",
            {"{{service}}": quantile(0.95, DURATION, ENDING, by="service")},
            unit="s",
            width=6,
            description="95 % of the calls are faster.",
        ),
        Graph(
            "Duration, 99 %",
            {"{{service}}": quantile(0.99, DURATION, ENDING, by="service")},
            unit="s",
            width=6,
            description="99 % of the calls are faster.",
        ),
        Bars(
            "Slowest methods, 95 %",
            {"{{method}}": f"topk(10, {quantile(0.95, DURATION, ENDING, by='method')})"},
            unit="s",
            width=6,
            description="The ten methods whose calls take longest now.",
        ),
        Graph(
            "Calls in flight",
            {"{{service}}": f"sum by (service) (omnialign_rpc_in_flight{{{SELECTED}}})"},
            unit="none",
            description="Calls in progress. Above its limit, a replica refuses calls with RESOURCE_EXHAUSTED.",
        ),
        Graph(
            "Messages of streams",
            {
                "{{service}} {{direction}}": rate(
                    "omnialign_rpc_stream_messages_total", SELECTED, by="service, direction"
                )
            },
            unit="cps",
            description="Messages per second in streamed requests and answers, seen from the server.",
        ),
        Graph(
            "Refused callers",
            {"{{reason}}": rate("omnialign_auth_failures_total", CALLS, by="reason")},
            unit="reqps",
            description="Calls refused for a missing, wrong or insufficient token, or beyond a rate or quota.",
        ),
    ],
)

PROCESSES_ROW = Row(
    "Processes",
    [
        Graph(
            "Ready replicas",
            {"{{service}}": f"sum by (service) (omnialign_ready{{{HERE}}})"},
            unit="none",
            description="Replicas that have connected to what they need.",
        ),
        Graph(
            "Starts",
            {"{{component}}": f"sum by (component) (changes(process_start_time_seconds{{{OURS}}}[10m]))"},
            unit="none",
            description="Restarts of containers in the last ten minutes, by component.",
        ),
        Table(
            "Versions",
            f"count by (component, version) (omnialign_build_info{{{HERE}}})",
            description="How many processes run which version. Two versions of one component mean a rollout.",
        ),
        Graph(
            "Processor time",
            {"{{component}}": f"sum by (component) (rate(process_cpu_seconds_total{{{OURS}}}[{RATE}]))"},
            unit="none",
            description="Cores in use, by component.",
        ),
        Graph(
            "Memory",
            {"{{component}}": f"max by (component) (process_resident_memory_bytes{{{OURS}}})"},
            unit="bytes",
            description="Resident memory of the largest process of each component.",
        ),
        Graph(
            "Open files",
            {"{{component}}": f"max by (component) (process_open_fds{{{OURS}}} / process_max_fds{{{OURS}}})"},
            unit="percentunit",
            description="Share of the allowed open files and connections in use, worst process of each component.",
        ),
        Table(
            "Alerts",
            'sum by (alertname, severity, namespace, service) (ALERTS{alertname=~"Omnialign.*", alertstate="firing"})',
            width=24,
            description="The alerts that fire now. What to do is in docs/runbooks, one page per alert.",
        ),
    ],
)

BOARD = Board(
    "omnialign / Overview",
    uid="omnialign-overview",
    description="Health, calls and processes of all services. Start here; the menu leads to the other dashboards.",
    variables=[Variable("service", "Service", f"label_values(omnialign_rpc_requests_total{{{HERE}}}, service)")],
    rows=[NOW_ROW, CALLS_ROW, PROCESSES_ROW],
)
