"""What others see of a run: log lines, metrics and notices, and none of its secrets."""
