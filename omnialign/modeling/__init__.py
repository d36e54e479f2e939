"""How a model family reads and writes content: adapters, codecs, prompts and structured answers.

inputs            the types: conversations, media policy, model inputs
decoding, streams media files to arrays under a policy
feature_cache     what was made of media, kept on disk (feature_file: one entry)
adapters/         conversation -> ids and features, ids -> answer; one adapter per model family
codecs/, spans    media -> token ids and back; the grammar of media among token ids
prompts/, answers what models are asked, and how their answers are read
benchmark_items   the words in which judges meet the items of a benchmark
model_folder      the class and the processor that a folder needs; patched_models changes some classes
"""
