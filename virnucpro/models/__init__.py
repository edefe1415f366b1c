"""The networks, their tokenizers, and where their files come from."""
