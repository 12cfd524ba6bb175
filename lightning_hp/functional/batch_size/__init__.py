"""The maths of the batch size: classes, memory, throughput, search."""
