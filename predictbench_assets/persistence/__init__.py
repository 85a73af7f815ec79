"""A run on its way into the database: leases, snapshots, the writer, digests; and reads of what stored runs are.

Scores and boards belong in scoring, the ledger of settlements in resolution, moves to archives in retention.
"""
