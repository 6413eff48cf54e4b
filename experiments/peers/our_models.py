"""effjax: `make(length, depth) -> model`, the same sizes by the names of torch_models.PEERS."""

from torch_models import CHUNK, D_MODEL, FEATURES, HASHES, HEAD_DIM, LOW_RANK, N_HEADS, VOCABULARY, WINDOW

from effjax.models.build import decoder_config, encoder_config, make_decoder, make_encoder


def model(mixer, *, both_sides=False, residual="residual", positions="none", options=lambda length: {}):
    def make(length, depth):
        config = (encoder_config if both_sides else decoder_config)(pattern=(mixer,))
        config.update(d_model=D_MODEL, d_ff=4 * D_MODEL, n_heads=N_HEADS, head_dim=HEAD_DIM, n_layers=depth)
        config.update(residual=residual, positions=positions, activation="gelu")
        config[mixer].update(options(length))
        return (make_encoder if both_sides else make_decoder)(config, vocab_size=VOCABULARY)

    return make


OURS = {
    "exact": model("full", options=lambda length: dict(rotary=True)),
    "window 256": model("window", options=lambda length: dict(window=(WINDOW,), rotary=True)),
    "LSH, 4 rounds, reversible": model(
        "lsh",
        residual="reversible",
        positions="sinusoidal",
        options=lambda length: dict(chunk_size=CHUNK, n_hashes=HASHES, n_buckets=max(2, length // CHUNK)),
    ),
    "FAVOR+, 256 features": model("performer", options=lambda length: dict(n_features=FEATURES, rotary=True)),
    "Linformer, 256": model(
        "linformer",
        both_sides=True,
        positions="sinusoidal",
        options=lambda length: dict(n_projected=LOW_RANK, max_length=length),
    ),
}
