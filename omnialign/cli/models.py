"""`omnialign models`: list, show, register, download and delete models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnialign.cli import uploads
from omnialign.cli.session import Session, command
from omnialign.cli.uploads import Upload
from omnialign.wording import size_text

if TYPE_CHECKING:
    from omnialign.client import AsyncClient

REGISTER_TIMEOUT_SECONDS = 3600.0  # the server hashes or copies every file

app = typer.Typer(help="List, show, register, download and delete models.", no_args_is_help=True)


@app.command("list")
@command
async def list_(session: Session) -> None:
    """List model versions, newest first."""
    from omnialign import names

    rows = []
    async with session.client() as client:
        async for version in client.list_model_versions():
            session.out.record(version)
            created = version.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
            ids = names.parse(version.name, names.MODEL_VERSION)
            size = size_text(version.size_bytes)
            rows.append((f"{ids['model']}/{ids['version']}", f"{version.parameter_count:,}", size, created))
    session.out.table(("MODEL", "PARAMETERS", "WEIGHTS", "CREATED (UTC)"), rows, empty="No models yet.")


@app.command()
@command
async def show(
    session: Session,
    model: Annotated[str, typer.Argument(help="Model, such as `base`, or version, such as `base/2`.")],
) -> None:
    """Show a model version, by default the latest."""
    async with session.client() as client:
        version = await client.get_model_version(session.name("models", model))
    session.out.record(version)
    rows = [
        ("name", version.name),
        ("folder", version.uri),
        ("LoRA of", version.lora_base),
        ("kind", "reward model" if version.reward_model else ""),
        ("sha256", version.sha256),
        ("parameters", f"{version.parameter_count:,}"),
        ("weights", f"{version.size_bytes:,} bytes"),
        ("display name", version.display_name),
        ("used by", ", ".join(version.users)),
        *((f"label {key}", value) for key, value in sorted(version.labels.items())),
    ]
    session.out.table(("FIELD", "VALUE"), [row for row in rows if row[1]], empty="")


@app.command()
@command
async def register(
    session: Session,
    model: Annotated[str, typer.Argument(help="Id of the model; created if it does not exist.")],
    folder: Annotated[
        str, typer.Argument(help="Folder with config.json, safetensors and tokenizer, or a LoRA as saved by PEFT.")
    ],
    display_name: Annotated[str, typer.Option(help="Short description for people.")] = "",
    source: Annotated[
        list[str] | None, typer.Option(help="Full name of a resource that it was made from; repeatable.")
    ] = None,
    upload: Upload = None,
) -> None:
    """Register a model folder as the next version of a model."""
    async with session.client() as client:
        uri = await uploads.server_uri(client, folder, session=session, upload=upload)
        version = await client.register_model(
            model, uri, display_name=display_name, sources=source or (), deadline_seconds=REGISTER_TIMEOUT_SECONDS
        )
    session.out.record(version)
    session.out.say(f"{version.name}: {version.parameter_count:,} parameters, sha256 {version.sha256[:12]}")


@app.command()
@command
async def download(
    session: Session,
    model: Annotated[str, typer.Argument(help="Model, such as `base`, or version, such as `base/2`.")],
    folder: Annotated[Path, typer.Argument(help="Folder to create.")],
) -> None:
    """Download the files of a model version. Run it again to resume; the folder appears once it is complete."""
    async with session.client() as client:
        with uploads.show_transfer("downloading", out=session.out) as progress:
            version = await client.download_model(session.name("models", model), folder, progress=progress)
    session.out.record(version)
    session.out.say(f"{folder}: {version.name}, sha256 {version.sha256[:12]}")


@app.command()
@command
async def delete(
    session: Session,
    model: Annotated[str, typer.Argument(help="Version, such as `base/2`, or model, such as `base`: all of it.")],
    force: Annotated[bool, typer.Option("--force", help="Delete it even if something depends on it.")] = False,
) -> None:
    """Delete a model version, or all of a model. What depends on it is named, and then it takes --force.

    A folder that was registered in place is left alone. Numbers of deleted versions are not given again.
    """
    from omnialign.cli import dependents

    async with session.client() as client:
        versions = await _versions(client, session.name("models", model))
        if not force:
            found = await dependents.model_dependents(client, versions)
            dependents.refuse(versions[0], found, session=session)
        for version in versions:
            await client.delete_model_version(version, force=force)
            session.out.record({"deleted": version})
            session.out.say(f"Deleted {version}")


async def _versions(client: AsyncClient, name: str) -> list[str]:
    """The version of this name; all of the model, newest first, for version `-`. Raises NotFound."""
    from omnialign import names

    newest = await client.get_model_version(name)
    if names.id_of(name) != names.NEWEST:
        return [newest.name]
    model = names.unversioned(name)
    return [version.name async for version in client.list_model_versions() if names.unversioned(version.name) == model]
