"""Servers for trying the system out when you have none of your own: `evaluation.postgres` and `evaluation.s3`."""
