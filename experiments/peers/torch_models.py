"""Language models of public packages at one size: `make(length, depth) -> (module, loss(module, tokens))`."""

from torch.nn import functional

D_MODEL, N_HEADS, HEAD_DIM, VOCABULARY = 256, 4, 64, 256
WINDOW, FEATURES, HASHES, CHUNK, LOW_RANK = 256, 256, 4, 64, 256
SIZES = dict(num_tokens=VOCABULARY, dim=D_MODEL, heads=N_HEADS, dim_head=HEAD_DIM)


def cross_entropy(logits, tokens):
    return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def of_logits(module, tokens):
    """Mean nats; the inputs are the targets one place later, so that all models do the same work."""
    return cross_entropy(module(tokens[:, :-1]), tokens[:, 1:])


def x_transformers(length, depth):
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(
        dim=D_MODEL, depth=depth, heads=N_HEADS, attn_dim_head=HEAD_DIM, attn_flash=True, rotary_pos_emb=True
    )
    model = TransformerWrapper(
        num_tokens=VOCABULARY, max_seq_len=length, attn_layers=layers, use_abs_pos_emb=False, emb_dim=D_MODEL
    )
    return model, of_logits


def local_attention(length, depth):
    """One residual stream, as everybody else; exact windows would cost the package a third block."""
    from local_attention import LocalTransformer

    model = LocalTransformer(
        max_seq_len=length, depth=depth, local_attn_window_size=WINDOW // 2, num_residual_streams=1, **SIZES
    )
    return model, of_logits


def hugging_face_longformer(length, depth):
    """Its windows look both ways: WINDOW keys in all, and no global token."""
    from transformers import LongformerConfig, LongformerForMaskedLM

    config = LongformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        num_hidden_layers=depth,
        num_attention_heads=N_HEADS,
        intermediate_size=4 * D_MODEL,
        attention_window=[WINDOW] * depth,
        max_position_embeddings=length + 2,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
        pad_token_id=0,
    )
    return LongformerForMaskedLM(config), lambda module, tokens: cross_entropy(
        module(input_ids=tokens[:, :-1], global_attention_mask=None).logits, tokens[:, 1:]
    )


def reformer_pytorch(length, depth):
    from reformer_pytorch import ReformerLM

    model = ReformerLM(
        depth=depth, max_seq_len=length, bucket_size=CHUNK, n_hashes=HASHES, causal=True, ff_chunks=1, **SIZES
    )
    return model, of_logits


def hugging_face_reformer(length, depth):
    from transformers import ReformerConfig, ReformerModelWithLMHead

    rows = 1 << (length.bit_length() // 2)
    config = ReformerConfig(
        attention_head_size=HEAD_DIM,
        attn_layers=["lsh"] * depth,
        axial_pos_shape=(rows, length // rows),
        axial_pos_embds_dim=(D_MODEL // 4, 3 * D_MODEL // 4),
        feed_forward_size=4 * D_MODEL,
        hidden_size=D_MODEL,
        is_decoder=True,
        lsh_attn_chunk_length=CHUNK,
        max_position_embeddings=length,
        num_attention_heads=N_HEADS,
        num_buckets=max(2, length // CHUNK),
        num_hashes=HASHES,
        vocab_size=VOCABULARY,
        hidden_dropout_prob=0.0,
        lsh_attention_probs_dropout_prob=0.0,
    )
    model = ReformerModelWithLMHead(config)
    # Its axial positions want the whole length while training.
    return model, lambda module, tokens: cross_entropy(module(input_ids=tokens[:, :-1]).logits, tokens[:, 1:])


def performer_pytorch(length, depth):
    from performer_pytorch import PerformerLM

    return PerformerLM(max_seq_len=length, depth=depth, causal=True, nb_features=FEATURES, **SIZES), of_logits


def linformer(length, depth):
    from linformer import LinformerLM

    return LinformerLM(seq_len=length, depth=depth, k=LOW_RANK, **SIZES), of_logits


PEERS = {
    "exact": {"x-transformers": x_transformers},
    "window 256": {"local-attention": local_attention, "Hugging Face Longformer": hugging_face_longformer},
    "LSH, 4 rounds, reversible": {
        "reformer-pytorch": reformer_pytorch,
        "Hugging Face Reformer": hugging_face_reformer,
    },
    "FAVOR+, 256 features": {"performer-pytorch": performer_pytorch},
    "Linformer, 256": {"linformer": linformer},
}
