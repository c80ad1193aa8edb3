"""The benefit of joining: models with and without the federation, compared on the same patients.

May import what `studies` may.
"""
