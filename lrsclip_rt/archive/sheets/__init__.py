"""HTML contact sheets with a sketch of a map."""
