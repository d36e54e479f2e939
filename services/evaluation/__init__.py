"""The evaluation service: benchmarks of all-modality models, and of judges, as durable jobs."""
