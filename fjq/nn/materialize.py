"""A border of fusion: values that a CPU computes once."""

import jax


def materialize(x):
    """x itself, written to memory where it stands.

    XLA on a CPU computes cheap values again for each of their readers: a residual stream is summed again from the first
    block on in every block, forward and backward. It also takes into a product what stands beside it, such as the
    exponential of attention, which is slower there. `jax.lax.optimization_barrier` is gone before it fuses; what leaves
    a branch is computed once and alone: a training step of the TCN takes a twelfth less, attention of 288 positions in
    bfloat16 a fifth. Elsewhere nothing happens.
    """
    return jax.lax.platform_dependent(x, cpu=_leave_branch, default=lambda x: x)


def _leave_branch(x):
    always = jax.lax.optimization_barrier(True)  # not known to be a constant
    return jax.lax.cond(always, lambda x: x, jax.lax.optimization_barrier, x)  # equal branches would be made one
