"""Exports: what is stored, as files for whoever analyses it."""
