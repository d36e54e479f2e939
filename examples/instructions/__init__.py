"""Instructions that a program can check, for a real language model: one sentence on a topic, under one constraint.

The data has the column schema of the text subset of align-anything-200k. Its annotated answers are sentences of the
base model (`sentences.json`), as it wrote them or edited until they meet the constraint, or miss it narrowly. Nothing
else is known about them: scores, critiques and advice are the checker's, which stands for the annotators.

    constraints  what can be asked of a sentence, and how to mend one
    prompts      instructions about topics, and parsing them
    checker      scores any answer, says what is wrong with it and how to write it instead
    dataset      writes the data; recipe is the job that uses it
    sentences    what annotated answers are made of
    base_model   fetches and converts the model
"""
