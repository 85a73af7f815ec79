"""Quantitative forecasters: models that compute from prices, order books, price histories and earlier forecasts.

Each answers for the whole cohort in one call, on arrays, and publishes what it fitted in its payload. What they share
is `fitting.py`; nothing here asks a network, a model of language or the database.
"""
