"""Reading annotated preference data in the schemas of align-anything-200k."""
