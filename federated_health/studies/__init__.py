"""Studies that train many models on one machine: the benefit of joining, and attacks on privacy.

They need the rows of all hospitals in one place, so the data must be public, generated or shared. May import every
folder but `cli`.
"""
