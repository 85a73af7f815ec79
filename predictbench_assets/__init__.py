"""Predictbench: a daily benchmark of forecasters on Polymarket questions."""

__version__ = "0.1.0"
