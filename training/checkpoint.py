"""Checkpoints that are complete or do not exist.

A checkpoint is written into a staging folder by all ranks; rank 0 then makes every byte durable, writes
`manifest.json` last, and renames the folder. A folder whose manifest is missing, or whose files differ from it, is
never restored from.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from omnialign.errors import FailedPrecondition
from training.files import sync_folder, sync_tree, walk, write_atomically

MANIFEST = "manifest.json"
KEEP = 2


def staging_dir(root: Path, *, step: int) -> Path:
    """Where the ranks write the checkpoint of a step before it exists; the same path on every rank."""
    return root / f".staging-{step:08d}"


def commit(staged: Path, root: Path, *, step: int, shape: Mapping[str, int | str]) -> Path:
    """Turns a staging folder into the checkpoint of `step` and removes all but the newest `KEEP`.

    `shape` is what a run must share with the checkpoint to restore it, such as the number of processes.
    """
    sync_tree(staged)
    manifest = {"step": step, "shape": dict(shape), "files": _digests(staged)}
    write_atomically(staged / MANIFEST, json.dumps(manifest, indent=1).encode())
    final = root / f"step-{step:08d}"
    shutil.rmtree(final, ignore_errors=True)
    staged.replace(final)
    sync_folder(root)
    prune(root)
    return final


def newest(root: Path, *, shape: Mapping[str, int | str]) -> Path | None:
    """The newest complete checkpoint, or None. Torn ones are passed over.

    Raises `FailedPrecondition` (CHECKPOINT_INCOMPATIBLE) when it was written by a run of another shape.
    """
    for folder in sorted(root.glob("step-*"), reverse=True):
        manifest = _manifest(folder)
        if manifest is None:
            continue
        if manifest["shape"] != dict(shape):
            raise FailedPrecondition(
                f"checkpoint {folder.name} was written by a run of another shape: {manifest['shape']}, not {shape}",
                reason="CHECKPOINT_INCOMPATIBLE",
                metadata={"checkpoint": folder.name, "wrote": str(manifest["shape"]), "reads": str(dict(shape))},
            )
        return folder
    return None


def prune(root: Path) -> None:
    """Removes staging folders, torn checkpoints, and all complete ones but the newest `KEEP`."""
    for staged in root.glob(".staging-*"):
        shutil.rmtree(staged, ignore_errors=True)
    kept = 0
    for folder in sorted(root.glob("step-*"), reverse=True):
        kept += (folder / MANIFEST).is_file()
        if not (folder / MANIFEST).is_file() or kept > KEEP:
            shutil.rmtree(folder, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): _digest(p) for p in walk(folder) if p.name != MANIFEST}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> dict[str, object] | None:
    """The manifest of a complete checkpoint, or None."""
    try:
        manifest: dict[str, object] = json.loads((folder / MANIFEST).read_bytes())
        complete = manifest["files"] == _digests(folder) and isinstance(manifest["shape"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if complete else None
