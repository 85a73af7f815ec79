"""Dagster's layer, thin: each asset takes its inputs, calls the domain, and returns a value with metadata."""
