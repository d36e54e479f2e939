"""The judge service: scores, order-swapped comparisons, ratings and choices of a benchmark, and rewards."""
