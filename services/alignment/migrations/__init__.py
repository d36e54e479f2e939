"""The revisions of the tables of the alignment service, run by `services.runtime.migrations`."""
