"""The benchmark's data as frames, for notebooks: the same tables out of a database or out of a release."""
