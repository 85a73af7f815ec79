"""How stored markets settled: the sweep, and the ledger of what it observed."""
