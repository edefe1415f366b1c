"""From input files to what the encoders read: records, windows, open frames, work files."""
