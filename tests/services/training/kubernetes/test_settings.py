"""The operator's file: read strictly, all problems at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from services.training.kubernetes.settings import KubernetesSettings, parse_settings, read_settings

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
keys = st.sampled_from(["image", "gpus", "resources", "tolerations", "workspace", "tls", "env", "labels", "queue"])


def problems_of(document: object) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        parse_settings(document)
    assert caught.value.reason == "KUBERNETES_FILE_INVALID"
    return dict(caught.value.violations)


def test_an_image_is_all_that_is_needed():
    assert parse_settings({"image": "i"}) == KubernetesSettings(image="i")


def test_every_problem_is_told_at_once_with_the_nearest_key():
    found = problems_of({"imag": "x", "gpus": -1, "resources": {"limit": {}}, "tolerations": {}})
    assert set(found) == {"imag", "image", "gpus", "resources.limit", "tolerations"}
    assert "`image`" in found["imag"] and "`limits`" in found["resources.limit"]


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({"runAsUser": 0}, "runAsUser"),
        ({"scratchSize": "much"}, "scratchSize"),
        ({"resources": {"requests": {"memory": "4 GB"}}}, "resources.requests.memory"),
        ({"resources": {"limits": {"nvidia.com/gpu": 1}}}, "resources.limits.nvidia.com/gpu"),
        ({"env": {"OMNIALIGN_POD_SCRATCH": "/"}}, "env.OMNIALIGN_POD_SCRATCH"),
        ({"workspace": {"claim": "No_Name"}}, "workspace.claim"),
        ({"imagePullPolicy": "Sometimes"}, "imagePullPolicy"),
        ({"deadlines": {"runSeconds": 0}}, "deadlines.runSeconds"),
        ({"gpus": True}, "gpus"),
    ],
)
def test_a_value_that_cannot_be_is_named(document, key):
    assert key in problems_of({"image": "i", **document})


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "file").write_text("image: [")
    with pytest.raises(InvalidArgument):
        read_settings(tmp_path / "file")


@given(st.dictionaries(keys, json_values) | json_values)
def test_no_document_is_worse_than_refused(document):
    try:
        assert isinstance(parse_settings(document), KubernetesSettings)
    except InvalidArgument as error:
        assert error.violations


def test_a_large_number_may_come_as_templates_write_it():
    assert parse_settings({"image": "i", "shmBytes": 1.073741824e9}).shm_bytes == 1024**3
