"""Dagster's face of each stage: assets with their config, metadata and checks, and the frame around every asset.

Work, decisions and SQL do not belong here: they stand in the stage's own room, and a body is 30 lines at most.
"""
