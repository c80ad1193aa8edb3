"""The server's side of a run: participants, rounds, reply validation, strategies, checkpoints, results.

May import `transport` and everything below it, and nothing of `hospital`.
"""
