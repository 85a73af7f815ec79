"""Old data: raw snapshots that leave the database for an archive, staged and local files that are removed.

Nothing that a board or a digest needs is removed here.
"""
