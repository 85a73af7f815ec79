"""Text, tables and pictures of a run and of a board, for a terminal, a summary file and the Dagster UI.

No reads of the database: records come in. The page for readers is `site/`.
"""
