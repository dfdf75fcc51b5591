"""Checkpoints: one atomic Orbax step of state, data position and run facts, sealed by checksums.

Orbax writes a step to a temporary name and renames it, in the background; then the step is sealed
(`fjq.seal`). A step without a seal, or whose files do not match it, is passed over with a message and the
one before it is used.
"""

import contextlib
import errno
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from fjq import seal
from fjq.atomic import write_atomic
from fjq.errors import InputError
from fjq.log import say
from fjq.mesh import from_first, wait_for_all
from fjq.paths import flatten

METRICS = 'metrics/metrics'  # file of a step, written by Orbax
_DISK_FAULTS = tuple(
    os.strerror(n)
    for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR)
)


class Checkpoints:
    """The checkpoints of one run folder, for the process (or processes) that train.

    Args:
      folder: where the steps lie; made when absent.
      mode: 'min' or 'max', the better direction of the metric.
      keep_best: how many steps are kept by metric, besides the two newest.
    """

    def __init__(self, folder: Path, *, mode: str = 'min', keep_best: int = 1):
        if mode not in ('min', 'max'):
            raise InputError(f'train.mode is {mode!r}', remedy="choose 'min' or 'max'")
        self.folder = Path(folder).absolute()
        self._sign = 1.0 if mode == 'min' else -1.0
        with _named_disk_faults(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                for step in seal.discard_unsealed(self.folder):
                    say(f'checkpoint {step} was cut off while it was written; using the one before it')
                for step in seal.steps(self.folder):
                    self._is_whole(step, under='metrics/')  # the manager reads these of every step
        wait_for_all('unsealed checkpoints are gone')
        # Two newest: until the newest is sealed, the one before it is what a killed run falls back to.
        policy = keep.AnyPreservationPolicy(
            [
                keep.LatestN(2),
                keep.BestN(get_metric_fn=_score, reverse=True, n=keep_best, keep_checkpoints_without_metrics=False),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=_score, best_mode='min', preservation_policy=policy, cleanup_tmp_directories=True
            ),
        )
        self._sealer = ThreadPoolExecutor(1, 'seal')
        self._sealing: Future | None = None

    def save(self, step: int, state: Any, facts: dict[str, Any], metric: float | None) -> None:
        """Starts saving a step; returns at once and finishes in the background.

        Args:
          state: the training state, a pytree of arrays.
          facts: JSON values: data position, best metric so far, fingerprints.
          metric: the validation figure at this step; None or non-finite ranks last.

        Raises:
          InputError: the disk is full or read-only, now or while the step before was written.
        """
        if step in self._manager.all_steps():
            return
        score = self._sign * metric if metric is not None and math.isfinite(metric) else math.inf
        self.wait()
        with _named_disk_faults(self.folder):
            if jax.process_index() == 0:
                _probe(self.folder)
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), facts=ocp.args.JsonSave(facts)),
                metrics={'score': score},
            )
        if not saved:
            raise RuntimeError(f'checkpoint {step} was not written')
        if jax.process_index() == 0:
            self._sealing = self._sealer.submit(self._seal, step)

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest whole step: (step, state, facts); None where there is none.

        Args:
          like: the state's shapes, dtypes and shardings (`jax.ShapeDtypeStruct` leaves).

        Raises:
          InputError: the checkpoint's parameters are of another model than `like`.
        """
        step = from_first(self._newest_whole() if jax.process_index() == 0 else -1)
        self._manager.reload()
        if step < 0:
            return None
        _check_model(self.folder / str(step), like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(like), facts=ocp.args.JsonRestore()),
        )
        return step, restored.state, restored.facts

    def wait(self) -> None:
        """Returns when everything saved so far is sealed.

        Raises:
          InputError: the disk is full or read-only.
        """
        with _named_disk_faults(self.folder):
            self._manager.wait_until_finished()
            if self._sealing is not None:
                sealing, self._sealing = self._sealing, None
                sealing.result()
                seal.drop_orphans(self.folder)

    def close(self) -> None:
        """Waits, then lets go of the threads, also where the last save failed."""
        try:
            self.wait()
            with _named_disk_faults(self.folder):
                self._manager.close()
        finally:
            self._sealer.shutdown()

    def _newest_whole(self) -> int:
        return next((step for step in reversed(seal.steps(self.folder)) if self._is_whole(step)), -1)

    def _is_whole(self, step: int, under: str = '') -> bool:
        fault = seal.check(self.folder, step, under)
        if fault:
            aside = seal.set_aside(self.folder, step)
            say(f'checkpoint {step} is damaged ({fault}): kept as {aside.name}, using the one before it')
        return not fault

    def _seal(self, step: int) -> None:
        while self._manager.is_saving_in_progress() and not (self.folder / str(step)).is_dir():
            time.sleep(0.005)
        if (self.folder / str(step)).is_dir():
            write_atomic(*seal.make(self.folder, step))


class Weights(NamedTuple):
    """What inference needs of a checkpoint: averaged weights where the run kept them."""

    step: int
    params: dict[str, Any]
    extra: dict[str, Any]
    state: dict[str, Any]
    facts: dict[str, Any]


def best_step(folder: Path) -> int | None:
    """The sealed step with the best finite metric, the earlier of equals; else the newest; None without any."""
    return next((step for step in _rank(folder) if not seal.check(folder, step, METRICS)), None)


def _rank(folder: Path) -> list[int]:
    """Sealed steps: those whose metric is damaged, any of which may be the best; then by it, the earlier of equals
    first; then those without one, the newest first."""

    def place(step: int) -> tuple[int, float, int]:
        if seal.check(folder, step, METRICS):
            return 0, 0.0, -step
        score = json.loads((folder / str(step) / METRICS).read_text())['score']
        return (1, score, step) if math.isfinite(score) else (2, 0.0, -step)

    return sorted(seal.steps(folder), key=place)


def read_params(workdir: Path, step: int | None = None) -> Weights:
    """The best weights of a run (or those of one step) as NumPy arrays, whatever devices it was trained on.

    Raises:
      InputError: the folder has no whole checkpoint.
    """
    folder = Path(workdir) / 'checkpoints'
    if not folder.is_dir():
        raise InputError('there is no checkpoint here', file=workdir, remedy='train first, or check --workdir')
    for candidate in [step] if step is not None else _rank(folder):
        if fault := seal.check(folder, candidate):
            say(f'checkpoint {candidate} is damaged ({fault}); using another')
            continue
        state, facts = _read_numpy(folder.absolute() / str(candidate))
        return Weights(candidate, state.get('ema') or state['params'], state.get('extra') or {}, state, facts)
    raise InputError('there is no whole checkpoint here', file=folder, remedy='train first, or choose another step')


def _check_model(path: Path, like: Any) -> None:
    """Compares names, shapes and dtypes before anything is read; Orbax would cast another dtype in silence."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        leaves = jax.tree.leaves(reader.metadata(path / 'state').item_metadata.tree)
    stored = {leaf.name: f'{leaf.dtype}{list(leaf.shape)}' for leaf in leaves}
    wanted = {name.replace('/', '.'): f'{leaf.dtype}{list(leaf.shape)}' for name, leaf in flatten(like).items()}
    different = [name for name in {**wanted, **stored} if stored.get(name) != wanted.get(name)]
    if different:
        name = min(different, key=lambda n: not n.startswith('params.'))
        raise InputError(
            f'the checkpoint holds another model than the config describes '
            f'({name!r} is {stored.get(name, "absent")} in it and {wanted.get(name, "absent")} in the model)',
            file=path,
            remedy='use the config it was trained with, or --fresh to start over',
        )


def _read_numpy(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    handler = ocp.PyTreeCheckpointHandler()  # the Checkpointer's own `metadata` warns of a file that no item has
    leaves = handler.metadata(path / 'state').tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), leaves)
    with ocp.Checkpointer(handler) as reader:
        state = reader.restore(path / 'state', args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return state, reader.restore(path / 'facts', args=ocp.args.JsonRestore())


def _score(metrics: dict[str, float]) -> float:
    return metrics['score']


@contextlib.contextmanager
def _named_disk_faults(folder: Path) -> Iterator[None]:
    """A full or read-only disk, also as tensorstore words it, becomes one line that says what to do."""
    try:
        yield
    except Exception as e:
        reason = next((f for f in _DISK_FAULTS if f.lower() in str(e).lower()), None)
        if reason is None:
            raise
        raise InputError(
            f'a checkpoint could not be written: {reason}',
            file=folder,
            remedy='make room or make the folder writable; the same command resumes from the last whole checkpoint',
        ) from e


def _probe(folder: Path) -> None:
    """Fails at once where Orbax would fail in the background, with threads that hold up the exit for minutes."""
    with tempfile.TemporaryDirectory(dir=folder, prefix='.probe-') as probe:
        (Path(probe) / 'file').write_bytes(bytes(4096))
