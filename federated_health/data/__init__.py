"""Tasks and columns, CSV reading, the data check, the train/test split, data sources and partitions.

May import no other folder.
"""
