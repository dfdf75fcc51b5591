"""Rows whose targets do not overlap: what tests that assume independence may count."""

import numpy as np

from fjq import compare


def thin(rows: dict[str, np.ndarray], mask: np.ndarray, h: int) -> np.ndarray:
    """Places of rows of horizon h, each series apart, whose targets follow one another without overlap; in order of
    series and time. Without `label_end` there are none, because nobody knows."""
    if 'label_end' not in rows:
        return np.zeros(0, int)
    out = []
    for name in np.unique(rows['id']):
        of_id = np.flatnonzero(rows['id'] == name)
        columns = rows['time'][of_id], rows['label_end'][of_id, h], mask[of_id, h]
        out.append(of_id[compare.non_overlapping(*columns)])
    return np.concatenate(out)


def thin_moments(rows: dict[str, np.ndarray], mask: np.ndarray, h: int) -> np.ndarray:
    """Places of rows of horizon h, in order of time, one a moment, whose targets follow one another without overlap:
    rows of one moment move together. The series take turns. Without `label_end` there are none."""
    if 'label_end' not in rows:
        return np.zeros(0, int)
    kept = np.flatnonzero(mask[:, h])
    kept = kept[np.lexsort((rows['id'][kept], rows['time'][kept]))]
    time = rows['time'][kept]
    end = rows['label_end'][kept, h].astype(time.dtype)
    out, place = [], 0
    while place < len(kept):
        after = np.searchsorted(time, time[place], side='right')
        taken = place + len(out) % (after - place)
        out.append(taken)
        place = max(int(np.searchsorted(time, end[taken], side='left')), int(after))
    return kept[np.array(out, int)]
