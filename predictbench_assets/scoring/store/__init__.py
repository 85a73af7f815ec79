"""Scoring's SQL: forecasts read for a board, scores made where they are due, boards stored, scores checked.

No arithmetic: that is `scoring/`, on arrays.
"""
