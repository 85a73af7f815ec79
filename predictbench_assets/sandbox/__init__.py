"""A simulated exchange that speaks Polymarket's read APIs: for the demo, the load tests and the fault tests.

`latent.py` is chance and time, `world.py` the markets that live on it, `payloads.py` their wire JSON, `listing.py` the
listing routes' semantics, `faults.py` what goes wrong on the way, `server.py` the HTTP application.
"""
