"""The task of MIGT-TVDT: pinball loss in units of volatility, forecasts in units of returns."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjq import metrics
from fjq.bridge import Pure
from fjq.checkpoint import Weights
from fjq.config import Experiment
from fjq.errors import InputError
from fjq.feed import make_gather
from fjq.forecast import Quantiles
from fjq.models.migt import Migt, Model
from fjq.nn.quantile_heads import shrink_to_middle
from fjq.nn.revin import is_valid, standardize
from fjq.task import Batch, Loss, Shard

BATCHES = 8  # training batches that the window scales are measured on
DEAD = 1e-5  # the original centres a variable of no more spread and leaves its scale


class MigtTask:
    """`fjq.task.Task`. Beside the leaves of `fjq.task` a batch holds

    features [B, T, V] float32, valid bars first; length [B], their number; bar_in_day [B, T], day_of_week,
    day_of_month, day_of_year [B] int32; log_variance [B, K], of a bar at the window's end (`fjq.data.bars.scale`);
    target [B, H], log returns to each horizon; target_mask [B, H].
    """

    bound_to = ('features', 'minutes', 'horizons', 'scale')

    def __init__(self, config: Migt):
        self.config = config
        self.pure = Pure(lambda rngs: Model(config, rngs=rngs))
        self.init = self.pure.init
        self.figures = ('mae', 'width_80', 'coverage_80', *(f'coverage_80/{bars}' for bars in config.horizons))

    def loss(self, params, extra, batch: Batch, key) -> Loss:
        """The quantile CRPS (pinball losses weighted by trapezoids over the levels) in units of volatility; with
        `compat` the plain mean of pinball losses in units of the target."""
        forecast_BxHxQ, unit_BxH = self._forecast(params, extra, batch, key)
        mask_BxH = batch['target_mask'] & batch['mask'][:, None]
        target_BxH = jnp.where(mask_BxH, batch['target'], 0) / unit_BxH
        law = Quantiles(self.config.levels, forecast_BxHxQ)
        entries_BxH = _mean_pinball(law, target_BxH) if self.config.compat else law.crps(target_BxH)
        weights_H = jnp.asarray(self.config.horizon_weights or (1.0,) * len(self.config.horizons), jnp.float32)
        weight_BxH = jnp.where(mask_BxH, weights_H[None], 0)
        inside_H, count_H = metrics.coverage(target_BxH, law, mask_BxH, 0, level=0.8)
        each = {f'coverage_80/{bars}': (inside_H[h], count_H[h]) for h, bars in enumerate(self.config.horizons)}
        figures = each | {
            'coverage_80': (inside_H.sum(), count_H.sum()),
            'width_80': metrics.width(target_BxH, law, mask_BxH, level=0.8),
            'mae': metrics.mae(target_BxH, law, mask_BxH),
        }
        return Loss((weight_BxH * jnp.where(mask_BxH, entries_BxH, 0)).sum(), weight_BxH.sum(), figures, extra)

    def predict(self, params, extra, batch: Batch, key=None) -> Quantiles:
        """Quantiles of log returns [B, H, Q]; nothing is random."""
        forecast_BxHxQ, unit_BxH = self._forecast(params, extra, batch, None)
        return Quantiles(self.config.levels, forecast_BxHxQ * unit_BxH[..., None])

    def check(self, dataset: Any) -> None:
        """Raises InputError where the data have other features, horizons or a longer day than the model."""
        c, count = self.config, len(dataset.features)
        if count != c.variables:
            raise InputError(
                f'the data have {count} features and the model {c.variables} variables',
                column='task.variables',
                remedy=f'give the features of its training; for a new model set --config.task.variables={count}',
            )
        for name, given in (('horizons', tuple(dataset.horizons)), ('bars_per_day', dataset.bars_per_day)):
            ours = getattr(c, name)
            if (tuple(ours) if name == 'horizons' else ours) != given:
                raise InputError(
                    f'the data have {name} {given} and the model {ours}',
                    column=f'task.{name}',
                    remedy=f'give the data of its training; for a new model set --config.task.{name}={_as_flag(given)}',
                )

    def begin(self, params, extra, dataset: Any):
        """What is measured on training rows: the volatility that quantiles are units of, their start, which weights
        that were trained before (`init_from`) keep as it is, and the scales of windows."""
        if self.config.compat:
            return params, extra
        offset_SxH, weight_KxH = (np.asarray(x, np.float32) for x in dataset.scale)
        extra = extra | {'volatility': {'offset': offset_SxH, 'weight': weight_KxH}}
        if self.config.window_scale:
            extra = extra | {'window_scale': self._measure_scales(params, extra, dataset)}
        if np.any(params['heads']['out_proj']['kernel']):
            return params, extra
        quantiles_HxQ = np.asarray(dataset.standard_quantiles(self.config.levels), np.float64)
        if quantiles_HxQ.shape != (len(self.config.horizons), len(self.config.levels)):
            raise InputError(
                f'standard quantiles of shape {quantiles_HxQ.shape} for the horizons and levels of the model'
            )
        bias = shrink_to_middle(quantiles_HxQ).astype(np.float32)
        out_proj = params['heads']['out_proj'] | {'bias': bias}
        return params | {'heads': params['heads'] | {'out_proj': out_proj}}, extra

    def torch_files(self, experiment: Experiment, weights: Weights) -> dict[str, dict]:
        """`migt_best.pt`: with `compat` the original's keys; the state dict of `interop.migt_modules` in any case."""
        from fjq.models.migt_files import to_state_dict

        return {'migt_best.pt': to_state_dict(weights.params, weights.extra)}

    def _forecast(self, params, extra, batch: Batch, key):
        """(quantiles [B, H, Q], what they are in units of [B, H])."""
        if self.config.compat:
            batch = batch | {'features': standardize_window(batch)}
        run = lambda model: (model(batch, key), model.find_unit(batch))
        return self.pure.apply(params, extra, run)[0]

    def _measure_scales(self, params, extra, dataset) -> dict[str, np.ndarray]:
        """Mean and deviation of the log scales over the first training batches."""
        gather, batches = make_gather(dataset), dataset.train(0, Shard())
        measure = jax.jit(lambda batch: self.pure.apply(params, extra, Model.normalize, batch)[0][1])
        parts = []
        for i in range(BATCHES):
            batch = gather(batches[i])
            parts.append(np.asarray(measure(batch), np.float64)[np.asarray(batch['mask'])])
        scales = np.concatenate(parts)
        return {
            'centre': scales.mean(0).astype(np.float32),
            'spread': np.maximum(scales.std(0), 1e-3).astype(np.float32),
        }


def standardize_window(batch: Batch):
    """What the original's pipeline does before its model normalises again."""
    features = batch['features']
    return standardize(features, is_valid(batch['length'], features.shape[1]), floor=DEAD).x_BxTxV


def _as_flag(value: Any) -> str:
    """A number or a tuple as it is written on a command line."""
    return f'"{value}"' if isinstance(value, tuple) else str(value)


def _mean_pinball(law: Quantiles, target_BxH):
    levels = jnp.asarray(law.levels, jnp.float32)[None, None]
    error = target_BxH[..., None] - law.values
    return jnp.maximum(levels * error, (levels - 1) * error).mean(-1)
