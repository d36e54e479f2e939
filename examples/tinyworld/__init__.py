"""A small world in which every answer can be checked by a program: coloured shapes, tones, and moving shapes.

It covers the eight subtasks of align-anything-200k with real media files, writes its data in the column schemas of that
dataset, and ships a small misaligned model. It is the default of the demo, the test bed and the yardstick.

    world      the things that exist, and the codecs of their media
    language   phrases and instructions about them, and parsing both
    faults     imperfect answers, as a misaligned model gives them
    sight      media files back to things
    oracle     scores any answer and says what is wrong with it, in findings

It also covers what eval-anything measures: questions whose answers need two media, and answers that combine modalities.

    scenes         what is seen together with what is heard, and the rules that tie the two
    understanding  questions about scenes, their right and imperfect answers, and the references of ten people
    presenting     instructions that leave open in which modalities to answer, and what people want then
    choices        multiple-choice questions about a medium
    examiners      what the oracle looks at in answers to all these
    tasks          all kinds of tasks under one roof
    benchmark      writes the items in the published files
    annotations    rated, compared and criticised answers to train judges with

    judges         the judges of the benchmark, and what they learn from
    evaluation     two models on the benchmark, by these judges; eval_demo is the command
    yardstick      how good the judges are, by the oracle

    dataset    writes the data; recipe is the job that uses it
    corpus     what the base model is pre-trained on; pretrain makes the model
"""
