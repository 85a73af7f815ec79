"""Polymarket: reading its APIs, and the typed markets that everything downstream works with."""
