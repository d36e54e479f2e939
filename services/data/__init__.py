"""The data service: datasets, media, models and lineage."""
