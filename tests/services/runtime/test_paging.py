"""Page tokens and sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from services.runtime.paging import decode_token, encode_token, page_size


@given(values=st.lists(st.text()), selection=st.text())
def test_a_token_gives_back_its_values(values, selection):
    assert decode_token(encode_token(values, filter=selection), filter=selection) == values


@given(values=st.lists(st.text()), first=st.text(), second=st.text())
def test_a_token_is_refused_for_another_filter(values, first, second):
    if first == second:
        return
    with pytest.raises(InvalidArgument) as caught:
        decode_token(encode_token(values, filter=first), filter=second)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


@given(token=st.text(min_size=1))
def test_a_strange_token_is_refused(token):
    with pytest.raises(InvalidArgument) as caught:
        decode_token(token, filter="f")
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_an_empty_token_is_the_first_page():
    assert decode_token("", filter="f") == []


@pytest.mark.parametrize(("requested", "given_size"), [(0, 50), (1, 1), (1000, 1000), (5000, 1000)])
def test_page_size_has_a_default_and_a_maximum(requested, given_size):
    assert page_size(requested) == given_size


def test_negative_page_size_is_refused():
    with pytest.raises(InvalidArgument):
        page_size(-1)
