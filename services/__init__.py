"""The gRPC services. They talk to each other only over gRPC."""

import os

import omnialign as omnialign  # first of all: see omnialign.torchvision

# Our children are programs of their own, never copies that go on with gRPC. Its handlers of fork(2) would run in them
# before exec, without the threads that they expect, and at times end them there: a trainer that never starts.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
