"""The styles and scripts of the console's pages."""
