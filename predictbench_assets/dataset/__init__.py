"""The benchmark's data for others: its tables, exports and releases of them, their check, and frames for notebooks.

Pages and texts for readers belong in site and reporting, the arithmetic of scores and boards in scoring.
"""
