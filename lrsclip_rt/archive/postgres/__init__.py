"""Archives in PostgreSQL with pgvector: push, filters, exact and approximate search."""
