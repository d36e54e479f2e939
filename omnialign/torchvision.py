"""Makes `torchvision` importable beside a PyTorch without CUDA.

The wheels on PyPI carry operators compiled for CUDA, which do not load beside a processor-only PyTorch; then the import
fails on two operators that nothing here uses, although resizing, normalising and the video processors of `transformers`
are plain Python. Declaring the two is enough. Where the real operators load, nothing is declared.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = ("nms", "qnms")

_library: object = None  # what it declares lasts only as long as the library object


def make_importable() -> None:
    """Declares the operators just before `torchvision` is first imported; costs nothing until then."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Declares the operators when `torchvision` is about to be imported, and leaves the import to the other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(fullname)
            if spec is not None and spec.origin is not None:
                _declare_missing(Path(spec.origin).parent)
        return None


def _declare_missing(package: Path) -> None:
    global _library
    import torch

    try:
        for compiled in package.glob("_C*.so"):
            torch.ops.load_library(str(compiled))  # type: ignore[no-untyped-call]
            return
    except OSError:
        pass
    _library = library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in OPERATORS:
        library.define(operator + SCHEMA)  # type: ignore[no-untyped-call]
