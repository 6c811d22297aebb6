"""Archives to and from GeoParquet 1.1."""
