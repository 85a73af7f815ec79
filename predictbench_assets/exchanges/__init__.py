"""The port to an exchange, the transport and figures that all of them share, and the choice of the configured one.

No stage and no storing: rows and quotes come out as they were received, and ingestion/ freezes them.
"""
