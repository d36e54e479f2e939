"""The model plane: engines side by side, the models they run, and what all of them share.

`vllm`, `transformers` and `openai` each run models in their own way behind one protocol (`engine`), and none of them
knows another. `models` finds, fetches, measures and keeps models. The other modules are shared: a service's item loop
turns items into prompts (`item_loop`, `structured_output`), and `factory` opens the engines and routes requests.
"""
