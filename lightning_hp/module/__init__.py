"""A classifier for Lightning: the mixin for any LightningModule, and one that is ready to use."""
