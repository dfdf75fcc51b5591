"""Checkpoints: one atomic Orbax step of state, data position and run facts, sealed by checksums.

Orbax writes a step to a temporary name and renames it, in the background. When the rename is done, the
step is sealed: `<step>.sha256.json` lists the checksum of every file, written last and atomically. A step
without a seal, or whose files do not match it, is passed over with a message and the one before it is used.
"""

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from fjq.errors import InputError
from fjq.log import say

_SEAL = '.sha256.json'


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
      folder: where the steps lie; made when absent.
      mode: 'min' or 'max', the better direction of the metric.
      keep_best: how many steps are kept by metric, besides the two newest.
      read_only: never writes or cleans up.
    """

    def __init__(self, folder: Path, *, mode: str = 'min', keep_best: int = 1, read_only: bool = False):
        if mode not in ('min', 'max'):
            raise InputError(f'train.mode is {mode!r}', remedy="choose 'min' or 'max'")
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._worst = math.inf if mode == 'min' else -math.inf
        self._mode = mode
        if read_only:
            self._manager = ocp.CheckpointManager(self.folder, options=ocp.CheckpointManagerOptions(read_only=True))
            return
        if jax.process_index() == 0:
            self._discard_unsealed()
        # Two newest: until the newest is sealed, the one before it is what a killed run falls back to.
        policy = keep.AnyPreservationPolicy(
            [
                keep.LatestN(2),
                keep.BestN(
                    get_metric_fn=_metric, reverse=mode == 'min', n=keep_best, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=_metric,
                best_mode=mode,
                preservation_policy=policy,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
        )

    def save(self, step: int, state: Any, facts: dict[str, Any], metric: float | None) -> None:
        """Starts saving a step; returns at once and finishes in the background.

        Args:
          state: the training state, a pytree of arrays.
          facts: JSON values: data position, best metric so far, fingerprints.
          metric: the validation figure at this step; None or non-finite ranks last.
        """
        if step in self._manager.all_steps():
            return
        value = metric if metric is not None and math.isfinite(metric) else self._worst
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), facts=ocp.args.JsonSave(facts)),
            metrics={'metric': value},
        )
        if not saved:
            raise RuntimeError(f'checkpoint {step} was not written')

    def steps(self) -> list[int]:
        """Sealed steps, oldest first."""
        return sorted(int(p.name.removesuffix(_SEAL)) for p in self.folder.glob('*' + _SEAL) if p.name[0].isdigit())

    def restore(self, like: Any, step: int | None = None) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest whole step (or the one named): (step, state, facts); None where there is none.

        Args:
          like: the state's shapes, dtypes and shardings (`jax.ShapeDtypeStruct` leaves).

        Raises:
          InputError: the checkpoint's parameters are of another model than `like`.
        """
        for candidate in [step] if step is not None else reversed(self.steps()):
            if fault := self.check(candidate):
                say(
                    f'checkpoint {candidate} is damaged ({fault}): kept as damaged-{candidate}, using the one before it'
                )
                if jax.process_index() == 0:
                    _set_aside(self.folder, candidate)
                self._manager.reload()
                continue
            facts = self._manager.restore(candidate, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
            try:
                state = self._manager.restore(
                    candidate, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
                ).state
            except ValueError as e:
                raise InputError(
                    'the checkpoint holds another model than the config describes ' + _first_line(e),
                    file=self.folder / str(candidate),
                    remedy='use the config it was trained with, or --fresh to start over',
                ) from e
            return candidate, state, facts
        return None

    def best_step(self) -> int | None:
        """The sealed step with the best finite metric, else the newest; None without any."""
        scores = {}
        for step in self.steps():
            path = self.folder / str(step) / 'metrics' / 'metrics'
            if path.is_file():
                value = json.loads(path.read_text())['metric']
                if math.isfinite(value):
                    scores[step] = value
        if not scores:
            return max(self.steps(), default=None)
        pick = min if self._mode == 'min' else max
        return pick(scores, key=lambda s: (scores[s], -s) if self._mode == 'min' else (scores[s], -s))

    def check(self, step: int) -> str:
        """'' for a whole step, else what is wrong with which file."""
        try:
            sums = json.loads((self.folder / f'{step}{_SEAL}').read_text())
        except (OSError, ValueError):
            return f'{step}{_SEAL} is unreadable'
        for name, digest in sums.items():
            path = self.folder / str(step) / name
            if not path.is_file():
                return f'{step}/{name} is missing'
            if _digest(path) != digest:
                return f'{step}/{name} does not match its checksum'
        return ''

    def wait(self) -> None:
        """Returns when everything saved so far is sealed."""
        self._manager.wait_until_finished()
        self._seal()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def _seal(self) -> None:
        if jax.process_index() != 0:
            return
        steps = {int(p.name) for p in self.folder.iterdir() if p.is_dir() and p.name.isdigit()}
        for step in sorted(steps - set(self.steps())):
            root = self.folder / str(step)
            sums = {p.relative_to(root).as_posix(): _digest(p) for p in sorted(root.rglob('*')) if p.is_file()}
            write_atomic(self.folder / f'{step}{_SEAL}', json.dumps(sums, indent=0).encode())
        for step in set(self.steps()) - steps:
            (self.folder / f'{step}{_SEAL}').unlink(missing_ok=True)

    def _discard_unsealed(self) -> None:
        sealed = set(self.steps())
        for path in self.folder.iterdir():
            if path.is_dir() and path.name.isdigit() and int(path.name) not in sealed:
                say(f'checkpoint {path.name} was cut off while it was written; using the one before it')
                shutil.rmtree(path)


class Weights(NamedTuple):
    """What inference needs of a checkpoint: averaged weights where the run kept them."""

    step: int
    params: dict[str, Any]
    extra: dict[str, Any]
    state: dict[str, Any]
    facts: dict[str, Any]


def read_params(workdir: Path, mode: str, step: int | None = None) -> Weights:
    """The best weights of a run (or those of one step), as NumPy arrays.

    Raises:
      InputError: the folder has no whole checkpoint.
    """
    folder = Path(workdir) / 'checkpoints'
    if not folder.is_dir():
        raise InputError('there is no checkpoint here', file=workdir, remedy='train first, or check --workdir')
    reader = Checkpoints(folder, mode=mode, read_only=True)
    candidates = (
        [step] if step is not None else [s for s in [reader.best_step(), *reversed(reader.steps())] if s is not None]
    )
    for candidate in candidates:
        if fault := reader.check(candidate):
            say(f'checkpoint {candidate} is damaged ({fault}); using another')
            continue
        restored = reader._manager.restore(
            candidate, args=ocp.args.Composite(state=ocp.args.StandardRestore(), facts=ocp.args.JsonRestore())
        )
        state = jax.tree.map(np.asarray, restored.state)
        return Weights(candidate, state.get('ema') or state['params'], state.get('extra') or {}, state, restored.facts)
    raise InputError('there is no whole checkpoint here', file=folder, remedy='train first, or choose another step')


def _metric(metrics: dict[str, float]) -> float:
    return metrics['metric']


def _set_aside(folder: Path, step: int) -> None:
    (folder / f'{step}{_SEAL}').unlink(missing_ok=True)
    aside = folder / f'damaged-{step}'
    shutil.rmtree(aside, ignore_errors=True)
    if (folder / str(step)).exists():
        os.replace(folder / str(step), aside)


def _digest(path: Path) -> str:
    with open(path, 'rb') as f:
        return hashlib.file_digest(f, 'sha256').hexdigest()


def _first_line(error: Exception) -> str:
    return '(' + str(error).strip().splitlines()[0][:160] + ')'


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: temporary name, flush to disk, rename."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    with open(temporary, 'wb') as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)
