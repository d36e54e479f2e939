"""The annotation service: campaigns in which people annotate the pairs of a dataset version."""
