"""The critique service: language feedback on responses."""
