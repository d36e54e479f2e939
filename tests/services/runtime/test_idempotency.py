"""Digests of request bodies."""

import pytest

from omnialign.errors import InvalidArgument
from omnialign.v1 import data_service_pb2 as pb
from omnialign.v1 import dataset_pb2
from services.runtime.idempotency import body_digest, check_same_body


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
