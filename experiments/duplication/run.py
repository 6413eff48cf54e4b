"""The Reformer paper's synthetic task: copy w in the sequence 0 w 0 w, by attention alone (one layer).

  python experiments/duplication/run.py                      # what is committed beside this file
  python experiments/duplication/run.py --length=1024 --symbols=127 --d_model=256 --steps=150000   # the paper's size

Trains with full attention and with 1, 2, 4 and 8 rounds of hashing, and evaluates each with all of them: the share of
the symbols of the second w that are predicted right. Full attention is shared-QK attention in one chunk, so that all
variants have the same parameters. One JSON file per training variant; what is done is not done again.
"""

import functools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from effjax import cli
from effjax.models.build import decoder_config, make_decoder
from effjax.training.workdir import keep_result

HERE = pathlib.Path(__file__).parent
ROUNDS = (0, 1, 2, 4, 8)  # 0: full attention


def main(argv=None) -> None:
    parser = cli.plain_parser("duplication", __doc__)
    for name, value, text in (
        ("length", 128, "tokens of a sequence, even"),
        ("symbols", 63, "symbols that w is made of"),
        ("d_model", 64, "width of the layer and of its feed-forward network"),
        ("n_heads", 4, "heads"),
        ("chunk_size", 16, "tokens in a sorted chunk; as many buckets as chunks"),
        ("batch_size", 16, "sequences a step"),
        ("steps", 3000, "training steps"),
        ("test_sequences", 256, "sequences to evaluate on"),
        ("seed", 0, "of everything"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="peak, cosine decay (default: %(default)s)")
    parser.add_argument("--train", default="0,1,2,4,8", help="rounds to train with, 0 is full (default: %(default)s)")
    parser.add_argument("--output", default=str(HERE / "metrics"), help="(default: beside this file)")
    args = parser.parse_args(argv)
    output = pathlib.Path(args.output)
    for rounds in map(int, args.train.split(",")):
        keep_result(output / f"{label(rounds)}.json", functools.partial(run, rounds, args))


def label(rounds: int) -> str:
    return f"lsh-{rounds}" if rounds else "full"


def sequences(rng: np.random.Generator, n: int, args) -> np.ndarray:
    """`[n, length + 1]` tokens: 0 w 0 w, and one symbol more that nothing predicts."""
    half = args.length // 2
    w = rng.integers(1, args.symbols + 1, (n, half - 1))
    zero = np.zeros((n, 1), int)
    return np.concatenate([zero, w, zero, w, zero], axis=1).astype(np.int32)


@functools.cache
def model(rounds: int, args_items: tuple):
    """The one-layer decoder with so many rounds."""
    args = dict(args_items)
    config = decoder_config(pattern=("lsh",))
    config.update(d_model=args["d_model"], d_ff=args["d_model"], n_layers=1, n_heads=args["n_heads"])
    config.update(head_dim=args["d_model"] // args["n_heads"], positions="axial")
    config.axial.update(shape=(args["length"],), dims=(args["d_model"],), init_scale=1.0)
    if rounds:
        buckets = args["length"] // args["chunk_size"]
        config.lsh.update(n_hashes=rounds, chunk_size=args["chunk_size"], n_buckets=buckets + buckets % 2)
    else:
        config.lsh.update(n_hashes=1, chunk_size=args["length"], n_buckets=2, look_back="within_round")
    return make_decoder(config, vocab_size=args["symbols"] + 1)


def run(rounds: int, args) -> dict:
    """Trains one variant and evaluates it with all."""
    items = tuple(sorted(vars(args).items()))
    trained, half = model(rounds, items), args.length // 2
    rng = np.random.default_rng(args.seed)
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, min(200, args.steps // 4), args.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.98))
    params = jax.jit(trained.init)(jax.random.key(args.seed), jnp.zeros((1, 1), jnp.int32))
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, tokens, key):
        def loss(params):
            inputs, targets = tokens[:, :-1], tokens[:, 1:]
            rngs = {"dropout": key}  # hash functions are drawn anew at every step
            nats, _ = trained.apply(params, inputs, targets, deterministic=False, rngs=rngs, method="nats")
            return nats[:, half:-1].mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state_ = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state_, value

    start, losses = time.monotonic(), []
    for i in range(args.steps):
        tokens = jnp.asarray(sequences(rng, args.batch_size, args))
        params, opt_state, value = step(params, opt_state, tokens, jax.random.fold_in(jax.random.key(args.seed), i))
        if i % 100 == 0 or i == args.steps - 1:
            losses.append((i, float(value)))
            print(f"{label(rounds)} step {i:,}: {float(value):.3f} nats, {time.monotonic() - start:,.0f} s", flush=True)
    seconds = time.monotonic() - start
    test = sequences(np.random.default_rng(args.seed + 1), args.test_sequences, args)
    accuracy = {label(other): measure(model(other, items), params, test, half) for other in ROUNDS}
    print(label(rounds), accuracy, flush=True)
    settings = {key: value for key, value in vars(args).items() if key not in ("output", "train")}
    return {"trained": label(rounds), **settings, "seconds": round(seconds, 1), "loss": losses, "accuracy": accuracy}


def measure(decoder, params, test, half) -> float:
    """Share of the second w that is predicted right."""
    predict = jax.jit(lambda params, tokens: jnp.argmax(decoder.apply(params, tokens)[0], axis=-1))
    right = [
        np.asarray(predict(params, jnp.asarray(rows[:, :-1])))[:, half:-1] == rows[:, half + 1 : -1]
        for rows in np.split(test, max(1, len(test) // 16))
    ]
    return float(np.mean(np.concatenate(right)))


if __name__ == "__main__":
    sys.exit(cli.run(main))
