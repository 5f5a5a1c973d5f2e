"""What a cluster of any size would do, computed from one real campaign."""
