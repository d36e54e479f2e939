"""Campaigns in the files of other annotation tools: pure codecs, which know neither services nor the network.

A tool has a module with its codec; what they share is the form as a list of questions (`questions`), the pair that a
task is about (`pairs`), and how what comes back is checked (`reading`).
"""
