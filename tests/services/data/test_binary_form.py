"""Messages put together from parts are those that protobuf would write."""

import pytest

from omnialign.v1 import content_pb2, data_service_pb2
from services.data.binary_form import field


@pytest.mark.parametrize("length", [0, 1, 55, 56, 127, 128, 16_320, 16_383, 16_384, 2_100_000])
def test_a_medium_of_any_length_makes_an_item_of_a_response(length: int) -> None:
    medium, data = content_pb2.Media(sha256="0" * 64, size_bytes=length), b"x" * length
    head = data_service_pb2.MediaItem(media=medium).SerializeToString()
    item = field(2, head, *field(2, data))
    sent = b"".join([data_service_pb2.StreamRecordsResponse(named_counts=[1]).SerializeToString(), *item, *item])
    expected = data_service_pb2.MediaItem(media=medium, data=data)
    found = data_service_pb2.StreamRecordsResponse.FromString(sent)
    assert found == data_service_pb2.StreamRecordsResponse(named_counts=[1], media=[expected] * 2)
