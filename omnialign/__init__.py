"""omnialign: align all-modality models with language feedback."""

__version__ = "0.1.0"
