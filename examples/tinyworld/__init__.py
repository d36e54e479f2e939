"""A small world in which every answer can be checked by a program: coloured shapes, tones, and moving shapes.

It covers the eight subtasks of align-anything-200k with real media files, writes its data in the column schemas of that
dataset, and ships a small misaligned model. It is the default of the demo, the test bed and the yardstick.

    world      the things that exist, and the codecs of their media
    language   phrases and instructions about them, and parsing both
    faults     imperfect answers, as a misaligned model gives them
    sight      media files back to things
    oracle     scores any answer and says what is wrong with it
    dataset    writes the data; recipe is the job that uses it
    corpus     what the base model is pre-trained on; pretrain makes the model
"""
