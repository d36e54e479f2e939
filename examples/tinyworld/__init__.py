"""A small world in which every answer can be checked by a program: coloured shapes, tones, and moving shapes.

It covers the eight subtasks of align-anything-200k with real files, writes its data in those subsets' column schemas,
and ships a small misaligned model. It is the embedded default, the test bed and the yardstick.
"""
