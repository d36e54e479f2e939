"""The examples that `omnialign demo` runs: each is data, a base model, and the job that aligns it."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnialign.errors import InvalidArgument

if TYPE_CHECKING:
    from omnialign.client import AsyncClient

TINYWORLD, INSTRUCTIONS = "tinyworld", "instructions"
NAMES = (TINYWORLD, INSTRUCTIONS)


@dataclass(frozen=True, kw_only=True)
class Example:
    """What one demo runs, under the ids that its resources get."""

    model_id: str
    dataset_id: str
    job_id: str
    model_title: str
    methods: Iterable[str]
    write: Callable[[Path, int, bool], None]
    """Writes the dataset into a folder: told its seed, and whether a small one will do."""
    base_model: Callable[[Path], Path]
    """The folder of the base model; told where one may be kept that must be made first."""
    spec: Callable[..., dict[str, Any]]
    """The job as proto JSON: told the seed, and by name `dataset`, `base_model`, `method` and `small`."""
    append: "Callable[[AsyncClient, str, int, bool], Awaitable[None]] | None" = None
    """Adds to the imported dataset, a resource name, what files of these columns have no room for."""
    has_small_form: bool = True
    """Whether there is a smoke test of few steps; without one, `small` must be false."""

    def check(self, *, method: str, small: bool) -> None:
        """Raises InvalidArgument: METHOD_UNKNOWN, NO_SMALL_FORM for what the example has no settings for."""
        if method not in self.methods:
            listed = ", ".join(self.methods)
            raise InvalidArgument(
                f"The demo has no method '{method}'; use one of {listed}.",
                reason="METHOD_UNKNOWN",
                metadata={"method": method, "known": listed},
            )
        if small and not self.has_small_form:
            raise InvalidArgument(
                "This example has no small form, as its judge needs all its steps; leave out --small.",
                reason="NO_SMALL_FORM",
            )


def load(name: str) -> Example:
    """The example of a name. Raises InvalidArgument EXAMPLE_UNKNOWN."""
    known = {TINYWORLD: _tinyworld, INSTRUCTIONS: _instructions}
    if name not in known:
        raise InvalidArgument(
            f"There is no example '{name}'; use one of {', '.join(NAMES)}.",
            reason="EXAMPLE_UNKNOWN",
            metadata={"example": name, "known": ", ".join(NAMES)},
        )
    return known[name]()


def _tinyworld() -> Example:
    from examples.tinyworld import annotations, dataset, recipe

    def sizes(small: bool) -> dataset.Sizes:
        return recipe.SMALL if small else dataset.Sizes()

    return Example(
        model_id=recipe.MODEL_ID,
        dataset_id=recipe.DATASET_ID,
        job_id=recipe.JOB_ID,
        model_title="tiny world, before alignment",
        methods=recipe.OPTIMIZATION,
        write=lambda folder, seed, small: dataset.write(folder, seed=seed, sizes=sizes(small)),
        append=lambda client, name, seed, small: annotations.append(
            client, name, annotations.scene_records(seed, sizes(small))
        ),
        base_model=lambda _: Path(recipe.__file__).parent / "model",
        spec=recipe.spec,
    )


def _instructions() -> Example:
    from examples.instructions import base_model, dataset, recipe

    return Example(
        model_id=recipe.MODEL_ID,
        dataset_id=recipe.DATASET_ID,
        job_id=recipe.JOB_ID,
        model_title="SmolLM2-135M-Instruct",
        methods=recipe.OPTIMIZATION,
        write=lambda folder, seed, _: dataset.write(folder, seed=seed),
        base_model=lambda folder: base_model.ensure(folder / recipe.MODEL_ID),
        spec=lambda seed, *, small, **given: recipe.spec(seed, **given),
        has_small_form=False,
    )
