"""Soak: a whole service under light traffic of every kind for an hour, and whether anything grows."""
