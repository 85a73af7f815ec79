"""Experiments that a file declares: a table each, read and checked, and made into instances.

What an experiment forecasts belongs in the room of its kind; finding those of code belongs in the registry.
"""
