"""Dataset versions as files for other tools, in the object store for a day."""
