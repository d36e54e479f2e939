"""The rows of the data that people have for other tools, as records."""
