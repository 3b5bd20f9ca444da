"""Scripts that print the tables of the documentation; each resumes by row. See benchmarks/README.md."""
