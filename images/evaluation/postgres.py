"""PostgreSQL in one container: makes the cluster of databases once, sets user and password, becomes the server.

The password and the database are brought in line with the environment at every start, so a changed Secret takes effect
with a restart. The server answers nobody while that happens: it is done by a single-user server on the same files.
SIGINT, the image's stop signal, ends the server at once and cleanly; SIGTERM would wait for its clients.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from evaluation import setting

RULES = """\
# Written at every start by evaluation.postgres.
local all all trust
host  all all all scram-sha-256
"""
OPTIONS = {
    "listen_addresses": "*",
    "unix_socket_directories": "/tmp",  # noqa: S108 - the only writable folder beside the data
    "password_encryption": "scram-sha-256",
    "shared_buffers": "64MB",
    "max_connections": "200",  # replicas of four services with a pool each
    "log_checkpoints": "off",
}


def main() -> None:
    """Prepares the data folder and replaces this process by the server."""
    os.umask(0o077)
    data = Path(setting("PGDATA", "/var/lib/postgresql/data"))
    user, database = name_of("POSTGRES_USER"), name_of("POSTGRES_DB")
    password, port = setting("POSTGRES_PASSWORD"), setting("POSTGRES_PORT", "5432")
    make_cluster(data, user=user)
    (data / "pg_hba.conf").write_text(RULES, encoding="utf-8")
    administer(data, f"ALTER ROLE {user} PASSWORD {quoted(password)};\n", database="postgres")
    if database not in listed(data):
        administer(data, f"CREATE DATABASE {database};\n", database="postgres")
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    sys.stdout.flush()
    os.execvp("postgres", ["postgres", "-D", str(data), "-p", port, *options])  # noqa: S606 - no shell


def name_of(variable: str) -> str:
    """A variable that names something in SQL: lower-case letters, digits and underscores, which need no quotes."""
    name = setting(variable, "omnialign")
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
        raise SystemExit(f"{variable} must be lower-case letters, digits and underscores, not {name!r}.")
    return name


def make_cluster(data: Path, *, user: str) -> None:
    """Makes the data folder once: under another name, an interrupted attempt must not pass for one."""
    if not (data / "PG_VERSION").exists():
        partial = data.with_name(f"{data.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        settings = ("--encoding=UTF8", "--no-locale", "--auth-local=trust", "--auth-host=scram-sha-256")
        # Nobody ever learns this password: the role gets the real one before the server listens.
        command = ["initdb", "-D", str(partial), f"--username={user}", "--pwfile=/dev/stdin", *settings]
        subprocess.run(command, input=os.urandom(16).hex(), text=True, check=True)
        partial.rename(data)
    # A volume's group (fsGroup) makes the folder writable for a group, which the server refuses.
    data.chmod(0o700)


def administer(data: Path, statement: str, *, database: str) -> str:
    """Runs one statement on the files while no server runs, and returns what it printed."""
    command = ["postgres", "--single", "-j", "-D", str(data), database]
    return subprocess.run(command, input=f"{statement}\n", text=True, check=True, stdout=subprocess.PIPE).stdout


def listed(data: Path) -> set[str]:
    """The names of the databases there are."""
    printed = administer(data, "SELECT datname FROM pg_database;\n", database="postgres")
    return set(re.findall(r'datname = "([^"]*)"', printed))


def quoted(text: str) -> str:
    """A string literal."""
    if "\n" in text or "\0" in text:
        raise SystemExit("POSTGRES_PASSWORD must be one line.")
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    main()
