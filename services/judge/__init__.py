"""The judge service: scores, order-swapped comparisons, and rewards."""
