"""The dual-granularity CLIP model in torch, its checkpoints and its training."""
