"""The object store for media, models, uploads and tables: a local folder or an S3 bucket behind one interface."""

from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from services.data.config import DataConfig
from services.data.objects.base import ObjectInfo, ObjectStore, TableLocation
from services.data.objects.local import LocalObjectStore

__all__ = ["LocalObjectStore", "ObjectInfo", "ObjectStore", "TableLocation", "open_objects"]


def open_objects(config: DataConfig, *, registry: CollectorRegistry) -> ObjectStore:
    """The store that the settings name. It does not connect yet: `check` does."""
    if not config.objects_url:
        return LocalObjectStore(config.root)
    from services.data.objects.s3 import S3ObjectStore
    from services.data.objects.s3_client import (
        S3Metrics,
        S3Settings,
        trust_ca_in_lance,  # local folders work without the S3 SDK
    )

    parts = urlsplit(config.objects_url)
    settings = S3Settings(
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        endpoint=config.s3_endpoint,
        public_endpoint=config.s3_public_endpoint,
        region=config.s3_region,
        path_style=config.s3_path_style,
        ca_file=config.s3_ca_file,
    )
    if config.s3_ca_file is not None:
        trust_ca_in_lance(config.s3_ca_file, bundle=config.root / "certificates.pem")
    return S3ObjectStore(settings, scratch=config.root, metrics=S3Metrics(registry))
