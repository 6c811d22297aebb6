"""STAC Items in, collections and items out."""
