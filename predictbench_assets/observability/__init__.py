"""What a run lets others see while it works: log lines and metrics."""
