"""What is said of labels whose windows lack days."""

import numpy as np

from fjq.studies.label_windows import LabelWindows


class Data:
    def rows(self, split):
        assert split == 'train'
        return make_rows(50)


def make_rows(count):
    valid = np.ones((count, 2), bool)
    valid[0] = False
    flags = np.zeros((count, 2), bool)
    short, unended = flags.copy(), flags.copy()
    short[:4, 1] = True
    unended[2:4, 1] = True
    return {'horizon': np.array([5, 30]), 'valid': valid, 'short': short, 'unended': unended}


def test_short_windows_are_counted_where_labels_are_valid():
    study = LabelWindows().run(None, Data(), 'test', [], make_rows(20), None)
    assert study.tables['Windows of the labels'] == [
        {'part': 'train', 'horizon': '5', 'labels': 49, 'short': 0, 'unended': 0},
        {'part': 'train', 'horizon': '30', 'labels': 49, 'short': 3, 'unended': 2},
        {'part': 'test', 'horizon': '5', 'labels': 19, 'short': 0, 'unended': 0},
        {'part': 'test', 'horizon': '30', 'labels': 19, 'short': 3, 'unended': 2},
    ]
    assert len(study.sentences) == 2
    assert study.sentences[1].startswith(
        'Of 19 labels of test, horizon 30, 3 have windows short of days (2 windows had not ended'
    )
