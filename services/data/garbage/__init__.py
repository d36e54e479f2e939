"""Media that nobody names any more: how they are found, and removed."""
