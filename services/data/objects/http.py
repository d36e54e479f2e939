"""The HTTP client under the S3 SDK: time limits, certificates, and retries that share a budget."""

import os
import ssl
from pathlib import Path
from typing import Any

import certifi
import urllib3
from urllib3.util import Retry, Timeout

from omnialign.client.retry import RetryBudget

CONNECT_SECONDS, READ_SECONDS = 5.0, 120.0
ATTEMPTS = 4
CONNECTIONS = 16
PASSING = (500, 502, 503, 504)


class BudgetedRetry(Retry):
    """Retries with growing waits; when most requests fail they stop, since a server that is down is not helped."""

    budget: RetryBudget

    def new(self, **changes: Any) -> "BudgetedRetry":
        """A changed copy, on the same budget."""
        copy = super().new(**changes)
        copy.budget = self.budget
        return copy

    def increment(self, *args: Any, **kwargs: Any) -> "BudgetedRetry":
        """Counts a failure; raises MaxRetryError when there is no try left or no budget."""
        if not self.budget.failed():
            spent = self.new(total=0, connect=0, read=0, status=0, other=0)
            Retry.increment(spent, *args, **kwargs)  # raises
        return super().increment(*args, **kwargs)


def open_http(ca_file: Path | None, *, budget: RetryBudget) -> urllib3.PoolManager:
    """A pool of connections that trusts the machine's certificates, and those in `ca_file`."""
    trust = ssl.create_default_context()
    if ca_file is not None:
        trust.load_verify_locations(cafile=str(ca_file))
    retries = BudgetedRetry(
        total=ATTEMPTS - 1,
        backoff_factor=0.2,
        backoff_max=2.0,
        backoff_jitter=0.1,
        status_forcelist=PASSING,
        allowed_methods=None,  # every request of ours may run twice: bodies are bytes, keys decide
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    retries.budget = budget
    return urllib3.PoolManager(
        maxsize=CONNECTIONS,
        block=False,
        ssl_context=trust,
        timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        retries=retries,
    )


def trust_in_tables(ca_file: Path, *, bundle: Path) -> None:
    """Makes Lance trust `ca_file` too: it reads one file, named by SSL_CERT_FILE, when its first connection is made.

    The file written at `bundle` holds the machine's own certificates as well, since others in the process read it.
    """
    candidates = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, certifi.where())
    known = next(Path(file) for file in candidates if file and Path(file).is_file())
    if known != bundle:
        bundle.parent.mkdir(parents=True, exist_ok=True)
        bundle.write_bytes(known.read_bytes() + b"\n" + ca_file.read_bytes())
        os.environ["SSL_CERT_FILE"] = str(bundle)
