"""Messages between server and hospitals, and the validation of every field.

May import `ml` and `data`.
"""
