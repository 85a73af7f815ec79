"""Forecasters that run elsewhere: a server that is asked over HTTP, and what it is sent and may answer.

Forecasts that somebody hands in belong here too. Experiments whose code runs in this process do not.
"""
