"""Dagster's own instance: its storage, the output of steps, and the retention of its runs.

The benchmark's data do not belong here: they are in the database and the staging area, and need no instance.
"""
