"""The torch part of each training method: `build(inputs)` in the file of its name."""
