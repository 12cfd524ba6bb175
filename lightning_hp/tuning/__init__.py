"""How a value is found through a rehearsal."""
