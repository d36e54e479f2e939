"""The files of models: found, fetched, checked, and kept in memory within a budget."""
