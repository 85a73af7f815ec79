"""Paid calls of models and services: what each may cost, that none is made twice, and a durable row for every request.

How a question is asked of a model belongs in `llm/`, and the rows' reports in `reporting`; here is what every paid
request goes through, whoever makes it: the desk, the store behind it, budgets, and the prices.
"""
