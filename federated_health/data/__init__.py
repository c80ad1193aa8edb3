"""Tasks and their columns, data sources, partitions, CSV reading and the data check.

May import no other folder.
"""
