"""The engine that asks OpenAI-compatible endpoints."""
