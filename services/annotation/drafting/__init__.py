"""Annotation by models: a durable job kind over the pairs of a campaign."""
