"""The training service: queues training jobs, runs them as local process groups, and follows them."""
