"""Studies that run many trainings in one place: the benefit of joining, and attacks on privacy.

They need the rows of all hospitals on one machine. May import every folder but `cli`.
"""
