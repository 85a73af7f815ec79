"""Research: sources about a market or an event, gathered once for all forecasters of a day, and kept clear of prices.

Search services, the queries, the sites of markets that are denied, and what else tells a price belong here, with the
control that asks for the price at the time of a forecast. How a model reads the sources belongs in `llm/`, what a
search may cost in `model_calls/`.
"""
