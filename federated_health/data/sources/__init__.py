"""Data sources: files in every known layout, and generated patients, as one canonical table each."""
