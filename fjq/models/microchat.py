"""The micro quant chat: a GPT on tokens of candles in four stages, which all forecast returns by sampled paths.

  pretrain, midtrain   the next token of packed windows, of many assets, then of some
  sft                  the next token of the future after a prompt
  rl                   rewards of paths sampled from the model, less their group's mean (REINFORCE, Williams 1992; the
                       group as baseline, Kool et al. 2019), held to the weights it started from by their KL divergence

Batches are those of `fjq.data.tokens.windows`. Where a batch forecasts, its first tokens are the prompt and the last
max(horizons) the future.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fjq.bridge import Pure
from fjq.checkpoint import Weights
from fjq.config import Experiment
from fjq.errors import InputError
from fjq.forecast import Samples
from fjq.forecast.law import concrete
from fjq.keys import make_key
from fjq.models import microchat_files
from fjq.models.gpt import Gpt, Model
from fjq.models.rewards import LEAST_PATHS, REWARDS
from fjq.models.rollouts import add_up, compare_with_group, path_returns, read_paths
from fjq.models.sampling import Sampling, generate, score
from fjq.task import Batch, Dataset, Loss
from fjq.trained import predict_rows

STAGES = ('pretrain', 'midtrain', 'sft', 'rl')
FREE = ('sft', 'rl')  # stages that train on rows that forecast, and are validated by sampled paths too
LOSSES_ON = ('horizon', 'full')


@dataclasses.dataclass(kw_only=True)
class Microchat:
    """A stage of a GPT, and how it forecasts."""

    stage: str = 'pretrain'  # 'pretrain', 'midtrain', 'sft' or 'rl'
    gpt: Gpt = dataclasses.field(default_factory=Gpt)
    horizons: tuple[int, ...] = (1, 8, 32)  # candles ahead that are forecast; must be the data's
    paths: int = 64  # sampled for each forecast
    sampling: Sampling = dataclasses.field(default_factory=Sampling)  # of forecasts; rl draws from the model as is
    loss_on: str = 'horizon'  # of sft: the tokens of the 'horizon', or of the 'full' row
    valid_paths: int = 16  # sampled for each validation row of sft and rl
    group: int = 8  # rl: paths of a row
    reward: str = 'crps'  # rl: see fjq.models.rewards
    standardised: bool = False  # rl: rewards of a group over their deviation
    kl_weight: float = 0.1  # rl: of the divergence from the reference
    entropy_weight: float = 0.01  # rl: of the entropy of the next token
    cost: float = 1e-3  # rl: of turning over a position once, for pnl and sharpe

    def build(self) -> 'MicrochatTask':
        for name, choices in (('stage', STAGES), ('loss_on', LOSSES_ON), ('reward', tuple(REWARDS))):
            if getattr(self, name) not in choices:
                raise InputError(
                    f'task.{name} is {getattr(self, name)!r}', remedy='choose one of ' + ', '.join(choices)
                )
        ahead = self.horizons
        if not ahead or min(ahead) < 1 or list(ahead) != sorted(set(ahead)):
            raise InputError(f'task.horizons is {ahead}', remedy='give ascending numbers from 1 on')
        least = {'paths': 1, 'valid_paths': 1, 'group': LEAST_PATHS.get(self.reward, 2)}
        for name, count in least.items():
            if getattr(self, name) < count:
                raise InputError(f'task.{name} is {getattr(self, name)}', remedy=f'make it {count} or more')
        for name in ('kl_weight', 'entropy_weight', 'cost'):
            if not getattr(self, name) >= 0:
                raise InputError(f'task.{name} is {getattr(self, name)}', remedy='make it 0 or more')
        self.gpt.check()
        self.sampling.check()
        return MicrochatTask(self)


class MicrochatTask:
    """`fjq.task.Task` of a stage. `extra` is empty but in rl, where `reference` is the policy that it started from."""

    bound_to = ('tokenizer', 'marks')

    def __init__(self, config: Microchat):
        self.config, self.horizon = config, max(config.horizons)
        self.pure = Pure(lambda rngs: Model(config.gpt, rngs=rngs))
        if config.stage == 'rl':
            self.prepare, self.conclude = self._roll_out, self._compare_with_start

    def init(self, key):
        params, _ = self.pure.init(key)
        return params, self._extra(params)

    def check(self, dataset: Dataset) -> None:
        """Raises InputError where tokens, lengths or horizons are not those of the model."""
        facts, gpt = dataset.fingerprint(), self.config.gpt
        if facts['vocabulary'] != gpt.vocabulary:
            raise InputError(
                f'the tokenizer has {facts["vocabulary"]} tokens and the model {gpt.vocabulary}',
                column='task.gpt.vocabulary',
                remedy='set it to that of the tokenizer, or name another tokenizer',
            )
        if len(facts.get('marks', ())) != gpt.marks:
            raise InputError(
                f'the data have {len(facts.get("marks", ()))} marks and the model {gpt.marks}',
                column='task.gpt.marks',
                remedy='set it to the number of data.marks',
            )
        if tuple(facts['horizons']) != tuple(self.config.horizons):
            raise InputError(
                f'the data forecast {tuple(facts["horizons"])} candles ahead and the model {self.config.horizons}',
                column='task.horizons',
                remedy='give the same to task.horizons and data.horizons',
            )
        longest = {'context': dataset.context + self.horizon - 1}
        if facts['layout'] == 'packed':
            longest['length'] = facts['length']
        for field, length in longest.items():
            if length > gpt.length:
                raise InputError(
                    f'rows of {length} tokens are longer than the model, {gpt.length}',
                    column=f'data.{field}',
                    remedy='shorten them, or train a model with a larger task.gpt.length',
                )
        if self.config.stage in FREE and facts['layout'] != 'forecast':
            raise InputError(
                f'the stage {self.config.stage} trains on rows that forecast',
                column='data.layout',
                remedy="set it to 'forecast'",
            )

    def begin(self, params, extra, dataset: Dataset):
        """The policy that rl starts from is its reference."""
        return params, self._extra(params)

    def loss(self, params, extra, batch: Batch, key) -> Loss:
        if 'rollouts' in batch:
            return self._reinforce(params, extra, batch)
        loss = self._next_token(params, extra, batch, key)
        if key is None and self.config.stage in FREE and 'target' in batch:
            loss = loss._replace(metrics=loss.metrics | self._free_running(params, batch))
        return loss

    def predict(self, params, extra, batch: Batch, key=None) -> Samples:
        """Cumulative log returns [B, H, paths]. A row's paths depend on its number and the key alone."""
        c = self.config
        prompt, keys = self._prompt(batch), fold_rows(jax.random.key(0) if key is None else key, batch['row'])
        ids = self.generate(params, prompt, keys, horizon=self.horizon, paths=c.paths, sampling=c.sampling)
        returns = path_returns(ids, batch['token_return'], batch['scale'], batch['scale_decay'])
        return Samples(jnp.moveaxis(add_up(returns, c.horizons), 1, 2))

    def generate(self, params, prompt_BxC, keys_B, *, horizon: int, paths: int, sampling: Sampling):
        """P continuations of each prompt -> ids int32 [B, P, horizon]; see `fjq.models.sampling.generate`.

        Raises:
          InputError: besides what `generate` refuses, a prompt with a token out of the vocabulary.
        """
        ids, last = concrete(prompt_BxC), self.config.gpt.vocabulary + self.config.gpt.marks - 1
        if ids is not None and (wrong := ids[(ids < 0) | (ids > last)].tolist()):
            raise InputError(
                f'the token {wrong[0]} is out of the vocabulary, 0 to {last}',
                remedy='give tokens of the tokenizer that the model was trained with',
            )
        run = lambda model: generate(model, prompt_BxC, keys_B, horizon=horizon, paths=paths, sampling=sampling)
        return self.pure.apply(params, {}, run)[0]

    def log_probabilities(self, params, extra, batch: Batch):
        """Of every token after each position: [B, L, V] for tokens [B, L + 1], in nats."""
        return jax.nn.log_softmax(self._logits(params, batch, None), axis=-1)

    def torch_files(self, experiment: Experiment, weights: Weights) -> dict[str, dict]:
        """`microchat_{stage}.pt`, see `fjq.models.microchat_files`."""
        return {f'microchat_{self.config.stage}.pt': microchat_files.checkpoint_file(self.config.gpt, weights)}

    def _compare_with_start(self, params, extra, dataset: Dataset) -> list[str]:
        """How often intervals of sampled paths hold what came, on validation, before rl and after it."""
        predict, out = jax.jit(self.predict), []
        for when, policy in (('before', extra['reference']), ('after', params)):
            law, rows = predict_rows(lambda batch, policy=policy: predict(policy, {}, batch), dataset, 'valid')
            shares = [f'{level:.0%} intervals cover {_list(covered(law, rows, level))}' for level in (0.8, 0.9)]
            out.append(f'calibration {when} rl, valid, horizons {_list(self.config.horizons)}: ' + '; '.join(shares))
        return out

    def _extra(self, params):
        return {'reference': jax.tree.map(jnp.copy, params)} if self.config.stage == 'rl' else {}

    def _prompt(self, batch: Batch):
        return batch['tokens'][:, : -self.horizon]

    def _logits(self, params, batch: Batch, key):
        """[B, L, V]. A row that forecasts is one segment, for which attention needs no mask."""
        segment = None if 'target' in batch else batch['segment'][:, :-1]
        return self.pure.apply(params, {}, Model.__call__, batch['tokens'][:, :-1], segment, key)[0]

    def _next_token(self, params, extra, batch: Batch, key) -> Loss:
        logits = self._logits(params, batch, key)
        token = batch['tokens'][:, 1:, None]
        counts = batch['counts'] & batch['mask'][:, None]
        if self.config.stage == 'sft' and self.config.loss_on == 'horizon':
            counts = counts & (jnp.arange(counts.shape[1]) >= counts.shape[1] - self.horizon)[None]
        chosen = jnp.take_along_axis(logits, token, -1)
        nats = jax.nn.logsumexp(logits, axis=-1) - chosen[..., 0]
        before = (logits == chosen) & (jnp.arange(logits.shape[-1])[None, None] < token)
        rank = ((logits > chosen) | before).sum(-1)
        weight = counts.sum().astype(jnp.float32)
        add = lambda x: jnp.where(counts, x, 0).sum().astype(jnp.float32)
        total = add(nats)
        metrics = {
            'bits': (total / np.log(2), weight),
            'accuracy': (add(rank == 0), weight),
            'top5': (add(rank < 5), weight),
        }
        return Loss(total, weight, metrics, extra)

    def _sample(self, params, batch: Batch, keys, paths: int):
        """Paths from the model as it is, beside what came."""
        ids = self.generate(params, self._prompt(batch), keys, horizon=self.horizon, paths=paths, sampling=Sampling())
        return read_paths(batch, ids, self.config.horizons)

    def _reward(self, rollouts):
        return REWARDS[self.config.reward](rollouts, self.config.gpt.vocabulary, self.config.cost)

    def _free_running(self, params, batch: Batch) -> dict:
        """Of paths sampled under keys that are always the same: tokens that came, CRPS, and the reward."""
        c = self.config
        paths = max(c.valid_paths, LEAST_PATHS.get(c.reward, 1))
        rollouts = self._sample(params, batch, fold_rows(make_key(0, 'validate'), batch['row']), paths)
        known = rollouts.known[:, None]
        hits = jnp.where(known, rollouts.ids == rollouts.token[:, None], False).sum().astype(jnp.float32)
        law = Samples(jnp.moveaxis(rollouts.ahead, 1, 2))
        score = jnp.where(rollouts.target_known, law.crps(rollouts.target), 0).sum()
        metrics = {
            'free_accuracy': (hits, paths * rollouts.known.sum().astype(jnp.float32)),
            'crps': (score, rollouts.target_known.sum().astype(jnp.float32)),
        }
        if c.stage == 'rl':
            metrics['reward'] = _mean_of_rows(self._reward(rollouts), rollouts.known)
        return metrics

    def _roll_out(self, params, extra, batch: Batch, key) -> Batch:
        """A group of paths for each row, what each did better than its group, and what the reference says of it."""
        keys = fold_rows(key, jnp.arange(batch['row'].shape[0]))
        rollouts = self._sample(params, batch, keys, self.config.group)
        reward = self._reward(rollouts)
        run = lambda model: score(model, self._prompt(batch), rollouts.ids)[0]
        return batch | {
            'rollouts': rollouts.ids,
            'reward': reward,
            'advantage': compare_with_group(reward, standardised=self.config.standardised),
            'reference': self.pure.apply(extra['reference'], {}, run)[0],
        }

    def _reinforce(self, params, extra, batch: Batch) -> Loss:
        """Sums over tokens of paths: - advantage log p - entropy_weight entropy + kl_weight KL, each token alike.

        KL is estimated by exp(d) - 1 - d with d = log p_reference - log p (Schulman 2020), never negative.
        """
        c = self.config
        log_p, entropy = self.pure.apply(
            params, {}, lambda model: score(model, self._prompt(batch), batch['rollouts'])
        )[0]
        known = batch['returns_mask'] & batch['mask'][:, None]
        counts = jnp.broadcast_to(known[:, None], log_p.shape)
        weight = counts.sum().astype(jnp.float32)
        add = lambda x: jnp.where(counts, x, 0).sum()
        gap = batch['reference'] - log_p
        gap = jnp.where(jnp.abs(gap) < ROUNDING, 0, gap)
        kl, entropy = add(jnp.expm1(gap) - gap), add(entropy)
        total = -add(batch['advantage'][..., None] * log_p) - c.entropy_weight * entropy + c.kl_weight * kl
        metrics = {
            'reward': _mean_of_rows(batch['reward'], known),
            'kl': (kl, weight),
            'entropy': (entropy, weight),
        }
        return Loss(total, weight, metrics, extra)


ROUNDING = 1e-5  # nats, below which two log-probabilities in float32 are the same


def covered(law: Samples, rows: dict[str, np.ndarray], level: float) -> list[str]:
    """The share of the known targets of each horizon that lie in the central interval."""
    low, high = (np.asarray(end) for end in law.interval(level))
    inside = (rows['target'] >= low) & (rows['target'] <= high)
    return [f'{i[v].mean():.1%}' if v.any() else 'none' for i, v in zip(inside.T, rows['valid'].T, strict=True)]


def _list(values) -> str:
    return ', '.join(map(str, values))


def fold_rows(key, row_B):
    """A key a row."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(row_B.astype(jnp.uint32))


def _mean_of_rows(value_BxP, known_BxT):
    """(sum over rows of their mean, rows), of rows of which some future is known."""
    rows = known_BxT.any(-1)
    return jnp.where(rows, value_BxP.mean(-1), 0).sum(), rows.sum().astype(jnp.float32)
