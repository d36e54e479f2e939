"""How a model family reads and writes content: adapters, codecs, prompts and structured answers."""
