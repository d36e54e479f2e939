"""Alignment jobs: the loop of learning from language feedback as one durable job."""
