"""A hospital's side of a run: message handlers, its local model, the egress ledger, its own results.

May import `transport` and everything below it, and nothing of `server`.
"""
