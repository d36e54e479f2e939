"""The gRPC services. They talk to each other only over gRPC."""

import omnialign as omnialign  # first of all: see omnialign.torchvision
