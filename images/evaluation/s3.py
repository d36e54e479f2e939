"""An S3 server (SeaweedFS) in one container: writes its configuration, runs the server, makes the bucket.

Only the S3 port listens beyond the container: the others know no passwords. This process stays the server's parent,
because the bucket can be made only once the server runs; it passes the signals on and ends with the server.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from evaluation import setting

LOOPBACK = "127.0.0.1"
VOLUME_MEGABYTES = 128  # files grow to this size each; small, so that a disk of a few GiB holds many
ACTIONS = ["Admin", "Read", "List", "Tagging", "Write"]
PAUSE_SECONDS = 0.5
ATTEMPT_SECONDS = 20


def main() -> None:
    """Runs the server until a signal ends it, and exits as it did."""
    os.umask(0o077)
    data, bucket = Path(setting("S3_DIR", "/var/lib/seaweedfs")), bucket_name()
    data.mkdir(parents=True, exist_ok=True)
    configuration = Path(os.environ.get("TMPDIR", "/tmp")) / "s3.json"  # noqa: S108
    configuration.write_text(json.dumps(identities()), encoding="utf-8")
    server = subprocess.Popen(command(data, configuration))

    def forward(number: int, frame: FrameType | None) -> None:
        server.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    while not ended(server) and not make_bucket(bucket):
        pass
    sys.exit(abs(server.wait()))


def bucket_name() -> str:
    """The bucket to make. Checked, because it becomes a line of the server's shell."""
    name = setting("S3_BUCKET", "omnialign")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name):
        raise SystemExit(f"S3_BUCKET must be 3 to 63 lower-case letters, digits, dots and hyphens, not {name!r}.")
    return name


def ended(server: "subprocess.Popen[bytes]") -> bool:
    """Whether the server has ended; waits a moment for it."""
    try:
        server.wait(PAUSE_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def make_bucket(name: str) -> bool:
    """Makes the bucket unless it is there. False as long as the server does not answer."""
    ports = internal_ports()
    servers = (f"-master={LOOPBACK}:{ports['master']}", f"-filer={LOOPBACK}:{ports['filer']}")
    lines = f"s3.bucket.create -name {name}\ns3.bucket.list\nexit\n"
    try:
        answer = subprocess.run(
            ["weed", "shell", *servers],
            input=lines,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=ATTEMPT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return re.search(rf"(?m)^\s*{re.escape(name)}\s", answer.stdout) is not None


def internal_ports() -> dict[str, str]:
    """The ports of the server's parts, all on loopback; each takes the one 10,000 above it too."""
    return {
        "master": setting("S3_MASTER_PORT", "9333"),
        "filer": setting("S3_FILER_PORT", "8888"),
        "volume": setting("S3_VOLUME_PORT", "8080"),
    }


def identities() -> dict[str, object]:
    """The one account there is, in SeaweedFS's words."""
    keys = {"accessKey": setting("AWS_ACCESS_KEY_ID"), "secretKey": setting("AWS_SECRET_ACCESS_KEY")}
    return {"identities": [{"name": "omnialign", "credentials": [keys], "actions": ACTIONS}]}


def command(data: Path, configuration: Path) -> list[str]:
    """The server's argument list."""
    options: dict[str, object] = {
        "dir": data,
        "ip": LOOPBACK,
        **{f"{name}.port": port for name, port in internal_ports().items()},
        "ip.bind": LOOPBACK,
        "s3": "true",
        "s3.ip.bind": "0.0.0.0",  # noqa: S104 - what the container is for
        "s3.port": setting("S3_PORT", "8333"),
        "s3.config": configuration,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "filer": "true",
        "master.volumeSizeLimitMB": VOLUME_MEGABYTES,
        "master.telemetry": "false",
        "volume.max": 0,
        "volume.preStopSeconds": 1,
    }
    if os.environ.get("S3_TLS_CERTIFICATE_FILE"):
        options |= {
            "s3.cert.file": os.environ["S3_TLS_CERTIFICATE_FILE"],
            "s3.key.file": setting_path("S3_TLS_KEY_FILE"),
        }
    return ["weed", "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]


def setting_path(name: str) -> str:
    """A required variable that is itself a path."""
    if not os.environ.get(name):
        raise SystemExit(f"{name} is required beside S3_TLS_CERTIFICATE_FILE.")
    return os.environ[name]


if __name__ == "__main__":
    main()
