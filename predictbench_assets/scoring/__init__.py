"""Worth of forecasts: proper scores, clustered intervals, calibration, coherence, boards. Arrays in, records out.

No SQL (that is `store/`) and no text for people (that is `reporting/`).
"""
