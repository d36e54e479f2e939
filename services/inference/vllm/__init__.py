"""The engine that runs models by vLLM, each in a process of its own."""
