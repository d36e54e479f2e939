"""Checkpoints that are complete or do not exist.

All ranks write into a staging folder; rank 0 then commits it:

1. every byte of the staged parts is made durable;
2. `manifest.json`, with the digest of every part, is written last;
3. the folder is renamed to `step-NNNNNNNN`;
4. older checkpoints are removed.

A crash before 3 leaves a staging folder, which nobody restores from and the next commit removes. A crash between 3 and
4 leaves a checkpoint too many, which the next commit removes as well. A checkpoint whose manifest is missing or does
not match its files, because a disk lost some of them, is passed over for the one before it: that is why two are kept.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnialign.errors import FailedPrecondition
from training.files import replace_folder, sync_tree, walk, write_atomically

MANIFEST = "manifest.json"
KEEP = 2

log = logging.getLogger(__name__)


def staging_dir(root: Path, *, step: int) -> Path:
    """Where the ranks write the parts of a step's checkpoint; the same path on every rank."""
    return root / f".staging-{step:08d}"


def commit(staged: Path, root: Path, *, step: int, shape: Mapping[str, int | float | str]) -> Path:
    """Turns a staging folder into the checkpoint of `step`, and removes all but the newest `KEEP`.

    `shape` is what a run must share with the checkpoint to restore it, such as the number of processes and the
    learning rate.
    """
    sync_tree(staged)  # before the manifest: what it names must be on disk when it is
    manifest = {"step": step, "shape": dict(shape), "files": _digests(staged)}
    write_atomically(staged / MANIFEST, json.dumps(manifest, indent=1).encode())
    final = root / f"step-{step:08d}"
    replace_folder(staged, final)
    prune(root)
    return final


def newest(root: Path, *, shape: Mapping[str, int | float | str]) -> Path | None:
    """The newest complete checkpoint, or None. Incomplete ones are passed over, with a warning.

    Raises `FailedPrecondition` (CHECKPOINT_INCOMPATIBLE) if it was written by a run of another shape.
    """
    folders = sorted(root.glob("step-*"), reverse=True)
    for folder in folders:
        manifest = _manifest(folder)
        if manifest is None:
            log.warning("checkpoint %s is damaged or incomplete, and is passed over", folder)
            continue
        _require_shape(folder, manifest["shape"], shape)
        return folder
    if folders:
        log.warning("none of the %d checkpoints in %s can be read: the run begins again", len(folders), root)
    return None


def _require_shape(folder: Path, wrote: Mapping[str, object], reads: Mapping[str, object]) -> None:
    # What a checkpoint of an earlier version does not say cannot be compared.
    differing = [name for name in reads if name in wrote and wrote[name] != reads[name]]
    if differing:
        said = ", ".join(f"{name} was {wrote[name]} and is {reads[name]}" for name in differing)
        raise FailedPrecondition(
            f"checkpoint {folder.name} was written by a run with other settings ({said}): restore them, or train into "
            "an empty folder",
            reason="CHECKPOINT_INCOMPATIBLE",
            metadata={"checkpoint": folder.name, "differing": said},
        )


def prune(root: Path) -> None:
    """Removes staging folders, checkpoints without a manifest, and all but the newest `KEEP` of the others."""
    clear_staging(root)
    kept = 0
    for folder in sorted(root.glob("step-*"), reverse=True):
        kept += (folder / MANIFEST).is_file()
        if not (folder / MANIFEST).is_file() or kept > KEEP:
            shutil.rmtree(folder, ignore_errors=True)


def clear_staging(root: Path) -> None:
    """Removes what was written of checkpoints that were never committed."""
    for staged in root.glob(".staging-*"):
        shutil.rmtree(staged, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): _digest(p) for p in walk(folder) if p.name != MANIFEST}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete checkpoint, or None."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        complete = manifest["files"] == _digests(folder) and isinstance(manifest["shape"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if complete else None
