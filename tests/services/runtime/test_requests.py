"""What all requests have in common: page tokens and sizes, and digests of request bodies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from omnialign.v1 import data_service_pb2 as pb
from omnialign.v1 import dataset_pb2
from services.runtime.requests import (
    Validator,
    body_digest,
    check_same_body,
    decode_token,
    encode_token,
    page_size,
)

NAMES = st.text(st.characters(categories=("L", "N", "P", "S")))


@given(values=st.lists(NAMES), number=st.integers(0, 2**63 - 1), selection=st.text())
def test_a_token_gives_back_its_values(values, number, selection):
    key = [*values, str(number)]
    kinds = [*(str for _ in values), int]
    assert decode_token(encode_token(key, filter=selection), filter=selection, kinds=kinds) == key


@pytest.mark.parametrize("key", [[], ["1"], ["1", "a", "b"], ["a", "b"], ["-1", "b"], ["\u0663", "b"], ["9" * 19, "b"],
                                 ["1", "a\0"], ["1", "\ud800"]])  # fmt: skip
def test_a_token_whose_key_no_list_gave_out_is_refused(key):
    with pytest.raises(InvalidArgument) as caught:
        decode_token(encode_token(key, filter="f"), filter="f", kinds=(int, str))
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("value", ["", "0", "zz", "ff", "c3"])
def test_bytes_in_a_token_are_hexadecimal_utf8(value):
    token = encode_token(["שלום\n".encode().hex()], filter="f")
    (found,) = decode_token(token, filter="f", kinds=(bytes,))
    assert bytes.fromhex(found).decode() == "שלום\n"
    with pytest.raises(InvalidArgument):
        decode_token(encode_token([value], filter="f"), filter="f", kinds=(bytes,))


@given(values=st.lists(st.text()), first=st.text(), second=st.text())
def test_a_token_is_refused_for_another_filter(values, first, second):
    if first == second:
        return
    with pytest.raises(InvalidArgument) as caught:
        decode_token(encode_token(values, filter=first), filter=second, kinds=[str for _ in values])
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


@given(token=st.text(min_size=1))
def test_a_strange_token_is_refused(token):
    with pytest.raises(InvalidArgument) as caught:
        decode_token(token, filter="f", kinds=(int, str))
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_an_empty_token_is_the_first_page():
    assert decode_token("", filter="f", kinds=(int, str)) == []


@pytest.mark.parametrize(("requested", "given_size"), [(0, 50), (1, 1), (1000, 1000), (5000, 1000)])
def test_page_size_has_a_default_and_a_maximum(requested, given_size):
    assert page_size(requested) == given_size


def test_negative_page_size_is_refused():
    with pytest.raises(InvalidArgument):
        page_size(-1)


def request(request_id: str, **labels: str) -> pb.CreateDatasetRequest:
    return pb.CreateDatasetRequest(
        parent="projects/p", dataset_id="d", dataset=dataset_pb2.Dataset(labels=labels), request_id=request_id
    )


def test_request_id_and_order_of_labels_do_not_count():
    assert body_digest(request("1", a="x", b="y")) == body_digest(request("2", b="y", a="x"))


def test_the_message_is_left_as_it_was():
    message = request("1")
    body_digest(message)
    assert message.request_id == "1"


def test_same_bytes_of_another_type_differ():
    assert body_digest(pb.GetDatasetRequest(name="n")) != body_digest(pb.DeleteDatasetRequest(name="n"))


def test_reused_id_with_another_body_is_refused():
    digest = body_digest(request("1", a="x"))
    check_same_body(digest, request("1", a="x"), request_id="1")
    with pytest.raises(InvalidArgument) as caught:
        check_same_body(digest, request("1", a="z"), request_id="1")
    assert caught.value.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("dataset_id", ["a", "My-Data", "my_data", "1st", "late-", "x" * 64])
def test_an_id_that_cannot_be_one_is_refused_in_words(dataset_id):
    with pytest.raises(InvalidArgument) as caught:
        Validator().check(pb.CreateDatasetRequest(parent="projects/default", dataset_id=dataset_id))
    words = "must have 2 to 63 small letters, digits and hyphens, begin with a letter and not end with a hyphen"
    assert caught.value.violations == (("dataset_id", words),)
