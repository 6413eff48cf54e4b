"""Smaller models: quantization and pruning of what was trained, and training that knows of them."""
