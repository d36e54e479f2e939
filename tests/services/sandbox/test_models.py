"""Model folders in the sandbox: a folder whose settings cost too much fails alone, and others load."""

import shutil
from pathlib import Path

import pytest

from examples.tinyworld import recipe
from omnialign.errors import InvalidArgument
from services.sandbox import models
from services.sandbox.limits import Limits
from services.sandbox.media import open_sandbox
from services.sandbox.models import first_look

MODEL = Path(recipe.__file__).parent / "model"


def test_a_good_folder_is_summarised() -> None:
    with open_sandbox():
        assert first_look(MODEL, name="base").parameter_count > 900_000


def test_a_folder_that_costs_too_much_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LIMITS", Limits(memory_bytes=0))
    with open_sandbox(), pytest.raises(InvalidArgument, match="base cannot be read safely") as refused:
        first_look(MODEL, name="base")
    assert refused.value.reason == "MODEL_TOO_COSTLY_TO_READ"


def test_whatever_a_library_raises_at_a_broken_folder_has_a_reason(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(MODEL, folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with open_sandbox(), pytest.raises(InvalidArgument):
        first_look(folder, name="broken")
