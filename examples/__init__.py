"""Worked examples."""

import omnialign as omnialign  # first of all: see omnialign.torchvision
