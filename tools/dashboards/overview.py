"""Overview: is everything up, how many calls fail and how long do they take, what is running, what is alerting."""

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.parts import (
    CALLS,
    FAULTS,
    HERE,
    RATE,
    Levels,
    Query,
    bars,
    board,
    choice,
    graph,
    listing,
    number,
    quantile,
    rate,
    row,
)

REQUESTS, DURATION = "omnialign_rpc_requests_total", "omnialign_rpc_duration_seconds"
SELECTED = f'{CALLS}, service=~"$service"'
ENDING = f'{SELECTED}, method!~"Watch.*"'
"""Watches last as long as what they watch."""
OURS = f'{HERE}, component!=""'
"""Metrics of processes have names that everybody's have: only targets with our label `component` are ours."""


def build() -> dashboard.Dashboard:
    """The dashboard."""
    made = board(
        "omnialign / Overview",
        uid="omnialign-overview",
        description="Health, calls and processes of all services. Start here; the menu leads to the other dashboards.",
        variables=[choice("service", "Service", f"label_values(omnialign_rpc_requests_total{{{HERE}}}, service)")],
    )
    return _processes(_calls(_now(made)))


def _now(made: dashboard.Dashboard) -> dashboard.Dashboard:
    ready = f"omnialign_ready{{{HERE}}}"
    faults = f"sum(rate({REQUESTS}{{{CALLS}, {FAULTS}}}[{RATE}]))"
    return (
        made.with_row(row("Now"))
        .with_panel(
            number(
                "Services without a ready replica",
                Query(f"count(max by (namespace, service) ({ready}) == 0) or vector(0)"),
                unit="none",
                description="Services of which no replica serves now. Anything but 0 means that calls are refused.",
                levels=Levels(yellow=1, red=1.5),
            )
        )
        .with_panel(
            number(
                "Alerts firing",
                Query('count(ALERTS{alertname=~"Omnialign.*", alertstate="firing"}) or vector(0)'),
                unit="none",
                description="Alerts of this chart that fire now, in all namespaces. Each has a page in docs/runbooks.",
                levels=Levels(yellow=1, red=3),
            )
        )
        .with_panel(
            number(
                "Failed calls",
                Query(f"({faults} or vector(0)) / sum(rate({REQUESTS}{{{CALLS}}}[{RATE}]))"),
                unit="percentunit",
                description="Share of calls that failed for the server's fault, or for want of room or time.",
                levels=Levels(yellow=0.01, red=0.05),
            )
        )
        .with_panel(
            number(
                "Alignment jobs running",
                Query(f'sum(max by (namespace) (omnialign_alignment_jobs{{{HERE}, state="running"}}))'),
                unit="none",
                description="Alignment jobs at work. Every replica shows all jobs, so replicas are not added up.",
            )
        )
        .with_panel(
            number(
                "Training jobs running",
                Query(f'sum(max by (namespace) (omnialign_training_jobs{{{HERE}, state="running"}}))'),
                unit="none",
                description="Training jobs whose processes are at work.",
            )
        )
        .with_panel(
            number(
                "Oldest chunk that waits",
                Query(f"max(omnialign_alignment_queue_age_seconds{{{HERE}}})"),
                unit="s",
                description="How long the chunk of records at the head of the queue has waited for a replica.",
                levels=Levels(yellow=600, red=3600),
            )
        )
    )


def _calls(made: dashboard.Dashboard) -> dashboard.Dashboard:
    failed = f"sum by (service) (rate({REQUESTS}{{{SELECTED}, {FAULTS}}}[{RATE}]))"
    answered = rate(REQUESTS, SELECTED, by="service")
    return (
        made.with_row(row("Calls: rate, errors, duration"))
        .with_panel(
            graph(
                "Calls",
                Query(answered, "{{service}}"),
                unit="reqps",
                description="Finished calls per second by service.",
            )
        )
        .with_panel(
            graph(
                "Calls that did not end well",
                Query(rate(REQUESTS, f'{SELECTED}, code!="OK"', by="service, code"), "{{service}} {{code}}"),
                unit="reqps",
                description="By status code. NOT_FOUND and the like are the callers' affair; INTERNAL never is.",
            )
        )
        .with_panel(
            graph(
                "Failed share",
                Query(f"({failed} or 0 * {answered}) / {answered}", "{{service}}"),
                unit="percentunit",
                description="Share of calls that failed for the server's fault, or for want of room or time.",
                maximum=1,
            )
        )
        .with_panel(
            graph(
                "Duration, median",
                Query(quantile(0.5, DURATION, ENDING, by="service"), "{{service}}"),
                unit="s",
                description="Half of the calls are faster. Watches, which last as long as a job, are left out.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Duration, 95 %",
                Query(quantile(0.95, DURATION, ENDING, by="service"), "{{service}}"),
                unit="s",
                description="95 % of the calls are faster.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Duration, 99 %",
                Query(quantile(0.99, DURATION, ENDING, by="service"), "{{service}}"),
                unit="s",
                description="99 % of the calls are faster.",
                width=6,
            )
        )
        .with_panel(
            bars(
                "Slowest methods, 95 %",
                Query(f"topk(10, {quantile(0.95, DURATION, ENDING, by='method')})", "{{method}}"),
                unit="s",
                description="The ten methods whose calls take longest now.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Calls in flight",
                Query(f"sum by (service) (omnialign_rpc_in_flight{{{SELECTED}}})", "{{service}}"),
                unit="none",
                description="Calls being answered. Each replica refuses more than its limit with RESOURCE_EXHAUSTED.",
            )
        )
        .with_panel(
            graph(
                "Messages of streams",
                Query(
                    rate("omnialign_rpc_stream_messages_total", SELECTED, by="service, direction"),
                    "{{service}} {{direction}}",
                ),
                unit="cps",
                description="Messages per second in streamed requests and answers, seen from the server.",
            )
        )
        .with_panel(
            graph(
                "Refused callers",
                Query(rate("omnialign_auth_failures_total", CALLS, by="reason"), "{{reason}}"),
                unit="reqps",
                description="Calls refused for a missing, wrong or insufficient token, or beyond a rate or quota.",
            )
        )
    )


def _processes(made: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        made.with_row(row("Processes"))
        .with_panel(
            graph(
                "Ready replicas",
                Query(f"sum by (service) (omnialign_ready{{{HERE}}})", "{{service}}"),
                unit="none",
                description="Replicas that have connected to what they need.",
            )
        )
        .with_panel(
            graph(
                "Starts",
                Query(f"sum by (component) (changes(process_start_time_seconds{{{OURS}}}[10m]))", "{{component}}"),
                unit="none",
                description="Restarts of containers in the last ten minutes, by component.",
            )
        )
        .with_panel(
            listing(
                "Versions",
                Query(f"count by (component, version) (omnialign_build_info{{{HERE}}})"),
                description="How many processes run which version. Two versions of one component: a rollout.",
            )
        )
        .with_panel(
            graph(
                "Processor time",
                Query(f"sum by (component) (rate(process_cpu_seconds_total{{{OURS}}}[{RATE}]))", "{{component}}"),
                unit="none",
                description="Cores in use, by component.",
            )
        )
        .with_panel(
            graph(
                "Memory",
                Query(f"max by (component) (process_resident_memory_bytes{{{OURS}}})", "{{component}}"),
                unit="bytes",
                description="Resident memory of the largest process of each component.",
            )
        )
        .with_panel(
            graph(
                "Open files",
                Query(f"max by (component) (process_open_fds{{{OURS}}} / process_max_fds{{{OURS}}})", "{{component}}"),
                unit="percentunit",
                description="Share of the allowed open files and connections in use, worst process of each component.",
            )
        )
        .with_panel(
            listing(
                "Alerts",
                Query(
                    "sum by (alertname, severity, namespace, service) "
                    '(ALERTS{alertname=~"Omnialign.*", alertstate="firing"})'
                ),
                description="The alerts that fire now. What to do is in docs/runbooks, one page per alert.",
                width=24,
            )
        )
    )
