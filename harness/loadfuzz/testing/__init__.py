"""What tests of the harness, and of what plugs into it, have in common."""
