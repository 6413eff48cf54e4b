"""Loops with bounds known at run time."""

import jax

from effjax.ops.loops import dynamic_loop


def test_counts_and_carries_its_label():
    def total(lo, hi):
        return dynamic_loop(lo, hi, lambda i, state: state + i, 0, mean_trips=2.5)

    assert total(2, 5) == 9
    assert total(5, 2) == 0
    loops = [e for e in jax.make_jaxpr(total)(2, 5).eqns if e.primitive.name == "while"]
    assert ["mean_trips=2.5" in str(e.source_info.name_stack) for e in loops] == [True]
