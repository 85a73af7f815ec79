"""The page of the benchmark: its data, its views, its files.

No numbers are made here: boards come from `scoring/`, charts from `reporting/`.
"""
