"""The same apps under Flower's own SuperLink and SuperNodes: their commands, with this project's certificates.

Flower's processes do the work. What is here checks what a user gives, and says and runs the command that follows.
"""
