"""One fault at every place of a stream, and a map of what came of it."""
