"""Heat maps, embeddings and shortcut signals."""
