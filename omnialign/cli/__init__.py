"""The `omnialign` command line. Modules here import what they need inside functions: `--help` must answer at once."""
