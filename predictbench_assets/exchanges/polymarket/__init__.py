"""Polymarket behind the port: Gamma's listing, the CLOB's prices, rows read into markets, settlements, its contract.

Nothing that another exchange would need too: that is in exchanges/ or markets/.
"""
