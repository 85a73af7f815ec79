"""What leaves the house to be checked by others: the frozen data set, and its check."""
