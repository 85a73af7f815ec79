"""What is old: raw snapshots that leave the database for an archive, and staged and local files that are removed."""
