"""Data sources in every layout that the project reads, and generated records, as one canonical table."""
