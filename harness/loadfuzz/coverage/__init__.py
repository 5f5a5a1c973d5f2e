"""Which branches of a loader a corpus reaches, and what guards those it does not."""
