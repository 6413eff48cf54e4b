"""Pictures of a model: who attends to whom, and what it has learned about that; the command is `effjax.visualize`."""
