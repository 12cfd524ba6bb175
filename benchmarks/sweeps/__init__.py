"""What `sweep` costs, and how good the settings are that its strategies choose."""
