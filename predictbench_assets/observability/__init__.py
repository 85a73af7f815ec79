"""Logs, metrics, notices and summaries of runs, with secrets redacted.

Decisions about a run do not belong here: nothing in this room changes how a run goes on. It imports no Dagster.
"""
