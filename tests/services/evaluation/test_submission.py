"""What is refused before an evaluation begins."""

from typing import Any

import pytest

from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.evaluation_stack import EvaluationStack, Spec


def changed(spec: Spec, **fields: Any) -> Spec:
    """The spec with other fields of its benchmark."""
    for name, value in fields.items():
        field = getattr(spec.benchmarks[0], name)
        if isinstance(value, list):
            del field[:]
            field.extend(value)
        else:
            setattr(spec.benchmarks[0], name, value)
    return spec


REFUSED = [
    ({"checkers": []}, "BENCHMARK_FIELD_MISSING"),
    ({"checkers": ["nobody"]}, "CHECKER_UNKNOWN"),
    ({"baseline": "projects/default/models/base/versions/1"}, "BENCHMARK_FIELD_UNUSED"),
    ({"subtasks": ["t2v"]}, "SUBTASK_UNKNOWN"),
    ({"dataset": "projects/other/datasets/tiny"}, "PROJECT_MISMATCH"),
]


async def test_a_spec_that_cannot_work_is_refused_with_its_reason(stack: EvaluationStack) -> None:
    spec = await stack.checkers_spec()
    for fields, reason in REFUSED:
        wrong = Spec()
        wrong.CopyFrom(spec)
        with pytest.raises(InvalidArgument) as caught:
            await stack.evaluation.create_evaluation("first", changed(wrong, **fields))
        assert caught.value.reason == reason
        assert caught.value.violations
    for models, reason in (([], "MODELS_MISSING"), ([spec.models[0], "projects/default/models/base"], "MODEL_TWICE")):
        wrong = Spec()
        wrong.CopyFrom(spec)
        del wrong.models[:]
        wrong.models.extend(models)
        with pytest.raises(InvalidArgument) as caught:
            await stack.evaluation.create_evaluation("first", wrong)
        assert caught.value.reason == reason


async def test_datasets_and_models_that_are_not_there_are_named(stack: EvaluationStack) -> None:
    with pytest.raises(NotFound, match="gone"):
        await stack.evaluation.create_evaluation("first", await stack.checkers_spec("projects/default/models/gone"))


async def test_a_split_without_items_is_refused_by_the_check(stack: EvaluationStack) -> None:
    spec = changed(await stack.checkers_spec(), split="other")
    with pytest.raises(FailedPrecondition) as caught:
        await stack.evaluation.create_evaluation("first", spec, validate_only=True)
    assert caught.value.reason == "NO_ITEMS"


async def test_the_same_request_id_gives_the_same_evaluation(stack: EvaluationStack) -> None:
    spec, request_id = await stack.checkers_spec(), "8f1c7a52-62a5-4d6b-9a5c-0d9f6a0f6c11"
    first = await stack.evaluation.create_evaluation("", spec, request_id=request_id)
    assert (await stack.evaluation.create_evaluation("", spec, request_id=request_id)).uid == first.uid
