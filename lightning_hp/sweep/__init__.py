"""A sweep over settings: subjects, strategies, one training, the record of all, and where they run."""
