"""effjax: efficient transformers in JAX and Flax, correct against their originals and comparable on equal terms."""

__version__ = "0.1.0"
