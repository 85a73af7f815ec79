"""One run from outside: the command, the child process that it becomes, its signals, and the summary that is left.

Belongs here: whatever starts Dagster or a sandbox for a person, and the days of the demo. Does not: options of commands
(`cli`), and the work of a run itself (`assets`).
"""
