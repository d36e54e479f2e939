"""Measurements of omnialign, each against a plain way of doing the same thing on the same machine.

`python -m benchmarks` runs them and writes docs/results/bench.json and bench.md.
"""
