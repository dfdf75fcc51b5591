"""A border of fusion: values that a CPU computes once."""

import jax


def materialize(x):
    """x itself, written to memory where it stands.

    XLA on a CPU computes cheap values again for each of their readers, so a residual stream is summed again from the
    first block on in every block, forward and backward; `jax.lax.optimization_barrier` is gone before it fuses. What
    leaves a branch is computed once: a training step of the TCN takes a twelfth less. Elsewhere nothing happens.
    """
    return jax.lax.platform_dependent(x, cpu=_leave_branch, default=lambda x: x)


def _leave_branch(x):
    always = jax.lax.optimization_barrier(True)  # not known to be a constant
    return jax.lax.cond(always, lambda x: x, jax.lax.optimization_barrier, x)  # equal branches would be made one
