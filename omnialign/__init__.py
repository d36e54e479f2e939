"""omnialign: align all-modality models with language feedback."""

from omnialign.torchvision import make_importable

__version__ = "0.1.0"

make_importable()
