"""The templates of the console's pages. Every text in them is escaped."""
