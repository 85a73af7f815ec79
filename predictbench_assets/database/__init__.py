"""The database: its schema, its migrations, and every read and write of it. Knows nothing of jobs."""
