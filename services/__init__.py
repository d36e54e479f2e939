"""The gRPC services. They talk to each other only over gRPC."""
