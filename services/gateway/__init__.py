"""One address for people outside: forwards every call to its service."""
