"""`omnialign tokens`: create bearer tokens. Needs no server: the entry that it prints goes into the server's Secret."""

import datetime
import enum
import hashlib
import json
import secrets
from typing import Annotated

import typer

app = typer.Typer(help="Create bearer tokens.", no_args_is_help=True)

PREFIX = "oa_"
ALL_PROJECTS = "*"


class Role(enum.StrEnum):
    """What a token allows."""

    READER = "reader"
    ANNOTATOR = "annotator"
    SUBMITTER = "submitter"
    ADMIN = "admin"
    SERVICE = "service"


@app.callback()
def root() -> None:
    """Create bearer tokens."""


@app.command()
def new(
    name: Annotated[str, typer.Option(help="Whom the token is for; shown in the audit log.")],
    project: Annotated[str, typer.Option(help='Project in which the role applies; "*" for all projects.')],
    role: Annotated[Role, typer.Option(help="What the token allows; `service` is for omnialign's own services.")],
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires. Default: it never does.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Create a token and print it once, with the entry for the server's token file."""
    from omnialign import names

    if project != ALL_PROJECTS and not names.matches(f"projects/{project}", names.PROJECT):
        raise typer.BadParameter(f"'{project}' is not a project id")
    if role is Role.SERVICE and project != ALL_PROJECTS:
        raise typer.BadParameter('the role "service" applies to all projects: use --project "*"')
    token = PREFIX + secrets.token_urlsafe(32)
    entry: dict[str, object] = {
        "name": name,
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "roles": {project: role.value},
    }
    if days is not None:
        moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        entry["expires"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    if as_json:
        typer.echo(json.dumps({"token": token, "entry": entry}, ensure_ascii=False))
        return
    typer.echo("# The token. It is shown only now; its owner sets OMNIALIGN_TOKEN to it.")
    typer.echo(token)
    typer.echo("\n# The entry for the list `tokens` in the server's token file. It does not reveal the token.")
    typer.echo("\n".join(_yaml(entry)))


def _yaml(entry: dict[str, object]) -> list[str]:
    """The entry as an item of a YAML list; JSON strings and mappings are valid YAML."""
    lines = []
    for key, value in entry.items():
        plain = key == "expires"  # YAML reads a time only without quotes
        lines.append(f"{key}: {value if plain else json.dumps(value, ensure_ascii=False)}")
    return [f"{'  - ' if index == 0 else '    '}{line}" for index, line in enumerate(lines)]
