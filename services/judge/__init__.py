"""The judge service: scores, order-swapped comparisons, ratings of a benchmark, and rewards."""
