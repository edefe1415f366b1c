"""Reading sequences and writing results."""
