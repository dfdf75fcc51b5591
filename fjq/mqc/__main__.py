"""`python -m fjq.mqc` is `mqc`."""

from fjq.mqc.command import entry

entry()
