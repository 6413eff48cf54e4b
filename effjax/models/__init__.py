"""Stacks of blocks: the decoder, its parts, and generation from it."""
