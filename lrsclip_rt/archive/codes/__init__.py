"""Compact codes: how they are trained, kept, scanned and measured."""
