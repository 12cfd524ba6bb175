"""The batch size: how many samples the classes need, what memory allows, which size is fastest.

`class_coverage` computes the smallest batch that contains every class, from the draws of `class_draws`. `search` finds
the largest size that fits, `memory` predicts the peak memory of a size, and `throughput` finds the smallest size that
is as fast as any.
"""
