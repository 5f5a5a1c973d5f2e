"""What can go wrong around a load, as data: kinds, plans, and what carries them out."""
