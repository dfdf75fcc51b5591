"""The optimiser: schedule, clipping, AdamW with decay and rates ruled by parameter path."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

from fjq.config import Optim
from fjq.errors import InputError
from fjq.paths import flatten, match_rules


def make_schedule(config: Optim, steps: int) -> optax.Schedule:
    """Linear warm-up to the peak, then a cosine to the final rate at update `steps`.

    The first update has the rate peak / warmup_steps: at a rate of 0 it would only move the moments.
    """
    if not 0 <= config.warmup_steps < max(steps, 1):
        raise InputError(
            f'optim.warmup_steps is {config.warmup_steps} in a run of {steps} steps',
            remedy='make it smaller than train.steps',
        )
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / max(config.warmup_steps, 1),
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=steps,
        end_value=config.final_learning_rate,
    )


def make_optimizer(config: Optim, steps: int, params: Any) -> optax.GradientTransformationExtraArgs:
    """AdamW (Loshchilov & Hutter, 2019) whose decay and rate are scaled leaf by leaf by the config's rules.

    Where `muon_rules` say 1, the direction is Muon's instead (Jordan, 2024): Nesterov momentum, orthogonalised over
    the last two axes (rows in, columns out), times sqrt(max(1, columns / rows)).

    Args:
      steps: updates over which the schedule runs.
      params: the parameters or their shapes; only paths are read.

    Returns:
      its `update` takes gradients of a sum with `scale`, 1 over what the sum is to be divided by.

    Raises:
      InputError: a rule that is malformed or a parameter without a rule.
    """
    decay = _factors(config.decay_rules, params, 'optim.decay_rules')
    rate = _factors(config.rate_rules, params, 'optim.rate_rules')
    if len(config.betas) != 2:
        raise InputError(f'optim.betas is {config.betas}', remedy='give two decays, as in (0.9, 0.999)')
    b1, b2 = config.betas
    return optax.chain(
        scale_and_clip(config.clip_norm),
        _direction(config, params, optax.scale_by_adam(b1=b1, b2=b2, eps=config.eps)),
        optax.stateless(lambda u, p: jax.tree.map(lambda u, p, d: u + config.weight_decay * d * p, u, p, decay)),
        optax.stateless(lambda u, _: jax.tree.map(lambda u, r: r * u, u, rate)),
        optax.scale_by_learning_rate(make_schedule(config, steps)),
    )


def scale_and_clip(most: float) -> optax.GradientTransformationExtraArgs:
    """Gradients times `scale`, an argument of `update`, and shrunk to the global norm `most`; 0 = as long as they are.

    One factor, so that what follows reads the gradients once: scaled first and then clipped they would be written out
    in between, a tenth of the training step of 18 M parameters on a CPU.
    """

    def update(grads, state, params=None, *, scale=1.0, **_):
        norm = optax.tree.norm(grads) * scale
        factor = scale * jnp.where(norm > most, most / norm, 1.0) if most else scale
        return jax.tree.map(lambda g: g * factor, grads), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _direction(config: Optim, params: Any, adam: optax.GradientTransformation) -> optax.GradientTransformation:
    by_muon = jax.tree.map(bool, _factors(config.muon_rules, params, 'optim.muon_rules'))
    if not any(jax.tree.leaves(by_muon)):
        return adam
    for path, leaf in flatten(params).items():
        if flatten(by_muon)[path] and len(leaf.shape) < 2:
            raise InputError(f'{path!r} of shape {leaf.shape} is no matrix', column='optim.muon_rules')
    axes = MuonDimensionNumbers(-2, -1)
    muon = optax.chain(
        optax.contrib.scale_by_muon(weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: axes, tree)),
        optax.stateless(lambda u, _: jax.tree.map(lambda x: x * max(1, x.shape[-1] / x.shape[-2]) ** 0.5, u)),
    )
    labels = jax.tree.map(lambda m: 'muon' if m else 'adam', by_muon)
    return optax.partition({'adam': adam, 'muon': muon}, labels)


def find_adam(opt: Any, params: Any) -> dict[str, Any] | None:
    """`count`, `mu` and `nu` in an optimiser state as a checkpoint gives it back (lists and dicts); None where Adam did
    not optimise all of `params`, as with Muon."""
    if isinstance(opt, dict) and {'count', 'mu', 'nu'} <= set(opt):
        return opt if flatten(opt['mu']).keys() == flatten(params).keys() else None
    parts = opt.values() if isinstance(opt, dict) else opt if isinstance(opt, list | tuple) else ()
    return next(filter(None, (find_adam(part, params) for part in parts)), None)


def _factors(rules: tuple[str, ...], params: Any, field: str) -> Any:
    def number(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise InputError(f'the rule value {text!r} is not a number', column=field) from None

    return jax.tree.map(number, match_rules(rules, params, field))
