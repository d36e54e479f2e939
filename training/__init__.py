"""What a training job runs: methods, collators, checkpoints, launch."""

import omnialign as omnialign  # first of all: see omnialign.torchvision
