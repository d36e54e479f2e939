"""Sizes and timings of connections, stated once for both ends.

Messages stay under 4 MiB, gRPC's own default, on purpose: media travel in chunks, records in batches.
"""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # After a failed connection gRPC fails calls at once until its back-off is over. With the default of a second
    # our own retries would all fall into that gap.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A pod that is replaced has a new address. The default looks a name up again after half a minute at the soonest.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    ("grpc.enable_retries", 0),  # one layer retries, and it is ours
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)
