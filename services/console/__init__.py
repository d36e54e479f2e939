"""The web: pages for people over the services of omnialign. It has no state and no rights of its own."""
