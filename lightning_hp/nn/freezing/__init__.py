"""What is frozen and when it is trained."""
