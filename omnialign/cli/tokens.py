"""`omnialign tokens`: make bearer tokens. Works without a server: what a server keeps is an entry of its Secret."""

import datetime
import enum
import hashlib
import json
import secrets
from typing import Annotated

import typer

app = typer.Typer(help="Bearer tokens.", no_args_is_help=True)

PREFIX = "oa_"
ALL_PROJECTS = "*"


class Role(enum.StrEnum):
    """What the bearer may do."""

    READER = "reader"
    SUBMITTER = "submitter"
    ADMIN = "admin"
    SERVICE = "service"


@app.callback()
def root() -> None:
    """Bearer tokens."""


@app.command()
def new(
    name: Annotated[str, typer.Option(help="Who will have it; the audit log shows this name.")],
    project: Annotated[str, typer.Option(help='Project that the role is for; "*" means every project.')],
    role: Annotated[Role, typer.Option(help="What its bearer may do. `service` is for omnialign's own services.")],
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; default: never.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Makes a token and prints it once, with the entry for the server's file of tokens."""
    from omnialign import names

    if project != ALL_PROJECTS and not names.matches(f"projects/{project}", names.PROJECT):
        raise typer.BadParameter(f"'{project}' is not the id of a project")
    if role is Role.SERVICE and project != ALL_PROJECTS:
        raise typer.BadParameter('the role service is for all projects: --project "*"')
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
    typer.echo("# The token. It is shown this once; give it to its bearer, who sets OMNIALIGN_TOKEN to it.")
    typer.echo(token)
    typer.echo("\n# The entry for the list `tokens` in the server's file of tokens. It does not tell the token.")
    typer.echo("\n".join(_yaml(entry)))


def _yaml(entry: dict[str, object]) -> list[str]:
    """The entry as an item of a YAML list; JSON's strings and mappings are YAML's too."""
    lines = []
    for key, value in entry.items():
        plain = key == "expires"  # a time to YAML only without quotes
        lines.append(f"{key}: {value if plain else json.dumps(value, ensure_ascii=False)}")
    return [f"{'  - ' if index == 0 else '    '}{line}" for index, line in enumerate(lines)]
