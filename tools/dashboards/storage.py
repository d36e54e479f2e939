"""Storage: requests to S3, bytes moved, and the calls of the data service that read and write."""

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.parts import CALLS, HERE, RATE, Levels, Query, board, graph, number, quantile, rate, row

S3, S3_SECONDS, S3_BYTES = (
    f"omnialign_s3_{name}" for name in ("requests_total", "request_duration_seconds", "bytes_total")
)
FAILED = 'result!~"ok|missing"'
"""`missing` is an answer: whether an object is there is asked all the time."""
DATA = f'{CALLS}, service="omnialign.v1.DataService"'


def build() -> dashboard.Dashboard:
    """The dashboard."""
    made = board(
        "omnialign / Storage",
        uid="omnialign-storage",
        description="The object store, as the services see it, and the data service in front of it.",
    )
    return _volumes(_data(_objects(made)))


def _objects(made: dashboard.Dashboard) -> dashboard.Dashboard:
    failed, all_of_them = (f"sum(rate({S3}{{{m}}}[{RATE}]))" for m in (f"{HERE}, {FAILED}", HERE))
    return (
        made.with_row(row("S3: rate, errors, duration"))
        .with_panel(
            number(
                "Failed requests",
                Query(f"({failed} or vector(0)) / {all_of_them}"),
                height=8,
                unit="percentunit",
                description="Share of the operations on S3 that failed.",
                levels=Levels(yellow=0.01, red=0.05),
                width=4,
            )
        )
        .with_panel(
            graph(
                "Requests",
                Query(rate(S3, HERE, by="operation"), "{{operation}}"),
                unit="reqps",
                description="Finished operations on S3 per second.",
                width=10,
            )
        )
        .with_panel(
            graph(
                "Failures",
                Query(rate(S3, f"{HERE}, {FAILED}", by="operation, result"), "{{operation}} {{result}}"),
                unit="reqps",
                description="Operations that failed, by the reason.",
                width=10,
            )
        )
        .with_panel(
            graph(
                "Duration, median",
                Query(quantile(0.5, S3_SECONDS, HERE, by="operation"), "{{operation}}"),
                unit="s",
                description="Half of the operations are faster.",
            )
        )
        .with_panel(
            graph(
                "Duration, 99 %",
                Query(quantile(0.99, S3_SECONDS, HERE, by="operation"), "{{operation}}"),
                unit="s",
                description="99 % of the operations are faster.",
            )
        )
        .with_panel(
            graph(
                "Bytes",
                Query(rate(S3_BYTES, HERE, by="direction"), "{{direction}}"),
                unit="Bps",
                description="Bytes per second from S3 (in) and to it (out).",
            )
        )
    )


def _data(made: dashboard.Dashboard) -> dashboard.Dashboard:
    media = f'{DATA}, method=~".*(Media|Files|Model).*"'
    records = f'{DATA}, method=~".*Records.*|CommitVersion|StreamQuarantine|ImportDataset|ExportDataset"'
    messages = "omnialign_rpc_stream_messages_total"
    return (
        made.with_row(row("Data service"))
        .with_panel(
            graph(
                "Media and files",
                Query(rate("omnialign_rpc_requests_total", media, by="method, code"), "{{method}} {{code}}"),
                unit="reqps",
                description="Calls that move media, files and models.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Media and files, 95 %",
                Query(quantile(0.95, "omnialign_rpc_duration_seconds", media, by="method"), "{{method}}"),
                unit="s",
                description="95 % of these calls are faster.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Records",
                Query(rate("omnialign_rpc_requests_total", records, by="method, code"), "{{method}} {{code}}"),
                unit="reqps",
                description="Calls that read, append and commit records. Each append is one merge into a table.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Records, 95 %",
                Query(quantile(0.95, "omnialign_rpc_duration_seconds", records, by="method"), "{{method}}"),
                unit="s",
                description="95 % of these calls are faster. Merges that slow down: the table has too many fragments.",
                width=6,
            )
        )
        .with_panel(
            graph(
                "Batches and chunks",
                Query(rate(messages, DATA, by="method, direction"), "{{method}} {{direction}}"),
                unit="cps",
                description="Messages of streams: batches of records, chunks of files.",
                width=24,
            )
        )
    )


def _volumes(made: dashboard.Dashboard) -> dashboard.Dashboard:
    free, size = (f"kubelet_volume_stats_{name}_bytes{{{HERE}}}" for name in ("available", "capacity"))
    claim = "{{persistentvolumeclaim}}"
    return made.with_row(row("Volumes (where the kubelet is scraped)")).with_panel(
        graph(
            "Volumes in use",
            Query(f"max by (persistentvolumeclaim) (1 - {free} / {size})", claim),
            unit="percentunit",
            description="Share of each volume that is full: model caches, and the bundled stores where they are on.",
            maximum=1,
            width=24,
        )
    )
