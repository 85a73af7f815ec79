"""The command line: a thin layer over Dagster and the domain. `predictbench --help` is its table of contents."""
