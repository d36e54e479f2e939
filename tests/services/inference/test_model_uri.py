"""URIs of models behind endpoints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from services.inference.model_uri import base_url_of, is_endpoint_model, parse_endpoint_model

REGISTERED = "projects/p/models/q/versions/1"


@pytest.mark.parametrize(
    ("name", "base_url", "model", "adapter"),
    [
        ("openai+http://host/v1#m", "http://host/v1", "m", ""),
        ("openai+http://HOST:80/v1/#org/m", "http://host/v1", "org/m", ""),
        ("openai+https://h:8443/v1#m", "https://h:8443/v1", "m", ""),
        ("openai+http://[::1]:8000/v1#m", "http://[::1]:8000/v1", "m", ""),
        ("openai+http://h/v1#m?adapter=file:///a%20b", "http://h/v1", "m", "file:///a b"),
        ("openai+http://h/v1#m?adapter=projects/p/models/q/versions/1", "http://h/v1", "m", REGISTERED),
    ],
)
def test_a_name_has_an_address_a_model_and_perhaps_an_adapter(name, base_url, model, adapter):
    found = parse_endpoint_model(name)
    assert (found.base_url, found.name, found.adapter) == (base_url, model, adapter)


@pytest.mark.parametrize(
    "name",
    [
        "openai+http://h/v1",
        "openai+http://h/v1#",
        "openai+http://#m",
        "openai+ftp://h/v1#m",
        "openai+http://user:secret@h/v1#m",
        "openai+http://h/v1?key=1#m",
        "openai+http://h:x/v1#m",
        "openai+http://h:99999/v1#m",
        "openai+http://[::1/v1#m",
        "openai+http://h/v1#m?adapter",
        "openai+http://h/v1#m?other=1",
        "openai+http://h/v1#m?adapter=a&adapter=b",
        "openai+http://h /v1#m",
        "file:///models/m",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(InvalidArgument) as caught:
        parse_endpoint_model(name)
    assert caught.value.reason == "MODEL_NAME_INVALID"


@given(st.text())
def test_no_text_breaks_the_parser_of_names(text):
    for name in (text, f"openai+http://{text}", f"openai+https://h/v1#{text}"):
        try:
            found = parse_endpoint_model(name)
        except InvalidArgument:
            continue
        assert is_endpoint_model(name)
        assert base_url_of(found.base_url, model="") == found.base_url
