"""A file for each line of the table in docs/media.md, and what models see of it."""
