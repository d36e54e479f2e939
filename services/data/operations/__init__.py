"""What is done with whole datasets: filter, split, sample, merge, find duplicates, compare, describe in numbers.

All of it reads records as streams in order of id; what must be kept of a record is a few bytes.
"""
