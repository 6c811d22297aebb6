"""Commands that export brings: ``lrsclip export`` and ``lrsclip pull``."""
