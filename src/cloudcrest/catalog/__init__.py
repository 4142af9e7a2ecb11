"""Models, the artifacts their weights come in, and where those are fetched from."""
