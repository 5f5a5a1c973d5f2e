"""From a death to what caused it: the sequence, the fields, the name."""
