"""The training methods, one file each; a method knows nothing of modalities."""
