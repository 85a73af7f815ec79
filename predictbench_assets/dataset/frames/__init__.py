"""Data frames for notebooks, out of a database or of a release.

No column of its own: the tables are those of `dataset/`.
"""
