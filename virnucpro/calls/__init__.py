"""From scores of windows to calls of sequences and regions, and their tables."""
