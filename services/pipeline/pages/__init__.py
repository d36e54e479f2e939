"""What the reports of all kinds of job are made of: a style, media as pictures and players, and numbers as words."""
