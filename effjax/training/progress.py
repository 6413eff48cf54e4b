"""What a person sees while a run goes on: announced phases, one live line, speed and time left."""

import sys
import time

import jax

from effjax.accounting.flops import Flops, flop_breakdown
from effjax.accounting.topologies import peak_flops


class Console:
    """Prints, in process 0, each phase as it begins and, on a terminal, one line that is written over and over."""

    def __init__(self):
        self._start = time.monotonic()
        self._speaks = jax.process_index() == 0
        self._live = self._speaks and sys.stderr.isatty()
        self._width = 0

    def say(self, text: str) -> None:
        """One line, with the seconds since the start."""
        self._clear()
        if self._speaks:
            print(printable(f"[{time.monotonic() - self._start:8.1f} s] {text}"), flush=True)

    def live(self, text: str) -> None:
        """Replaces the live line; does nothing when standard error is not a terminal."""
        if self._live:
            print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)
            self._width = len(text)

    def _clear(self) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)
            self._width = 0


class Speed:
    """Tokens per second, utilisation and time left, over stretches of pure training.

    Args:
      step: the step training starts from.
      steps: the last step.
      tokens: targets per step.
      flops: model FLOPs per step (see `utilisation_flops`), None where no device's peak is known.
    """

    def __init__(self, *, step: int, steps: int, tokens: int, flops: float | None):
        self._steps, self._tokens, self._flops = steps, tokens, flops
        self._peak = (peak_flops(jax.devices()[0].device_kind) or 0.0) * jax.device_count()
        self.resume(step)

    def resume(self, step: int) -> None:
        """Starts the clock again, after whatever was no training: scoring, saving, compiling."""
        self._step, self._clock = step, time.monotonic()

    def read(self, step: int) -> tuple[dict[str, float], float]:
        """`(metrics, seconds left)` since the last `resume`; call it when `step` is computed, not only started."""
        seconds = (time.monotonic() - self._clock) / (step - self._step)
        metrics = {"tokens_per_second": self._tokens / seconds}
        if self._flops:
            metrics["mfu"] = self._flops / seconds / self._peak
        return metrics, seconds * (self._steps - step)


def printable(text: str) -> str:
    """The text with `?` for what standard output cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, errors="replace").decode(encoding)


def forward_flops(task, batch_size: int, params, batch, *, platform: str | None = None) -> Flops:
    """FLOPs of the training loss of one batch, forward only.

    Args:
      task: see `effjax.tasks`.
      batch_size: sequences of the batch.
      params, batch: arrays or shapes.
      platform: see `accounting.flops.flop_breakdown`.
    """

    def forward(params, batch, key):
        return task.loss(params, batch, task.initial_carry(batch_size), key=key, deterministic=False)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    return flop_breakdown(forward, params, batch, key, platform=platform)


def model_flops(forward: Flops) -> float:
    """What utilisation is measured against: 3 x the products of the forward pass, once for it and twice backward."""
    return 3 * (forward.matmul + forward.kernel)


def utilisation_flops(task, batch_size: int, params, batch) -> float | None:
    """`model_flops` of a training step; None where the device's peak is unknown and nothing is measured against it."""
    if peak_flops(jax.devices()[0].device_kind) is None:
        return None
    return model_flops(forward_flops(task, batch_size, params, batch))


def status(step: int, steps: int, metrics: dict[str, float], seconds_left: float) -> str:
    """The live line: `step 1,200/10,000  loss 1.234  bits_per_byte 1.780  91,022 tokens/s  MFU 41 %  ETA 0:12:08`."""
    parts = [f"step {step:,}/{steps:,}"]
    for name, value in metrics.items():
        if name == "tokens_per_second":
            parts.append(f"{value:,.0f} tokens/s")
        elif name == "mfu":
            parts.append(f"MFU {value:.0%}")
        elif name == "learning_rate":
            parts.append(f"lr {value:.2e}")
        else:
            parts.append(f"{name} {value:.3f}")
    minutes, seconds = divmod(round(seconds_left), 60)
    return "  ".join([*parts, f"ETA {minutes // 60}:{minutes % 60:02}:{seconds:02}"])
