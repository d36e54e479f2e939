"""What it means when two ends do not agree on how to connect: one sentence for each case that gRPC's words betray.

gRPC reports all of these as UNAVAILABLE, with the words of the TLS library. The sentences have a place for the address.
"""

_FAILED = (
    (
        "Hostname Verification Check failed",
        "CERTIFICATE_OF_ANOTHER_HOST",
        "The certificate of the server at {} is for another name; use the name that is in it.",
    ),
    (
        "certificate has expired",
        "CERTIFICATE_EXPIRED",
        "The certificate of the server at {} has expired; it must be renewed.",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "CERTIFICATE_NOT_TRUSTED",
        "The certificate of the server at {} is not trusted; give the certificate it is signed with as the CA file.",
    ),
    (
        "certificate signature failure",
        "CERTIFICATE_NOT_TRUSTED",
        "The certificate of the server at {} was signed with another key than the CA file has; get the current one.",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "TLS_NOT_SPOKEN",
        "The server at {} does not speak TLS; leave TLS out to talk to it.",
    ),
)
_CLOSED = "Socket closed", "CONNECTION_CLOSED"
_CLOSED_SECURE = "The server at {} ended the connection at once; it may want a client certificate, or another one."
_CLOSED_PLAIN = "The server at {} ended the connection at once; it may speak TLS only (grpcs://...)."


def tls_problem(details: str, *, is_secure: bool) -> tuple[str, str] | None:
    """(reason, sentence) of a connection that could not be made; None when its words are about something else."""
    if "last error" not in details:  # of the attempts to connect: a call never reached the server
        return None
    closed = (*_CLOSED, _CLOSED_SECURE if is_secure else _CLOSED_PLAIN)
    return next(((reason, sentence) for words, reason, sentence in (*_FAILED, closed) if words in details), None)
