"""What a computation costs, known without running it: FLOPs, bytes, collectives, and the TPU slices to compile for."""
