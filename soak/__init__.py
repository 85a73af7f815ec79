"""The soak: many simulated days on one instance, a fault a day, and an audit from the raw tables at the end.

`services` are what a deployment stands on, each with a way to go wrong; `commands` runs the product's own commands and
measures them; `faults` draws and makes one fault a day; `days` lives the days; `audit` reads the tables afterwards,
with nothing of the product's code.
"""
