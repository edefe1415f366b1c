"""From files of sequences to files of embeddings, on any number of devices."""
