"""The judge service: scores, and order-swapped comparisons."""
