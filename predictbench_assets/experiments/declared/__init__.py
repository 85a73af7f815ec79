"""Experiments that are declared in a file: what every declaration has in common, whatever its kind.

A kind's own keys belong beside its experiment, and what an experiment does in its own room.
"""
