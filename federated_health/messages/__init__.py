"""What server and hospitals exchange, and the validation of every field.

May import `ml` and `data`.
"""
