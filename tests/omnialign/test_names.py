"""Resource names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign import names
from omnialign.errors import InvalidArgument

ids = st.from_regex(r"[a-z][a-z0-9-]{0,61}[a-z0-9]", fullmatch=True)


@given(project=ids, dataset=ids, version=ids)
def test_parse_is_the_inverse_of_format(project, dataset, version):
    parts = {"project": project, "dataset": dataset, "version": version}
    name = names.format_name(names.DATASET_VERSION, **parts)
    assert names.parse(name, names.DATASET_VERSION) == parts
    assert names.parent_of(name) == names.format_name(names.DATASET, project=project, dataset=dataset)


@given(st.text())
def test_any_text_parses_or_is_refused_with_the_field(name):
    try:
        parts = names.parse(name, names.DATASET, field="source")
    except InvalidArgument as error:
        assert error.reason == "RESOURCE_NAME_INVALID"
        assert error.violations[0][0] == "source"
    else:
        assert names.format_name(names.DATASET, **parts) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "projects/p/datasets/",
        "projects/p/datasets/..",
        "projects/p/datasets/a/versions/1",
        "projects/p/datasets/a\n",
        "projects/p/datasets/a b",
        "xprojects/p/datasets/a",
    ],
)
def test_a_name_of_another_shape_does_not_match(name):
    assert not names.matches(name, names.DATASET)


def test_a_record_id_may_contain_slashes():
    assert names.parse("projects/p/datasets/d/records/a/b", names.RECORD)["record"] == "a/b"


def test_a_dataset_pattern_does_not_match_a_version():
    assert names.matches("projects/p/datasets/d/versions/3", names.DATASET_VERSION)
    assert not names.matches("projects/p/datasets/d/versions/3", names.DATASET)


def test_parent_of_a_project_is_empty():
    assert names.parent_of("projects/p") == ""


@pytest.mark.parametrize("name", ["", "projects", "projects/p/datasets", "a//b/c"])
def test_parent_of_half_a_name_is_refused(name):
    with pytest.raises(InvalidArgument):
        names.parent_of(name)
