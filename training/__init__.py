"""What a training job runs: methods, collators, checkpoints, launch."""
