"""Where a learning rate lives in a user's model, how it is read and written."""
