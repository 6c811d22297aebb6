"""Commands that training brings: ``lrsclip train``."""
