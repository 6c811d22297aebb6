"""Bundles from checkpoints, and precisions from bundles."""
