"""Servers to try the system with, without any of one's own: `evaluation.postgres` and `evaluation.s3`."""
