"""Durable jobs over records, for every kind of job.

A job kind (`kind.JobKind`, `kind.JobProgram`) says what its jobs look like and what they do: which stages follow each
other, and which steps every chunk of records goes through. The pipeline does the rest. It keeps jobs and their events,
runs their workflows so that a killed process loses seconds and duplicates nothing, commits what a step made of each
record exactly once, waits for services that are away, shows progress, and takes over from replicas that died.

It knows no job kind: `service.open_pipeline` is handed one.
"""
