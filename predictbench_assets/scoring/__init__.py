"""What forecasts are worth: proper scores, intervals that know about clusters, calibration, boards. Pure arithmetic."""
