"""Forecasters that come with the benchmark: the market's price, the price made coherent, negative controls.

Each uses what any outside class may use, and nothing else.
"""
