"""The revisions of the tables of the evaluation service, run by `services.runtime.migrations`."""
