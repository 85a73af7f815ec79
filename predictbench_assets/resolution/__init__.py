"""Settlement of stored markets: the sweep, and the ledger of what it observed.

Reading an exchange's answer is its adapter's; scores are `scoring/`.
"""
