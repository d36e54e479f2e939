"""The refinement service: responses, and responses refined with language feedback."""
