"""Is joining worth it? Models with and without the federation, compared by cross-validation on the same patients.

May import what `studies` may.
"""
