"""The revisions of the tables of the data service, run by `services.runtime.migrations`."""
