"""The one exception for input that the user can put right."""

import copyreg


class InputError(Exception):
    """The user's input is wrong; `fjq.launch` prints it as one line and exits with code 2.

    Args:
      what: what is wrong, a clause without a full stop.
      file: the file or flag it was found in.
      column: the column or config field.
      row: the first bad row, counted from 0 without the header.
      remedy: what the user should do, a clause without a full stop.
    """

    def __init__(
        self, what: str, *, file=None, column: str | None = None, row: int | None = None, remedy: str | None = None
    ):
        where = [str(file)] if file is not None else []
        if column is not None:
            where.append(f'column {column!r}')
        if row is not None:
            where.append(f'row {int(row)}')
        line = (', '.join(where) + ': ' if where else '') + what + '.'
        if remedy:
            line += f' {remedy[0].upper()}{remedy[1:]}.'
        super().__init__(' '.join(line.split()))
        self.what, self.file, self.column, self.row, self.remedy = what, file, column, row, remedy

    def __reduce__(self):
        # The finished line, not the constructor's arguments: an error that crossed processes reads the same.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__
