"""What leaves the house to be checked by others: digests of forecasts, and the frozen dataset."""
