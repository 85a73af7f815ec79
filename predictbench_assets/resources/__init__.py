"""What assets are handed: exchange, database, staging area. Plain objects, so that no secret enters a snapshot."""
