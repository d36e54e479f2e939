"""The revisions of the tables of the training service, run by `services.runtime.migrations`."""
