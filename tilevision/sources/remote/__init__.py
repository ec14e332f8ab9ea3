"""Images that lie elsewhere: read by ranges of bytes, or downloaded once where that is no use."""
