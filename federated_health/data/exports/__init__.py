"""A hospital's own export: mapping files, and drafts of mapping and task files."""
