"""The first three stages as functions: open a run's window, freeze its snapshot, build its cohort; names and headers.

No Dagster (that is assets/), no exchange by its name, no SQL: which snapshot counts is asked of a registry.
"""
