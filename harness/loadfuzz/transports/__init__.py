"""Connections that carry a stream to a loader, all with the same promises; and one that fails."""
