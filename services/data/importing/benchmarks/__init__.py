"""The rows of published benchmarks as records with a benchmark item."""
