"""One address for people outside: passes every call on to the service it is for."""
