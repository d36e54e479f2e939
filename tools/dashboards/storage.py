"""Storage: requests to S3, bytes moved, and the calls of the data service that read and write."""

from tools.dashboards.panels import CALLS, HERE, RATE, Board, Graph, Number, Row, Thresholds, quantile, rate

S3, S3_SECONDS, S3_BYTES = (
    f"omnialign_s3_{name}" for name in ("requests_total", "request_duration_seconds", "bytes_total")
)
FAILED = 'result!~"ok|missing"'
"""`missing` is no failure: the services often ask whether an object exists."""
DATA = f'{CALLS}, service="omnialign.v1.DataService"'
FAILED_RATE = f"sum(rate({S3}{{{HERE}, {FAILED}}}[{RATE}]))"
TOTAL_RATE = f"sum(rate({S3}{{{HERE}}}[{RATE}]))"

OBJECTS_ROW = Row(
    "S3: rate, errors, duration",
    [
        Number(
            "Failed requests",
            f"({FAILED_RATE} or vector(0)) / {TOTAL_RATE}",
            unit="percentunit",
            width=4,
            height=8,
            thresholds=Thresholds(yellow=0.01, red=0.05),
            description="Share of the operations on S3 that failed.",
        ),
        Graph(
            "Requests",
            {"{{operation}}": rate(S3, HERE, by="operation")},
            unit="reqps",
            width=10,
            description="Finished operations on S3 per second.",
        ),
        Graph(
            "Failures",
            {"{{operation}} {{result}}": rate(S3, f"{HERE}, {FAILED}", by="operation, result")},
            unit="reqps",
            width=10,
            description="Operations that failed, by the reason.",
        ),
        Graph(
            "Duration, median",
            {"{{operation}}": quantile(0.5, S3_SECONDS, HERE, by="operation")},
            unit="s",
            description="Half of the operations are faster.",
        ),
        Graph(
            "Duration, 99 %",
            {"{{operation}}": quantile(0.99, S3_SECONDS, HERE, by="operation")},
            unit="s",
            description="99 % of the operations are faster.",
        ),
        Graph(
            "Bytes",
            {"{{direction}}": rate(S3_BYTES, HERE, by="direction")},
            unit="Bps",
            description="Bytes per second from S3 (in) and to it (out).",
        ),
    ],
)

MEDIA_CALLS = f'{DATA}, method=~".*(Media|Files|Model).*"'
RECORD_CALLS = f'{DATA}, method=~".*Records.*|CommitVersion|StreamQuarantine|ImportDataset|ExportDataset"'
MESSAGES = "omnialign_rpc_stream_messages_total"

DATA_ROW = Row(
    "Data service",
    [
        Graph(
            "Media and files",
            {"{{method}} {{code}}": rate("omnialign_rpc_requests_total", MEDIA_CALLS, by="method, code")},
            unit="reqps",
            width=6,
            description="Calls that move media, files and models.",
        ),
        Graph(
            "Media and files, 95 %",
            {"{{method}}": quantile(0.95, "omnialign_rpc_duration_seconds", MEDIA_CALLS, by="method")},
            unit="s",
            width=6,
            description="95 % of these calls are faster.",
        ),
        Graph(
            "Records",
            {"{{method}} {{code}}": rate("omnialign_rpc_requests_total", RECORD_CALLS, by="method, code")},
            unit="reqps",
            width=6,
            description="Calls that read, append and commit records. Each append is one merge into a table.",
        ),
        Graph(
            "Records, 95 %",
            {"{{method}}": quantile(0.95, "omnialign_rpc_duration_seconds", RECORD_CALLS, by="method")},
            unit="s",
            width=6,
            description="95 % of these calls are faster. Slowing merges mean that the table has too many fragments.",
        ),
        Graph(
            "Batches and chunks",
            {"{{method}} {{direction}}": rate(MESSAGES, DATA, by="method, direction")},
            unit="cps",
            width=24,
            description="Messages of streams: batches of records, chunks of files.",
        ),
    ],
)

FREE, CAPACITY = (f"kubelet_volume_stats_{name}_bytes{{{HERE}}}" for name in ("available", "capacity"))
CLAIM = "{{persistentvolumeclaim}}"

VOLUMES_ROW = Row(
    "Volumes (where the kubelet is scraped)",
    [
        Graph(
            "Volumes in use",
            {CLAIM: f"max by (persistentvolumeclaim) (1 - {FREE} / {CAPACITY})"},
            unit="percentunit",
            width=24,
            maximum=1,
            description="Share of each volume that is full: model caches, and the bundled stores if enabled.",
        ),
    ],
)

BOARD = Board(
    "omnialign / Storage",
    uid="omnialign-storage",
    description="The object store, as the services see it, and the data service in front of it.",
    rows=[OBJECTS_ROW, DATA_ROW, VOLUMES_ROW],
)
