"""The domain: a market with its price, quotes, cluster and settlement; a day's cohort and its core sample.

No exchange's wire, no file, no database: what a market is, on any exchange.
"""
