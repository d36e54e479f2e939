"""The skeleton that every service stands on: configuration, server, health, errors, metrics and drain."""
