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


VERSION = "projects/demo/models/base/versions/1"


@pytest.mark.parametrize(
    ("name", "project", "last", "dataset_or_model", "short"),
    [
        (VERSION, "demo", "1", "projects/demo/models/base", "base/1"),
        ("projects/demo/datasets/d", "demo", "d", "projects/demo/datasets/d", "d"),
        ("projects/demo/datasets/d/records/a/b", "demo", "b", "projects/demo/datasets/d/records/a/b", "d/a/b"),
        ("projects/demo", "demo", "demo", "projects/demo", "projects/demo"),
        ("file:///models/base", "", "base", "file:///models/base", "file:///models/base"),
        ("", "", "", "", ""),
    ],
)
def test_the_parts_of_any_text_can_be_asked_for(name, project, last, dataset_or_model, short):
    assert names.project_of(name) == project
    assert names.project_name_of(name) == (f"projects/{project}" if project else "")
    assert names.id_of(name) == last
    assert names.unversioned(name) == dataset_or_model
    assert names.short_name(name) == short


def test_a_resource_is_under_a_project_and_has_no_empty_parts():
    assert names.is_resource(VERSION)
    for text in (
        "",
        "models/base",
        "projects",
        "projects/Demo/models/m",
        "projects/demo//m",
        "projects/demo/models/..",
    ):
        assert not names.is_resource(text)


@given(st.text())
def test_no_text_makes_the_lenient_functions_raise(text):
    for function in (names.project_of, names.project_name_of, names.id_of, names.unversioned, names.short_name):
        assert isinstance(function(text), str)
    assert names.is_resource(text) in (True, False)
