"""What a PyTorch user would pick: attention of public packages on given queries, keys and values, `[1, N, T, H]`.

Each entry of PEERS is `make(length, n_heads, head_dim) -> fn(q, k, v)`, or None where it cannot serve.
"""

import torch
from torch.nn import functional

WINDOW, FEATURES, HASHES, CHUNK, LOW_RANK = 512, 256, 4, 64, 256


def sdpa(causal):
    return lambda length, n_heads, head_dim: (
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    )


def sdpa_window(length, n_heads, head_dim):
    """The exact kernel under a mask of the window."""
    behind = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    mask = (behind >= 0) & (behind < WINDOW)
    return lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def flex_window(length, n_heads, head_dim):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    window = lambda b, h, i, j: (i >= j) & (i - j < WINDOW)
    blocks = create_block_mask(window, None, None, length, length, device="cpu")
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=blocks)


def local_attention(length, n_heads, head_dim):
    """Blocks of a window, each seeing itself and the one before, of which what is out of reach is masked."""
    from local_attention import LocalAttention

    layer = LocalAttention(
        window_size=WINDOW, causal=True, look_backward=1, exact_windowsize=True, use_rotary_pos_emb=False, autopad=True
    )
    return lambda q, k, v: layer(q, k, v)


def longformer(length, n_heads, head_dim):
    """Hugging Face's sliding chunks, which look both ways: WINDOW keys in all. Projections are left out."""
    from transformers.models.longformer.modeling_longformer import LongformerConfig, LongformerSelfAttention

    width = n_heads * head_dim
    config = LongformerConfig(
        hidden_size=width, num_attention_heads=n_heads, attention_window=[WINDOW], attention_probs_dropout_prob=0.0
    )
    layer = LongformerSelfAttention(config, 0)
    half = WINDOW // 2

    def run(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        scores = layer._sliding_chunks_query_key_matmul(q / head_dim**0.5, k, half)
        weights = functional.softmax(scores, dim=-1)
        weights = torch.nan_to_num(weights)
        return layer._sliding_chunks_matmul_attn_probs_value(weights, v, half)

    return run


def reformer_pytorch(length, n_heads, head_dim):
    from reformer_pytorch import LSHAttention

    layer = LSHAttention(bucket_size=CHUNK, n_hashes=HASHES, causal=True)
    return lambda q, k, v: layer(q.flatten(0, 1), v.flatten(0, 1))[0]


def performer_pytorch(length, n_heads, head_dim):
    from performer_pytorch import FastAttention

    layer = FastAttention(head_dim, nb_features=FEATURES, causal=True)
    return lambda q, k, v: layer(q, k, v)


def linformer(length, n_heads, head_dim):
    """The package's layer without its projections of width; values are the keys, summed along the length anew."""
    from linformer import LinformerSelfAttention

    layer = LinformerSelfAttention(n_heads * head_dim, length, k=LOW_RANK, heads=n_heads, dim_head=head_dim)
    layer.to_q = layer.to_k = layer.to_v = layer.to_out = torch.nn.Identity()
    rows = lambda x: x.transpose(1, 2).flatten(2)
    return lambda q, k, v: layer(rows(q), context=rows(k)).unflatten(2, (n_heads, head_dim)).transpose(1, 2)


def huggingface_reformer(length, n_heads, head_dim):
    """Hugging Face's LSH layer without its projections; values are its queries and keys."""
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention, ReformerConfig

    config = ReformerConfig(
        hidden_size=n_heads * head_dim,
        num_attention_heads=n_heads,
        attention_head_size=head_dim,
        num_hashes=HASHES,
        num_buckets=max(2, length // CHUNK),
        lsh_attn_chunk_length=CHUNK,
        is_decoder=True,
        hash_seed=0,
        lsh_attention_probs_dropout_prob=0.0,
    )
    layer = LSHSelfAttention(config)
    layer.query_key = layer.value = torch.nn.Identity()
    rows = lambda x: x.transpose(1, 2).flatten(2)
    return lambda q, k, v: layer(rows(q)).hidden_states.unflatten(2, (n_heads, head_dim)).transpose(1, 2)


def x_transformers(causal):
    def make(length, n_heads, head_dim):
        from x_transformers.attend import Attend

        attend = Attend(causal=causal, flash=True)
        return lambda q, k, v: attend(q, k, v)[0]

    return make


PEERS = {
    "exact": {"torch SDPA": sdpa(False), "x-transformers": x_transformers(False)},
    "causal": {"torch SDPA": sdpa(True), "x-transformers": x_transformers(True)},
    "window 512": {
        "local-attention": local_attention,
        "Hugging Face Longformer": longformer,
        "torch SDPA, masked": sdpa_window,
        "torch FlexAttention": flex_window,
    },
    "LSH, 4 rounds": {"reformer-pytorch": reformer_pytorch, "Hugging Face Reformer": huggingface_reformer},
    "FAVOR+, 256 features": {"performer-pytorch": performer_pytorch},
    "Linformer, 256": {"linformer": linformer},
}
