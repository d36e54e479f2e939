"""The data service: datasets, media, models and lineage."""

import os

# Arrow reads this when it is first imported. Its own allocators keep what is freed for each of Lance's many threads.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
