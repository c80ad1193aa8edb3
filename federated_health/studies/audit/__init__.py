"""Attacks on our own runs: what the final model, a hospital's updates and the averages reveal about patients.

The attacker has all hospitals' rows, more than a real one would, so an attack that fails here is likely to fail
elsewhere. May import what `studies` may.
"""
