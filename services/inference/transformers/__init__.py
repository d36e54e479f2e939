"""The engine that runs `transformers` models in this process."""
