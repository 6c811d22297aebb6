"""CUDA sources of lrsclip-rt and their loader; no kernel has landed yet, so this package is empty."""
